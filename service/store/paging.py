"""Random access to the rows of Arrow files, reading only the record batches needed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.arrays import Int64Array
from pipeline.errors import DataError, MissingError
from pipeline.storage.ipc_reader import locate
from pipeline.storage.schemas import PLAN
from service.store.reader import Artifact, StoreReader, reading


class Rows:
    """A table that is read in pages."""

    def __init__(self, reader: StoreReader, artifact: Artifact, expected: pa.Schema) -> None:
        self.artifact, self._file = artifact, reader.table(artifact, expected)
        self._ends = reader.cached(artifact, "ends", self._file.ends)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def version(self) -> str:
        """Identifies the content of the file."""
        return repr(self.artifact.version)

    def schema(self, columns: Sequence[str] | None = None) -> pa.Schema:
        """The schema of these columns, in their order; by default of all. Raises MissingError."""
        schema = self._file.schema
        for name in columns or ():
            if name not in schema.names:
                raise MissingError(
                    f"Column not in {self.artifact.path.name}: {name!r}",
                    f"Choose from {', '.join(schema.names)}",
                )
        if columns:
            schema = pa.schema([schema.field(name) for name in columns], schema.metadata)
        return schema

    def batches(self, schema: pa.Schema, start: int, num: int) -> Iterator[pa.RecordBatch]:
        """At most `num` rows from `start` on, of the columns of a schema. Raises DataError."""
        with reading(self.artifact):
            for batch in self._file.slices(self._ends, start, num):
                yield batch.select(schema.names)

    def items(self, start: int, num: int) -> list[dict[str, Any]]:
        """At most `num` rows, beginning with row `start`."""
        with reading(self.artifact):
            return [
                row
                for batch in self._file.slices(self._ends, start, num)
                for row in batch.to_pylist()
            ]

    def columns(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """These columns of all record batches. Raises DataError."""
        with reading(self.artifact):
            yield from self._file.batches(names)

    def take(self, positions: Int64Array, names: Sequence[str]) -> pa.Table:
        """These columns of the rows at (n,) positions, in their order.

        Reads the record batches that contain the rows, one after the other. Raises DataError.
        """
        order = np.argsort(positions, kind="stable")
        ordered = positions[order]
        numbers = np.searchsorted(self._ends, ordered, side="right")
        parts = [self.schema(names).empty_table()]
        with reading(self.artifact):
            for number in np.unique(numbers).tolist():
                within = ordered[numbers == number] - (self._ends[number - 1] if number else 0)
                batch = self._file.batch(number, names).take(pa.array(within))
                parts.append(pa.Table.from_batches([batch.select(names)]))
            return pa.concat_tables(parts).take(pa.array(np.argsort(order)))


@dataclass(frozen=True, slots=True)
class Header:
    """Metadata and schema of a plan file, and the last step + 1 of each record batch."""

    metadata: dict[str, Any]
    schema: pa.Schema
    ends: list[int]

    @property
    def num_steps(self) -> int:
        """The number of steps."""
        return self.ends[-1] if self.ends else 0


class Steps:
    """The steps of a plan, read one record batch at a time."""

    def __init__(self, reader: StoreReader, artifact: Artifact, header: Header) -> None:
        self.artifact, self._file = artifact, reader.table(artifact, PLAN)
        self.header = header

    def __len__(self) -> int:
        return self.header.num_steps

    def modality(self, step: int, row: int) -> str:
        """The modality that a row of the step trains. Raises DataError if there is no such step."""
        if not 0 <= step < len(self):
            raise DataError(
                f"Damaged index of {self.artifact.path}: step {step} of {len(self)} steps",
                "Plan the epoch again",
            )
        number, offset = locate(self.header.ends, step)
        if "assigned" not in self.header.schema.names:
            return str(self._file.batch(number, ["modality"]).column(0)[offset].as_py())
        fields = self._file.batch(number).slice(offset, 1).to_pylist()[0]
        assigned = fields["assigned"][fields["rows"].index(row)]
        if assigned < 0:
            return str(fields["modality"])
        return str(self.header.metadata["modalities"][assigned])

    def batches(
        self, start: int, modality: str | None = None, num: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """At most `num` steps from `start` on, optionally of one modality. Raises DataError."""
        remaining = len(self) if num is None else num
        for batch in self._file.slices(
            self.header.ends, start, len(self) if modality else remaining
        ):
            if modality:
                batch = batch.filter(pc.equal(batch.column("modality"), modality))
            batch = batch.slice(0, remaining)
            remaining -= batch.num_rows
            if batch.num_rows:
                yield batch
            if not remaining:
                return
