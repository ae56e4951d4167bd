"""Plans: which rows share a batch, which modality the batch trains, and in what order."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import DataError
from pipeline.plans.validation import check_plan
from pipeline.storage.arrow_files import read_table
from pipeline.storage.metadata import read_metadata
from pipeline.storage.schemas import PLAN, check_columns
from pipeline.storage.store_path import StorePath


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One global step: all ranks train `modality` (or "all") on `rows` together."""

    step: int
    modality: str
    rows: npt.NDArray[np.int64]
    assigned: npt.NDArray[np.int8] | None = None
    """(n,) of a batch whose rows train different modalities: the index of each row's among the plan's modalities, -1 for all of them."""

    @property
    def rows_hash(self) -> str:
        """The first 16 hex digits of the SHA-256 of its rows as int64: what the log of a run keeps of them."""
        return hashlib.sha256(np.ascontiguousarray(self.rows, np.int64).data).hexdigest()[:16]

    def for_rank(self, rank: int, world_size: int) -> npt.NDArray[np.int64]:
        """The contiguous slice of the global batch that is this rank's; slices differ in size by at most one."""
        return self.rows[self.slice_of(rank, world_size)]

    def slice_of(self, rank: int, world_size: int) -> slice:
        """Where in the global batch this rank's rows are."""
        num = len(self.rows)
        return slice(num * rank // world_size, num * (rank + 1) // world_size)

    def trained(self, modalities: Sequence[str]) -> npt.NDArray[np.bool_]:
        """(n, K): which modalities each row of a mixed batch trains, as far as it has them."""
        assert self.assigned is not None, "the rows of this batch train the same"
        trained: npt.NDArray[np.bool_] = (self.assigned[:, None] == np.arange(len(modalities))) | (
            self.assigned[:, None] < 0
        )
        return trained


class BatchPlan:
    """A plan as its table: one row a global step, in order.

    Example:
        plan = remix.BatchPlan.open("store/runs/demo/plans/epoch-0011.arrow")
        for step in plan.steps():
            print(step.step, step.modality, step.rows)
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.metadata: dict[str, Any] = read_metadata(table.schema)

    @classmethod
    def open(
        cls,
        path: "str | os.PathLike[str] | StorePath",
        *,
        trusted: bool = False,
        num_rows: int | None = None,
    ) -> "BatchPlan":
        """Memory-maps a plan file.

        Unless this run wrote it, it is checked in full, against the `num_rows` of the features too.
        Raises MissingError, DataError, StoreError.
        """
        store_path = StorePath.at(path)
        table = read_table(store_path, trusted=trusted)
        check_columns(table.schema, PLAN, str(store_path))
        if not trusted:
            check_plan(
                table.to_batches,
                table.schema,
                read_metadata(table.schema, str(store_path)),
                str(store_path),
                num_rows,
            )
        return cls(table)

    @property
    def fingerprint(self) -> str:
        """The hash of the plan's content and metadata."""
        if "fingerprint" not in self.metadata:
            raise DataError(
                "the plan has no fingerprint in its metadata", "give a plan that Remix wrote"
            )
        return str(self.metadata["fingerprint"])

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def steps(self, start: int = 0) -> Iterator[Step]:
        """The steps from `start` on, read record batch by record batch."""
        for batch in self.table.slice(start).to_batches():
            modalities = batch.column("modality").to_pylist()
            numbers = batch.column("step").to_pylist()
            rows = batch.column("rows")
            offsets, values = rows.offsets.to_numpy(), rows.values.to_numpy()
            mixed = batch.column("assigned") if "assigned" in batch.schema.names else None
            bounds, owners = (
                (mixed.offsets.to_numpy(), mixed.values.to_numpy())
                if mixed is not None
                else (offsets, None)
            )
            for i, (step, modality) in enumerate(zip(numbers, modalities, strict=True)):
                own = None if owners is None else owners[bounds[i] : bounds[i + 1]]
                yield Step(
                    step=step,
                    modality=modality,
                    rows=values[offsets[i] : offsets[i + 1]],
                    assigned=own,
                )
