"""Reads the parts of a feature set record batch by record batch.

A local part is memory-mapped. A remote part is mapped from its copy in the node cache; if the cache
has no space, it is read by ranges and recent record batches are kept in memory.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from threading import Lock

import pyarrow as pa

from pipeline.arrays import Array
from pipeline.errors import DataError, StoreError
from pipeline.storage.arrow_files import DAMAGED, open_reader, open_source
from pipeline.storage.node_cache import NodeCache, RemoteFile
from pipeline.storage.store_path import StorePath

OPEN_PARTS = 256
"""Maximum open parts of a process; each mapped copy uses a file descriptor."""
MEMORY_BATCHES = 256
"""Maximum record batches, read by ranges or decompressed, that a process keeps in memory."""
PINNED_SHARE = 0.25
"""Maximum fraction of an evicting cache that one process may pin by open parts; one part is always
allowed. The rest stays evictable."""

BatchName = tuple[str, int, int]
"""Modality, part number and number of the record batch in the part."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """The content of a part according to its manifest."""

    num_rows: int
    batch_rows: int
    type: pa.DataType
    num_bytes: int  # 0 if the manifest does not record it

    def rows_of(self, number: int) -> int:
        """Number of rows of a record batch; the last may be smaller."""
        return min(self.batch_rows, self.num_rows - number * self.batch_rows)


def open_part(
    path: StorePath, expected: Expected, copy: pa.Buffer | None = None
) -> pa.ipc.RecordBatchFileReader:
    """Open a part from its cached copy, else mapped if local, and compare it with its manifest.

    Raises MissingError, DataError, StoreError.
    """
    source = open_source(path, mapped=True) if copy is None else pa.BufferReader(copy)
    if expected.num_bytes not in (0, source.size()):
        raise DataError(
            f"{path} has {source.size()} bytes, but its manifest records {expected.num_bytes}",
            "decode again",
        )
    reader = open_reader(source, path)
    columns = [(field.name, field.type) for field in reader.schema]
    if columns != [("feature", expected.type)]:
        names = ", ".join(f"{name!r} of {kind}" for name, kind in columns[:5])
        raise DataError(
            f"{path} has the columns {names or '(none)'}, not 'feature' of {expected.type}",
            "decode again",
        )
    num_batches = -(-expected.num_rows // expected.batch_rows)
    if reader.num_record_batches != num_batches:
        raise DataError(
            f"{path} has {reader.num_record_batches} record batches, but the "
            f"{expected.num_rows} rows in its manifest make {num_batches}",
            "decode again",
        )
    return reader


def _features(batch: pa.RecordBatch, number: int, expected: Expected, path: StorePath) -> Array:
    """Features of a record batch, (B, *shape), a view. Raises DataError if rows or nulls differ."""
    column = batch.column(0)
    if len(column) != expected.rows_of(number):
        raise DataError(
            f"{path}: record batch {number} has {len(column)} rows, not {expected.rows_of(number)}",
            "decode again",
        )
    if column.null_count or column.storage.flatten().null_count:
        raise DataError(
            f"{path}: column 'feature' contains nulls in record batch {number}", "decode again"
        )
    rows: Array = column.to_numpy_ndarray()
    return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    reader: pa.ipc.RecordBatchFileReader
    mapped: bool
    num_bytes: int  # size of the copy that it pins, 0 if none
    views: dict[BatchName, Array]  # into the map, one per uncompressed record batch read so far


class PartReader:
    """Reads record batches and keeps parts open; of remote parts, closes the least recently used.

    Threads may share a reader.

    Args:
        find: maps (modality, part) to its file.
        expect: maps (modality, part) to its content according to the manifest.
        cache: the node cache, None for a local feature set.
    """

    def __init__(
        self,
        find: Callable[[str, int], RemoteFile],
        expect: Callable[[str, int], Expected],
        cache: NodeCache | None,
    ) -> None:
        self._find, self._expect, self._cache = find, expect, cache
        self._open: OrderedDict[tuple[str, int], _Part] = OrderedDict()
        self._num_bytes = 0
        self._lock = Lock()
        self._local_views: dict[BatchName, Array] = {}
        self._in_memory: OrderedDict[BatchName, Array] = OrderedDict()

    def batch(self, modality: str, part: int, number: int) -> Array:
        """Read one record batch, (B, *shape). Raises DataError, MissingError, StoreError."""
        key, name = (modality, part), (modality, part, number)
        if name in self._local_views:  # never evicted, so no lock is needed
            return self._local_views[name]
        with self._lock:
            if key in self._open:
                self._open.move_to_end(key)
            else:
                self._add(key)
            views = self._open[key].views
            if name in views:
                return views[name]
            if name in self._in_memory:
                self._in_memory.move_to_end(name)
                return self._in_memory[name]
            rows, is_view = self._read(key, number)
            (views if is_view else self._in_memory)[name] = rows
            if len(self._in_memory) > MEMORY_BATCHES:
                self._in_memory.popitem(last=False)
            return rows

    def _add(self, key: tuple[str, int]) -> None:
        file = self._find(*key)
        if file.path.local:  # a map of a local file pins nothing, so it stays open
            part = open_part(file.path, self._expect(*key))
            self._open[key] = _Part(reader=part, mapped=True, num_bytes=0, views=self._local_views)
            return
        mapped = self._cache.map(file) if self._cache else None
        if mapped is None and self._cache and not self._cache.keep and self._num_bytes:
            # the copies that this process pins may be what fills the cache
            while self._open:
                self._close_oldest()
            mapped = self._cache.map(file)
        self._open[key] = _Part(
            reader=open_part(file.path, self._expect(*key), mapped),
            mapped=mapped is not None,
            num_bytes=0 if mapped is None else file.num_bytes,
            views={},
        )
        self._num_bytes += self._open[key].num_bytes
        evicts = self._cache and not self._cache.keep
        bound = PINNED_SHARE * self._cache.max_bytes if self._cache and evicts else inf
        while len(self._open) > 1 and (len(self._open) > OPEN_PARTS or self._num_bytes > bound):
            self._close_oldest()

    def _close_oldest(self) -> None:
        _, closed = self._open.popitem(last=False)
        self._num_bytes -= closed.num_bytes

    def _read(self, key: tuple[str, int], number: int) -> tuple[Array, bool]:
        """Read a record batch; also returns whether it is a view of the mapped file."""
        part, path = self._open[key], self._find(*key).path
        try:
            batch = part.reader.get_batch(number)
            batch.validate()
        except DAMAGED as error:
            if isinstance(error, OSError) and not part.mapped:
                raise StoreError(
                    f"{path} cannot be read ({error})",
                    "check that the store exists and that you have access",
                ) from error
            raise DataError(
                f"{path} is damaged in record batch {number} ({error})", "decode again"
            ) from error
        # buffers of a map are immutable; a decompressed buffer is mutable memory of its own
        is_view = part.mapped and not batch.column(0).buffers()[-1].is_mutable
        return _features(batch, number, self._expect(*key), path), is_view
