"""Rows of tables by number, a page or a stream at a time, read record batch by record batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DataError
from pipeline.storage.ipc_reader import locate
from pipeline.storage.schemas import PLAN
from service.store.reader import Artifact, StoreReader, reading


class Rows:
    """A table whose rows are asked for by number, a page at a time."""

    def __init__(self, reader: StoreReader, artifact: Artifact, expected: pa.Schema) -> None:
        self._artifact, self._file = artifact, reader.table(artifact, expected)
        self._ends = reader.remember(artifact, "ends", self._file.ends)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def items(self, start: int, num: int) -> list[dict[str, Any]]:
        """The rows from `start` on, at most `num`."""
        with reading(self._artifact):
            return [
                row
                for batch in self._file.slices(self._ends, start, num)
                for row in batch.to_pylist()
            ]


@dataclass(frozen=True, slots=True)
class Header:
    """What a plan file says of itself, and where its record batches end."""

    metadata: dict[str, Any]
    schema: pa.Schema
    ends: list[int]

    @property
    def num_steps(self) -> int:
        """The number of steps."""
        return self.ends[-1] if self.ends else 0


class Steps:
    """A plan's steps, read record batch by record batch."""

    def __init__(self, reader: StoreReader, artifact: Artifact, header: Header) -> None:
        self._file = reader.table(artifact, PLAN)
        self.header = header
        self._what = str(artifact.path)

    def __len__(self) -> int:
        return self.header.num_steps

    def modality(self, step: int, row: int) -> str:
        """What one step trains on a row of its own (raises DataError)."""
        if not 0 <= step < len(self):
            raise DataError(
                f"{self._what} has {len(self)} steps, but its index names step {step}",
                "plan the epoch again",
            )
        number, offset = locate(self.header.ends, step)
        if "assigned" not in self.header.schema.names:
            return str(self._file.batch(number, ["modality"]).column(0)[offset].as_py())
        found = self._file.batch(number).slice(offset, 1).to_pylist()[0]
        owner = found["assigned"][found["rows"].index(row)]
        return str(found["modality"] if owner < 0 else self.header.metadata["modalities"][owner])

    def batches(
        self, start: int, modality: str | None = None, num: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The steps from `start` on, of one modality or of all, at most `num` (raises DataError)."""
        left = len(self) if num is None else num
        for batch in self._file.slices(self.header.ends, start, len(self) if modality else left):
            chosen = (
                batch.filter(pc.equal(batch.column("modality"), modality)) if modality else batch
            )
            chosen = chosen.slice(0, left)
            left -= chosen.num_rows
            if chosen.num_rows:
                yield chosen
            if not left:
                return
