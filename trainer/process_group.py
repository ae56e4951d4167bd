"""The group of training processes and its collective operations."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import pyarrow as pa
import torch
import torch.distributed as dist

from pipeline.storage.arrow_files import read_table, write_table
from pipeline.storage.store_path import StorePath

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Rank, size and device of this process; with one process, collectives return their input.

    Collectives must be called by every rank. `node_size` is the number of ranks on this node.
    """

    rank: int = 0
    size: int = 1
    node_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes artifacts."""
        return self.rank == 0

    def broadcast(self, value: T) -> T:
        """Return rank 0's value on every rank; also a barrier."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, ordered by rank; also a barrier. For small values."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        dist.all_gather_object(values, value)
        return values

    def join_rows(self, folder: StorePath, tables: list[pa.Table]) -> pa.Table | None:
        """Concatenate all ranks' tables, sorted by column `row`, on rank 0; None on other ranks.

        Ranks exchange rows through files in `folder`, which is removed afterwards: a collective
        would take memory on every rank, and on every GPU under NCCL.
        """
        if self.size == 1:
            return pa.concat_tables(tables).combine_chunks()
        if tables:
            write_table(folder / f"rank-{self.rank}.arrow", pa.concat_tables(tables))
        has_rows = self.gather(bool(tables))
        joined = None
        if self.is_rank_zero:
            files = [folder / f"rank-{rank}.arrow" for rank, has in enumerate(has_rows) if has]
            joined = pa.concat_tables(map(read_table, files)).sort_by("row").combine_chunks()
            folder.delete()
        self.gather(None)  # the next tables may be written to the same folder
        return joined

    def broadcast_tensors(self, tensors: Iterable[torch.Tensor]) -> None:
        """Copy rank 0's values of weights or buffers to all ranks."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.data, src=0)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum elementwise over ranks."""
        if self.size > 1:
            dist.all_reduce(values)
        return values
