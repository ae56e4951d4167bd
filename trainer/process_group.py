"""The processes that train together: who this one is, and the few words they exchange."""

from dataclasses import dataclass, field
from typing import TypeVar

import pyarrow as pa
import torch
import torch.distributed as dist
from torch import nn

from pipeline.storage.arrow_files import read_table, write_table
from pipeline.storage.store_path import StorePath

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """One of `size` processes; of one process, all exchanges are identities."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes the artifacts."""
        return self.rank == 0

    def broadcast(self, value: T) -> T:
        """The value that rank 0 holds, on every rank; also a barrier."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Every rank's small value, in the order of ranks, on every rank; also a barrier."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        dist.all_gather_object(values, value)
        return values

    def join_rows(self, folder: StorePath, mine: list[pa.Table]) -> pa.Table | None:
        """The rows of all ranks' tables, in the order of their column `row`, on rank 0; None elsewhere.

        Each rank writes its rows to a file of `folder`, which is removed once they are joined:
        through the backend they would take memory on every rank, and under NCCL on every GPU.
        """
        if self.size == 1:
            return pa.concat_tables(mine).combine_chunks()
        if mine:
            write_table(folder / f"rank-{self.rank}.arrow", pa.concat_tables(mine))
        written = self.gather(bool(mine))
        if not self.is_rank_zero:
            return None
        parts = [
            read_table(folder / f"rank-{rank}.arrow") for rank, has in enumerate(written) if has
        ]
        joined = pa.concat_tables(parts).sort_by("row").combine_chunks()
        folder.delete()
        return joined

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Gives every rank the buffers of rank 0, such as BatchNorm's running statistics, which differ where ranks saw other rows."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The elementwise sum over ranks."""
        if self.size > 1:
            dist.all_reduce(values)
        return values
