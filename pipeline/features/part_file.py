"""An open part of a feature set: an Arrow IPC file with one tensor column."""

from dataclasses import dataclass

import pyarrow as pa

from pipeline.arrays import Array
from pipeline.errors import DataError, StoreError
from pipeline.features.part_layout import Layout, contains, layout_of
from pipeline.storage.arrow_files import DAMAGED, open_reader, open_source
from pipeline.storage.store_path import StorePath


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """The content of a part according to its manifest."""

    num_rows: int
    batch_rows: int
    type: pa.DataType
    num_bytes: int  # 0 if the manifest does not record it

    def rows_of(self, number: int) -> int:
        """Number of rows of a record batch; the last may be smaller."""
        return min(self.batch_rows, self.num_rows - number * self.batch_rows)


class PartFile:
    """A part, mapped from its copy in the node cache or from the local file, else read by ranges.

    Args:
        path: the file.
        expected: its content according to the manifest.
        copy: its copy in the cache, if any.
    Attributes:
        layout: where its rows are; None if they can only be read by record batches.
        num_bytes: size of the copy that it pins, 0 if none.
    Raises:
        MissingError, DataError, StoreError.
    """

    def __init__(self, path: StorePath, expected: Expected, copy: pa.Buffer | None) -> None:
        self._path, self._expected = path, expected
        source = open_source(path, mapped=True) if copy is None else pa.BufferReader(copy)
        self._mapped = source.read_buffer() if isinstance(source, pa.BufferReader) else None
        self._reader = open_reader(source, path)
        self.num_bytes = 0 if copy is None else copy.size
        self._check(source.size())
        self.layout: Layout | None = None
        if self._mapped is not None:
            first, last = self.batch(0), self.batch(self._reader.num_record_batches - 1)
            self.layout = layout_of(self._mapped, first, last)
        if self.layout:
            self._reader = None  # its layout is all that is needed

    def batch(self, number: int) -> Array:
        """Features of a record batch of a part without a layout, (B, *shape).

        Raises DataError if it is damaged or has other rows or nulls, StoreError.
        """
        try:
            batch = self._reader.get_batch(number)
            batch.validate()
        except DAMAGED as error:
            if isinstance(error, OSError) and self._mapped is None:
                raise StoreError(
                    f"{self._path} cannot be read ({error})", "run the command again"
                ) from error
            raise DataError(
                f"{self._path} is damaged in record batch {number} ({error})", "decode again"
            ) from error
        column, num_rows = batch.column(0), self._expected.rows_of(number)
        if len(column) != num_rows:
            raise DataError(
                f"{self._path}: record batch {number} has {len(column)} rows, not {num_rows}",
                "decode again",
            )
        if column.null_count or column.storage.flatten().null_count:
            raise DataError(
                f"{self._path}: column 'feature' contains nulls in record batch {number}",
                "decode again",
            )
        rows: Array = column.to_numpy_ndarray()
        return rows

    def maps(self, rows: Array) -> bool:
        """Whether rows are a view of the mapped file, which they keep open."""
        return self._mapped is not None and contains(self._mapped, rows)

    def _check(self, num_bytes: int) -> None:
        """Compare size, columns and number of record batches with the manifest."""
        reader, expected, path = self._reader, self._expected, self._path
        if expected.num_bytes not in (0, num_bytes):
            raise DataError(
                f"{path} has {num_bytes} bytes, but its manifest records {expected.num_bytes}",
                "decode again",
            )
        columns = [(field.name, field.type) for field in reader.schema]
        if columns != [("feature", expected.type)]:
            names = ", ".join(f"{name!r} of {kind}" for name, kind in columns[:5])
            raise DataError(
                f"{path} has the columns {names or '(none)'}, not 'feature' of {expected.type}",
                "decode again",
            )
        num_batches = -(-expected.num_rows // expected.batch_rows)
        if reader.num_record_batches != num_batches:
            raise DataError(
                f"{path} has {reader.num_record_batches} record batches, but the "
                f"{expected.num_rows} rows in its manifest make {num_batches}",
                "decode again",
            )
