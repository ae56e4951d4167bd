"""How any plan is made: rows are chosen per modality, shuffled within windows, cut into batches and put in order, a bounded number at a time.

A window is what is shuffled together: all rows, or those of `locality` consecutive rows of the features. Every modality runs through the
windows by itself, so a plan of any length needs the memory of some windows and batches (and 24 bytes a window for their order).
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.arrays import Int64Array
from pipeline.counter_rng import Purpose, hashes, key_of
from pipeline.errors import ConfigError, DataError
from pipeline.plans.config import PlanConfig
from pipeline.plans.ordering import merge, sort_positions, spread_positions
from pipeline.storage.arrow_files import blocks, column
from pipeline.storage.metadata import Fingerprinter, encode_metadata
from pipeline.storage.schemas import MIXED_PLAN, PLAN

Choose = Callable[[pa.Table], npt.NDArray[np.int8]]

CHUNK_ROWS = 2**20
"""About how many rows a record batch of a plan holds."""
GROUP_ROWS = 2**16
"""Small windows are worked on together until they have so many rows."""
MAX_BATCH_SIZE = 2**30
COPY_BITS = 40
"""A row's copies, where the table says which it is, are shuffled as rows that lie so far apart."""
OWNER_BITS = 8
"""Of a mixed plan, the bits behind a row that say which modality it trains, from 1 up; 0: all."""


