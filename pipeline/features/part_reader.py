"""Gathers rows from the parts of a feature set.

A local part is memory-mapped, a remote part is mapped from its copy in the node cache. The address
of a row follows from its number, as record batches have one size. Parts that are remote and not in
the cache, compressed or written by another program are read by record batches; recent ones are kept
in memory.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import inf
from threading import Lock

import numpy as np

from pipeline.arrays import Array, Int64Array, UInt8Array
from pipeline.features.part_file import Expected, PartFile
from pipeline.features.part_layout import copy_rows
from pipeline.storage.node_cache import NodeCache, RemoteFile

MAPPED_PARTS = 2**15
"""Maximum open parts of a local feature set; Linux allows 65,530 maps in a process."""
OPEN_PARTS = 256
"""Maximum open parts of a remote one; each mapped copy uses a file descriptor."""
MEMORY_BATCHES = 256
"""Maximum record batches that a process keeps in memory."""
PINNED_SHARE = 0.25
"""Maximum fraction of an evicting cache that one process may pin by open parts; one part is always
allowed. The rest stays evictable."""

PartName = tuple[str, int]
"""Modality and position in the manifest."""


class PartReader:
    """Gathers rows and keeps parts open; closes the least recently used remote, the oldest local.

    Threads may share a reader. They gather at the same time from local parts, else one by one.

    Args:
        find: maps (modality, part) to its file.
        expect: maps (modality, part) to its content according to the manifest.
        modalities: their names.
        num_rows: (P,) rows of each part.
        batch_rows: rows of each record batch but the last of a part.
        local: whether the parts are local files.
        cache: the node cache, if any.
    """

    def __init__(
        self,
        find: Callable[[str, int], RemoteFile],
        expect: Callable[[str, int], Expected],
        modalities: Sequence[str],
        num_rows: Int64Array,
        batch_rows: int,
        *,
        local: bool,
        cache: NodeCache | None,
    ) -> None:
        self._find, self._expect, self._cache = find, expect, cache
        self._batch_rows = batch_rows
        self._most = MAPPED_PARTS if local else OPEN_PARTS
        self._local = local
        evicts = cache is not None and not cache.keep
        self._pinnable = PINNED_SHARE * cache.max_bytes if cache and evicts else inf
        self._lock = Lock()
        self._open: OrderedDict[PartName, PartFile] = OrderedDict()
        self._num_bytes = 0
        self._ends = np.cumsum(num_rows)
        self._starts = self._ends - num_rows
        # (2, P): first and gap of the layouts of open parts, 0 without one
        self._places = {name: np.zeros((2, len(num_rows)), np.int64) for name in modalities}
        self._in_memory: OrderedDict[tuple[PartName, int], Array] = OrderedDict()

    def parts_of(self, rows: Int64Array) -> Int64Array:
        """The part of each row, (n,). For a row that does not exist it is P."""
        # a negative row is a large unsigned one
        return self._ends.view(np.uint64).searchsorted(rows.view(np.uint64), "right")

    def read(self, modality: str, rows: Int64Array, row_bytes: int) -> UInt8Array:
        """Gather rows (n,) as bytes (n, row_bytes).

        Raises IndexError, DataError, MissingError, StoreError.
        """
        parts = self.parts_of(rows)
        local = rows - self._starts.take(parts)
        with self._lock:
            place = self._places[modality].take(parts, axis=1)
            numbers = sorted(set(parts.tolist()))
            are_open = self._local and bool(place[0].all())
            # keeps the maps while rows are copied without the lock
            opened = [self._open[modality, number] for number in numbers] if are_open else []
            if not opened:
                # open parts first: once closed, a part may be evicted before its rows are read
                numbers.sort(key=lambda number: (modality, number) not in self._open)
                size = self._num_at_once(modality, numbers)
                return self._in_groups(modality, numbers, size, parts, local, row_bytes)
        return self._copy(place, local, row_bytes)

    def _copy(self, place: Int64Array, rows: Int64Array, row_bytes: int) -> UInt8Array:
        first, gap = place
        return copy_rows(first + rows * row_bytes + rows // self._batch_rows * gap, row_bytes)

    def _in_groups(
        self,
        modality: str,
        numbers: Sequence[int],
        size: int,
        parts: Int64Array,
        rows: Int64Array,
        row_bytes: int,
    ) -> UInt8Array:
        """Gather rows, numbered within their `parts`, which are `numbers`; open `size` at once."""
        if len(numbers) <= size:
            return self._gather(modality, numbers, parts, rows, row_bytes)
        out = np.empty((len(rows), row_bytes), np.uint8)
        for start in range(0, len(numbers), size):
            group = numbers[start : start + size]
            own = np.isin(parts, group)
            out[own] = self._gather(modality, group, parts[own], rows[own], row_bytes)
        return out

    def _num_at_once(self, modality: str, numbers: Sequence[int]) -> int:
        """How many of these parts may be open, and so pinned, at once."""
        if self._pinnable == inf:
            return self._most
        largest = max(self._find(modality, number).num_bytes for number in numbers)
        return max(1, min(self._most, int(self._pinnable // max(1, largest))))

    def _gather(
        self,
        modality: str,
        numbers: Sequence[int],
        parts: Int64Array,
        rows: Int64Array,
        row_bytes: int,
    ) -> UInt8Array:
        keys = [(modality, number) for number in numbers]
        for key in self._open.keys() & keys:
            self._open.move_to_end(key)
        for key in keys:
            if key not in self._open:
                self._add(key)
        if any(key not in self._open for key in keys):  # closed to make space in the cache
            return self._in_groups(modality, numbers, 1, parts, rows, row_bytes)
        place = self._places[modality][:, parts]
        mapped = place[0] > 0
        if mapped.all():
            return self._copy(place, rows, row_bytes)
        out = np.empty((len(rows), row_bytes), np.uint8)
        if mapped.any():
            out[mapped] = self._copy(place[:, mapped], rows[mapped], row_bytes)
        for i in np.flatnonzero(~mapped).tolist():
            number, offset = divmod(int(rows[i]), self._batch_rows)
            batch = self._batch((modality, int(parts[i])), number)
            out[i] = batch[offset : offset + 1].reshape(-1).view(np.uint8)
        return out

    def _add(self, key: PartName) -> None:
        file = self._find(*key)
        copy = self._cache.map(file) if self._cache else None
        if copy is None and self._cache and self._pinnable < inf and self._num_bytes:
            # the copies that this process pins may be what fills the cache
            while self._open:
                self._close_oldest()
            copy = self._cache.map(file)
        part = PartFile(file.path, self._expect(*key), copy)
        self._open[key] = part
        self._num_bytes += part.num_bytes
        if part.layout:
            self._places[key[0]][:, key[1]] = part.layout.first, part.layout.gap
        while len(self._open) > 1 and (
            len(self._open) > self._most or self._num_bytes > self._pinnable
        ):
            self._close_oldest()

    def _close_oldest(self) -> None:
        (modality, number), closed = self._open.popitem(last=False)
        self._places[modality][:, number] = 0
        self._num_bytes -= closed.num_bytes

    def _batch(self, key: PartName, number: int) -> Array:
        """A record batch, (B, *shape), of an open part without a layout."""
        name = (key, number)
        if name in self._in_memory:
            self._in_memory.move_to_end(name)
            return self._in_memory[name]
        rows = self._open[key].batch(number)
        if not self._open[key].maps(rows):
            self._in_memory[name] = rows
        if len(self._in_memory) > MEMORY_BATCHES:
            self._in_memory.popitem(last=False)
        return rows
