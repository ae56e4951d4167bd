"""Batch plans: the rows and the modality of every global step of an epoch, in order."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.arrays import BoolArray, Int8Array, Int64Array
from pipeline.errors import DataError
from pipeline.plans.validation import check_plan
from pipeline.storage.arrow_files import read_table
from pipeline.storage.metadata import read_metadata
from pipeline.storage.schemas import ALL, PLAN, PLANNED_ROWS, check_columns
from pipeline.storage.store_path import StorePath

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One global step: the ranks together train `modality` (or "all") on `rows`."""

    step: int
    modality: str
    rows: Int64Array
    assigned: Int8Array | None = None
    """Mixed batches only, (n,): index of the modality that each row trains, -1 for all of them."""

    @property
    def rows_hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the rows as int64, as a run's log of steps has."""
        return hashlib.sha256(np.ascontiguousarray(self.rows, np.int64).data).hexdigest()[:16]

    def for_rank(self, rank: int, world_size: int) -> Int64Array:
        """Rows of one rank: a contiguous slice of the global batch; sizes differ by at most one."""
        return self.rows[self.slice_of(rank, world_size)]

    def slice_of(self, rank: int, world_size: int) -> slice:
        """Positions of one rank's rows in the global batch."""
        num = len(self.rows)
        return slice(num * rank // world_size, num * (rank + 1) // world_size)

    def trained(self, modalities: Sequence[str]) -> BoolArray:
        """Mixed batches only, (n, K): which modalities each row trains, present or not."""
        assert self.assigned is not None, "all rows of this batch train the same modality"
        trained: BoolArray = (self.assigned[:, None] == np.arange(len(modalities))) | (
            self.assigned[:, None] < 0
        )
        return trained


class BatchPlan:
    """A plan: a table with one row per global step, in order.

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
        """Memory-map a plan file and check it.

        Args:
            path: A local path or a pyarrow.fs URI.
            trusted: Skip all checks of the content; for a plan that this process wrote.
            num_rows: Number of rows of the features; a plan with other rows is an error.
        Raises:
            MissingError: the file does not exist.
            DataError: the file is damaged, or not a valid plan.
            StoreError: the store cannot be read.
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
        """Hash of the plan's content and metadata. Raises DataError if the file has none."""
        if "fingerprint" not in self.metadata:
            raise DataError(
                "metadata 'remix.fingerprint' of the plan is missing", "use a plan that Remix wrote"
            )
        return str(self.metadata["fingerprint"])

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def to_pandas(self) -> "pandas.DataFrame":
        """The planned rows as a data frame: step, modality, row.

        The modality is what the row trains, "all" in warm-up.
        """
        modalities = self.metadata.get("modalities", [])
        batches = [planned_rows(batch, modalities) for batch in self.table.to_batches()]
        return pa.Table.from_batches(batches, PLANNED_ROWS).to_pandas()

    def steps(self, start: int = 0) -> Iterator[Step]:
        """Yield the steps from `start` on, reading one record batch at a time."""
        for batch in self.table.slice(start).to_batches():
            modalities = batch.column("modality").to_pylist()
            numbers = batch.column("step").to_pylist()
            rows = batch.column("rows")
            offsets, values = rows.offsets.to_numpy(), rows.values.to_numpy()
            mixed = batch.column("assigned") if "assigned" in batch.schema.names else None
            bounds, assignment = (
                (mixed.offsets.to_numpy(), mixed.values.to_numpy())
                if mixed is not None
                else (offsets, None)
            )
            for i, (step, modality) in enumerate(zip(numbers, modalities, strict=True)):
                assigned = None if assignment is None else assignment[bounds[i] : bounds[i + 1]]
                yield Step(
                    step=step,
                    modality=modality,
                    rows=values[offsets[i] : offsets[i + 1]],
                    assigned=assigned,
                )


def planned_rows(batch: pa.RecordBatch, modalities: Sequence[str]) -> pa.RecordBatch:
    """The steps of a record batch of a plan as PLANNED_ROWS."""
    steps = pc.list_parent_indices(batch.column("rows"))
    trained = batch.column("modality").take(steps)
    if "assigned" in batch.schema.names:
        assigned = pc.list_flatten(batch.column("assigned")).to_numpy()
        # -1, for all of them, is the last name
        names = pa.array([*modalities, ALL])
        trained = names.take(pa.array(np.where(assigned < 0, len(modalities), assigned)))
    columns = [batch.column("step").take(steps), trained, pc.list_flatten(batch.column("rows"))]
    return pa.RecordBatch.from_arrays(columns, schema=PLANNED_ROWS)