class PlanBuilder:
    """A plan that is made while it is read: `table` has the eligible rows in ascending order, `choose` gives any slice's index into `names`.

    With `owners`, any slice's modalities (-1: all), batches are mixed, and each of their rows says which it trains.
    """

    def __init__(
        self,
        table: pa.Table,
        names: list[str],
        choose: Choose,
        *,
        config: PlanConfig,
        batch_size: int,
        seed: int,
        epoch: int,
        metadata: Mapping[str, object],
        owners: Choose | None = None,
    ) -> None:
        if not 1 <= batch_size <= MAX_BATCH_SIZE:
            raise ConfigError(
                f"batch size is {batch_size}", f"give a number from 1 to {MAX_BATCH_SIZE}"
            )
        if not table.num_rows:
            raise DataError("there is no eligible row to plan", "give a split that has samples")
        self.names = names
        self._table = table
        self._choose = choose
        self._owners = owners
        self._kind = MIXED_PLAN if owners else PLAN
        self._config = config
        self._batch_size = batch_size
        self._seed = (seed, epoch)
        self.metadata: dict[str, Any] = {
            "epoch": epoch,
            "seed": seed,
            "batch_size": batch_size,
            **metadata,
        }
        self._groups = _groups(table, config.locality, key_of(seed, epoch, Purpose.WINDOWS))
        # without `locality` there is one group, which every modality asks for
        self._chosen = lru_cache(maxsize=1)(self._choose_group)
        self._ordered = lru_cache(maxsize=2)(self._order_group)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The plan's steps in order, as record batches of bounded size; the same at every call."""
        counts = sum(
            (
                np.bincount(self._chosen(group), minlength=len(self.names))
                for group in range(len(self._groups))
            ),
            np.zeros(len(self.names), np.int64),
        )
        num_steps = -(-counts // self._batch_size)
        streams = [_Stream(self._ordered, len(self._groups), k) for k in range(len(self.names))]
        done = np.zeros(len(self.names), np.int64)
        for block in self._step_blocks(num_steps):
            sizes = np.empty(len(block), np.int64)
            for k in np.unique(block):
                steps = np.arange(done[k], done[k] + np.count_nonzero(block == k) + 1)
                sizes[block == k] = np.diff(counts[k] * steps // num_steps[k])
            rows = _weave(
                [stream.take(int(sizes[block == k].sum())) for k, stream in enumerate(streams)],
                np.repeat(block, sizes),
            )
            offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
            numbers = pa.array(np.arange(done.sum(), done.sum() + len(block), dtype=np.int32))
            values = (
                [rows >> OWNER_BITS, ((rows & ((1 << OWNER_BITS) - 1)) - 1).astype(np.int8)]
                if self._owners
                else [rows]
            )
            lists = [pa.ListArray.from_arrays(pa.array(offsets), pa.array(each)) for each in values]
            yield pa.record_batch(
                [numbers, pa.array(self.names).take(pa.array(block)), *lists], schema=self._kind
            )
            done += np.bincount(block, minlength=len(self.names))

    def schema(self) -> pa.Schema:
        """The plan's schema with its metadata and fingerprint; makes the plan once to hash it."""
        content = Fingerprinter(self._kind)
        for batch in self.batches():
            content.update(batch)
        return self._kind.with_metadata(
            encode_metadata({**self.metadata, "fingerprint": content.hexdigest(self.metadata)})
        )

    def _step_blocks(self, num_steps: Int64Array) -> Iterator[Int64Array]:
        num_per_block = max(1, CHUNK_ROWS // self._batch_size)
        if self._config.order == "interleaved":
            yield from (
                block
                for block in merge(
                    num_steps.tolist(), key_of(*self._seed, Purpose.STEPS), num_per_block
                )
                if len(block)
            )
            return
        for k, num in enumerate(num_steps.tolist()):
            for start in range(0, num, num_per_block):
                yield np.full(min(num_per_block, num - start), k)

    def _slice(self, group: int) -> pa.Table:
        return pa.concat_tables(
            [self._table.slice(start, stop - start) for start, stop in self._groups[group].tolist()]
        )

    def _choose_group(self, group: int) -> npt.NDArray[np.int8]:
        table = self._slice(group)
        return np.concatenate([self._choose(block) for block in blocks(table)])

    def _order_group(self, group: int) -> list[Int64Array]:
        """The rows of each modality in a group of windows, window by window."""
        table, windows, choice = self._slice(group), self._groups[group], self._chosen(group)
        rows = column(table, "row")
        cells: npt.NDArray[np.integer] = choice
        if len(windows) > 1:
            cells = choice.astype(np.int64) * len(windows) + np.repeat(
                np.arange(len(windows)), windows[:, 1] - windows[:, 0]
            )
        counters = (
            rows + (column(table, "copy").astype(np.int64) << COPY_BITS)
            if "copy" in table.column_names
            else rows
        )
        keys, num_cells = (
            hashes(key_of(*self._seed, Purpose.ROWS), counters),
            len(self.names) * len(windows),
        )
        if self._config.stratify:
            labels = column(table, "label").astype(np.int64)
            position = spread_positions(
                cells.astype(np.int64),
                num_cells,
                labels,
                keys,
                counters,
                key_of(*self._seed, Purpose.CLASSES),
            )
        else:
            position = sort_positions(keys, cells, num_cells)
        counts = np.bincount(choice, minlength=len(self.names))
        if self._owners:
            rows = rows << OWNER_BITS | (self._owners(table).astype(np.int64) + 1)
        return np.split(rows[position], np.cumsum(counts)[:-1])


class _Stream:
    """The rows of one modality in the order in which its batches take them."""

    def __init__(
        self, ordered: Callable[[int], list[Int64Array]], num_groups: int, index: int
    ) -> None:
        self._parts = (ordered(group)[index] for group in range(num_groups))
        self._left = np.empty(0, np.int64)

    def take(self, num_rows: int) -> Int64Array:
        """The next rows."""
        taken = []
        while len(self._left) < num_rows:
            taken.append(self._left)
            num_rows -= len(self._left)
            self._left = next(self._parts)
        taken.append(self._left[:num_rows])
        self._left = self._left[num_rows:]
        return np.concatenate(taken) if len(taken) > 1 else taken[0]


def _weave(parts: list[Int64Array], owners: Int64Array) -> Int64Array:
    """The values of several sequences, put where `owners` names them."""
    present = [k for k, part in enumerate(parts) if len(part)]
    if len(present) == 1:
        return parts[present[0]]
    out = np.empty(len(owners), np.int64)
    for k in present:
        out[owners == k] = parts[k]
    return out


def _groups(table: pa.Table, locality: int | None, key: int) -> list[Int64Array]:
    """Groups of windows in the order of their visit; a window is (start, stop), positions in the table."""
    num_rows = table.num_rows
    if locality is None:
        return [np.array([[0, num_rows]])]
    starts, numbers, last = [], [], -1
    for start in range(0, num_rows, CHUNK_ROWS):
        window = column(table.slice(start, CHUNK_ROWS), "row") // locality
        first = np.flatnonzero(np.diff(window, prepend=last))
        last = window[-1]
        starts.append(first + start)
        numbers.append(window[first])
    bounds = np.append(np.concatenate(starts), num_rows)
    visit = np.argsort(hashes(key, np.concatenate(numbers)))
    windows = np.stack([bounds[:-1], bounds[1:]], axis=1)[visit]
    group = np.cumsum(windows[:, 1] - windows[:, 0]) // GROUP_ROWS
    return np.split(windows, np.flatnonzero(np.diff(group)) + 1)
