"""Build a plan window by window: assign rows, shuffle them, cut batches, order the batches.

A window is a set of rows that are shuffled together: the whole epoch, or `locality` consecutive
rows of the feature table. Memory is bounded by CHUNK_ROWS and the largest window, plus 24 bytes
per window for the order in which windows are visited, and one bit per row and binary digit of the
number of modalities for the assignment.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.arrays import Array, Int8Array, Int64Array
from pipeline.counter_rng import Purpose, hashes, key_of
from pipeline.errors import ConfigError, DataError
from pipeline.plans.config import PlanConfig
from pipeline.plans.ordering import leading_bits, merge, sort_values, spread_positions
from pipeline.plans.packed_assignment import PackedAssignment
from pipeline.storage.arrow_files import TABLE_ROWS, blocks, column
from pipeline.storage.metadata import Fingerprinter, encode_metadata
from pipeline.storage.schemas import MIXED_PLAN, PLAN

AssignRows = Callable[[pa.Table], Int8Array]
"""Maps any slice of the table of rows to a modality index per row."""

CHUNK_ROWS = 2**20
"""Approximate number of rows in one record batch of a plan."""
GROUP_ROWS = 2**16
"""Small windows are processed together up to this many rows, to save calls into NumPy."""
MAX_BATCH_SIZE = 2**30
COPY_BITS = 40
"""Copy i of row r is hashed as r + i * 2**COPY_BITS: above every row number, so never equal."""
ASSIGNMENT_BITS = 8
"""In a mixed plan, each row number is shifted left by this, with its assignment + 1 below it."""


class PlanBuilder:
    """Builds a plan window by window, so memory depends on the window, not on the plan.

    Rows are assigned, shuffled within their window by a counter hash of (seed, epoch, row), cut
    into batches whose sizes differ by at most one, and ordered. The same inputs give the same
    bytes on any machine.

    Args:
        table: The eligible rows, ascending: column `row`, also `label` to stratify and `copy` if
            rows are repeated.
        names: What a batch can train: modalities, "all", or both.
        assign: For a slice of the table, the index into `names` of the batches of each row.
        metadata: Further metadata of the plan.
        assign_within_batch: If given, batches are mixed: for a slice of the table, the index of
            the modality that each row trains, -1 for all of them.
    Raises:
        ConfigError: `batch_size` is out of range.
        DataError: the table is empty.
    """

    def __init__(
        self,
        table: pa.Table,
        names: list[str],
        assign: AssignRows,
        *,
        config: PlanConfig,
        batch_size: int,
        seed: int,
        epoch: int,
        metadata: Mapping[str, object],
        assign_within_batch: AssignRows | None = None,
    ) -> None:
        if not 1 <= batch_size <= MAX_BATCH_SIZE:
            raise ConfigError(
                f"batch size is {batch_size}", f"choose a number from 1 to {MAX_BATCH_SIZE}"
            )
        if not table.num_rows:
            raise DataError("no rows to plan", "choose a split that has samples")
        self.names = names
        self._table = table
        self._assign = assign
        self._assign_within_batch = assign_within_batch
        self._schema = MIXED_PLAN if assign_within_batch else PLAN
        self._config = config
        self._batch_size = batch_size
        self._seed = (seed, epoch)
        self.metadata: dict[str, Any] = {
            "epoch": epoch,
            "seed": seed,
            "batch_size": batch_size,
            **metadata,
        }
        self._groups = _window_groups(table, config.locality, key_of(seed, epoch, Purpose.WINDOWS))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the plan's steps in order, as record batches of bounded size. Repeatable."""
        # The number of rows of each modality decides the number and sizes of its batches, and how
        # those are interleaved, so all rows are assigned before the first batch can be cut.
        counts = self._assigned.counts
        num_steps = -(-counts // self._batch_size)
        # A block of steps needs a different number of rows of each modality, so each modality
        # reads the windows through a stream of its own, at its own pace.
        streams = [_Stream(self._shuffled(k)) for k in range(len(self.names))]
        done = np.zeros(len(self.names), np.int64)
        for block in self._step_blocks(num_steps):
            sizes = np.empty(len(block), np.int64)
            for k in np.unique(block):
                # Batch i of n has the rows from count * i // n to count * (i + 1) // n. All sizes
                # then differ by at most one, so that no small last batch has a noisy gradient or
                # too few rows for the ranks.
                steps = np.arange(done[k], done[k] + np.count_nonzero(block == k) + 1)
                sizes[block == k] = np.diff(counts[k] * steps // num_steps[k])
            rows = _place(
                [stream.take(int(sizes[block == k].sum())) for k, stream in enumerate(streams)],
                np.repeat(block, sizes),
            )
            offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
            numbers = pa.array(np.arange(done.sum(), done.sum() + len(block), dtype=np.int32))
            values = (
                [
                    rows >> ASSIGNMENT_BITS,
                    ((rows & ((1 << ASSIGNMENT_BITS) - 1)) - 1).astype(np.int8),
                ]
                if self._assign_within_batch
                else [rows]
            )
            lists = [pa.ListArray.from_arrays(pa.array(offsets), pa.array(part)) for part in values]
            yield pa.record_batch(
                [numbers, pa.array(self.names).take(pa.array(block)), *lists], schema=self._schema
            )
            done += np.bincount(block, minlength=len(self.names))

    @property
    def num_rows(self) -> int:
        """Number of rows of the plan."""
        return int(self._table.num_rows)

    def schema(self, batches: Iterable[pa.RecordBatch] | None = None) -> pa.Schema:
        """The plan's schema with metadata and fingerprint.

        Args:
            batches: The plan's batches; by default they are built to hash them.
        """
        content = Fingerprinter(self._schema)
        for batch in self.batches() if batches is None else batches:
            content.update(batch)
        return self._schema.with_metadata(
            encode_metadata({**self.metadata, "fingerprint": content.hexdigest(self.metadata)})
        )

    def _step_blocks(self, num_steps: Int64Array) -> Iterator[Int64Array]:
        """Yield the modality index of each step in order, about CHUNK_ROWS rows at a time.

        The blocks bound the memory: only the rows of one block are in memory at a time.
        """
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

    @cached_property
    def _assigned(self) -> PackedAssignment:
        assigned, start = PackedAssignment(self._table.num_rows, len(self.names)), 0
        for block in blocks(self._table):
            assigned.write(start, self._assign(block))
            start += block.num_rows
        return assigned

    def _shuffled(self, k: int) -> Iterator[Int64Array]:
        """Yield the shuffled rows of modality `k`, group by group."""
        for windows in self._groups:
            yield self._order(windows, k)

    def _order(self, windows: Int64Array, k: int) -> Int64Array:
        """Shuffle a group of windows: the rows of modality `k`, window by window.

        One sort by (window, hash of the row) does it for all windows. A hash, not a random
        generator, because it does not depend on the NumPy version, nor on how many rows are
        processed together. The bits of a hash that count are those that are left if the rows of
        all modalities are sorted together, by (modality, window, hash, position).
        """
        part = self._select(windows, k)
        if not len(part.rows):
            return part.rows
        num_subsets = len(self.names) * len(windows)
        key_bits = leading_bits(num_subsets, part.num_rows)
        counters = part.rows
        if "copy" in part.columns:
            counters = part.rows + (part.columns["copy"].astype(np.int64) << COPY_BITS)
        keys = hashes(key_of(*self._seed, Purpose.ROWS), counters)
        values = part.rows
        if "assigned" in part.columns:
            values = values << ASSIGNMENT_BITS | (part.columns["assigned"].astype(np.int64) + 1)
        if self._config.stratify:
            num = part.num_classes
            by_class = leading_bits(num_subsets * num, part.num_rows)
            subsets = part.columns["window"] * num + part.columns["label"]
            key = key_of(*self._seed, Purpose.CLASSES)
            position = spread_positions(
                subsets, num, keys, counters, key, first=part.first, key_bits=(by_class, key_bits)
            )
            return values[position]
        groups, num_groups = part.columns.get("window"), len(windows)
        # Rows of a window ascend, so they are in the order of their positions: where they fit into
        # the bits of a position, they are sorted themselves, which saves a random gather.
        if int(values.max()) < 1 << (64 - key_bits - (num_groups - 1).bit_length()):
            return sort_values(keys, key_bits, values, groups, num_groups)
        return values[sort_values(keys, key_bits, None, groups, num_groups)]

    def _select(self, windows: Int64Array, k: int) -> "_Part":
        """Read the rows of modality `k` in a group of windows."""
        names = ["row", *(["label"] if self._config.stratify else [])]
        names += ["copy"] if "copy" in self._table.column_names else []
        selected: dict[str, Array] = {}
        num_rows = first = num_chosen = num_classes = 0
        for piece in _pieces(windows):
            bounds = piece.tolist()
            assignment = _joined([self._assigned.read(*bound) for bound in bounds])
            chosen = np.flatnonzero(assignment == k)
            num_rows += len(assignment)
            first += int(np.count_nonzero(assignment < k))
            slices = [self._table.slice(start, stop - start) for start, stop in bounds]
            columns = {name: _joined([column(part, name) for part in slices]) for name in names}
            if self._config.stratify:
                num_classes = max(num_classes, int(columns["label"].max()) + 1)
            if self._assign_within_batch:
                columns["assigned"] = _joined([self._assign_within_batch(part) for part in slices])
            if len(windows) > 1 or self._config.stratify:
                columns["window"] = np.repeat(np.arange(len(piece)), piece[:, 1] - piece[:, 0])
            for name, values in columns.items():
                if name not in selected:
                    selected[name] = np.empty((windows[:, 1] - windows[:, 0]).sum(), values.dtype)
                out = selected[name][num_chosen : num_chosen + len(chosen)]
                np.take(values, chosen, out=out, mode="clip")  # "raise" would copy through a buffer
            num_chosen += len(chosen)
        columns = {name: values[:num_chosen] for name, values in selected.items()}
        return _Part(columns.pop("row"), columns, num_rows, first, num_classes)


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of one modality in a group of windows."""

    rows: Int64Array
    columns: dict[str, Array]
    """Columns of the rows that the order needs: label, copy, assigned, window."""
    num_rows: int
    """Rows of all modalities in the group."""
    first: int
    """Rows of the modalities before this one in the group."""
    num_classes: int
    """Largest label in the group + 1."""


class _Stream:
    """The shuffled rows of one modality, read group by group."""

    def __init__(self, parts: Iterator[Int64Array]) -> None:
        self._parts = parts
        self._pending = np.empty(0, np.int64)

    def take(self, num_rows: int) -> Int64Array:
        """Return the next `num_rows` rows."""
        parts = []
        while len(self._pending) < num_rows:
            parts.append(self._pending)
            num_rows -= len(self._pending)
            self._pending = next(self._parts)
        parts.append(self._pending[:num_rows])
        self._pending = self._pending[num_rows:]
        rows: Int64Array = _joined(parts)
        return rows


def _joined(parts: list[Any]) -> Any:
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _pieces(windows: Int64Array) -> Iterator[Int64Array]:
    """Yield a group of windows as it is, or a single window in parts of bounded size."""
    if len(windows) > 1:
        yield windows
        return
    start, stop = windows[0].tolist()
    for at in range(start, stop, TABLE_ROWS):
        yield np.array([[at, min(at + TABLE_ROWS, stop)]])


def _place(sequences: list[Int64Array], source: Int64Array) -> Int64Array:
    """Merge sequences: item i is the next item of sequence `source[i]`."""
    used = [k for k, sequence in enumerate(sequences) if len(sequence)]
    if len(used) == 1:
        return sequences[used[0]]
    out = np.empty(len(source), np.int64)
    for k in used:
        out[source == k] = sequences[k]
    return out


def _window_groups(table: pa.Table, locality: int | None, key: int) -> list[Int64Array]:
    """Windows in the order of their visit, in groups of about GROUP_ROWS rows.

    A group is an array (W, 2) of start and stop positions in the table. Windows are visited in the
    order of the hashes of their numbers, so that an epoch does not follow the feature table.
    """
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
