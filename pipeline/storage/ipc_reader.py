"""Reads Arrow IPC files record batch by record batch, in the memory of one batch.

Files are not memory-mapped: if a file is truncated meanwhile, a read raises an error, but a
map would kill the process with SIGBUS. Each batch is fully validated before it is returned.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from threading import Lock
from typing import Any

import pyarrow as pa

from pipeline.errors import DataError
from pipeline.storage.arrow_files import CURE, DAMAGED, open_reader, open_source, read_error
from pipeline.storage.metadata import read_metadata
from pipeline.storage.schemas import check_columns
from pipeline.storage.store_path import StorePath


class BatchFile:
    """An open Arrow IPC file. Threads may share it.

    Args:
        path: the file.
        expected: columns that the file must have; only floating-point columns may contain nulls.
        copy: content of the file from the node cache, read instead of the file.
    Raises:
        MissingError, DataError, StoreError.
    """

    def __init__(
        self, path: StorePath, expected: pa.Schema | None = None, *, copy: pa.Buffer | None = None
    ) -> None:
        self.what = str(path)
        self._path = path
        self._source = open_source(path) if copy is None else pa.BufferReader(copy)
        self._lock = Lock()
        self._readers: dict[tuple[str, ...] | None, Any] = {}
        reader = self._reader(None)
        self.schema: pa.Schema = reader.schema
        self.num_batches = int(reader.num_record_batches)
        self._not_null: frozenset[str] = frozenset()
        if expected is not None:
            check_columns(self.schema, expected, self.what)
            self._not_null = frozenset(
                field.name for field in expected if not pa.types.is_floating(field.type)
            )
        self.metadata: dict[str, Any] = read_metadata(self.schema, self.what)

    def batch(self, number: int, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """Read and validate one record batch, all columns or only `columns`.

        Raises DataError, StoreError.
        """
        try:
            with self._lock:
                batch = self._reader(None if columns is None else tuple(columns)).get_batch(number)
            batch.validate(full=True)
        except DAMAGED as error:
            what = f"{self.what} is damaged in record batch {number}"
            raise read_error(error, self._source, self._path, what) from error
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name in self._not_null and (
                column.null_count or (pa.types.is_list(column.type) and column.flatten().null_count)
            ):
                raise DataError(
                    f"{self.what}: column {name!r} contains nulls in record batch {number}", CURE
                )
        return batch

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All record batches in order."""
        for number in range(self.num_batches):
            yield self.batch(number, columns)

    def ends(self) -> list[int]:
        """Cumulative number of rows at the end of each record batch; reads one narrow column."""
        narrow = [
            field.name
            for field in sorted(
                self.schema, key=lambda field: not pa.types.is_primitive(field.type)
            )[:1]
        ]
        return list(accumulate(batch.num_rows for batch in self.batches(narrow)))

    def slices(self, ends: Sequence[int], start: int, num: int) -> Iterator[pa.RecordBatch]:
        """Read rows [start, start + num) as slices of record batches.

        `ends` is the result of `ends()`, which a caller may reuse.
        """
        number, offset = locate(ends, start)
        while num > 0 and number < len(ends):
            batch = self.batch(number).slice(offset, num)
            yield batch
            num, number, offset = num - batch.num_rows, number + 1, 0

    def _reader(self, columns: tuple[str, ...] | None) -> Any:
        if columns not in self._readers:
            included = (
                [] if columns is None else [self.schema.names.index(name) for name in columns]
            )
            options = pa.ipc.IpcReadOptions(included_fields=included, use_threads=False)
            self._readers[columns] = open_reader(self._source, self._path, options)
        return self._readers[columns]


def locate(ends: Sequence[int], row: int) -> tuple[int, int]:
    """The record batch that contains a row, and the row's position in it."""
    number = bisect_right(ends, row)
    return number, row - (ends[number - 1] if number else 0)
