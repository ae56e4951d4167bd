"""The parts of a feature set, read record batch by record batch.

A local part is mapped. A part of a remote store is a view of its copy in the node's cache, or where
the cache has no room, read by ranges that are kept for a while.
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
"""Parts that a process has open at once; a copy takes a file descriptor."""
MEMORY_BATCHES = 256
"""Record batches that were read by ranges or unpacked, which a process keeps in memory."""
HELD_SHARE = 0.25
"""Of a cache that evicts, what the copies that a process has open may take (one it may always have), so that there is something to evict."""

BatchName = tuple[str, int, int]
"""A modality, a part and a record batch of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What a part holds, as its manifest says."""

    num_rows: int
    batch_rows: int
    type: pa.DataType
    num_bytes: int  # 0 where the manifest does not say

    def rows_of(self, number: int) -> int:
        """The rows of a record batch."""
        return min(self.batch_rows, self.num_rows - number * self.batch_rows)


def open_part(
    path: StorePath, expected: Expected, copy: pa.Buffer | None = None
) -> pa.ipc.RecordBatchFileReader:
    """A part as it is expected, from its copy where there is one, or mapped where it is local.

    Raises MissingError, DataError, StoreError.
    """
    source = open_source(path, mapped=True) if copy is None else pa.BufferReader(copy)
    if expected.num_bytes not in (0, source.size()):
        raise DataError(
            f"{path} has {source.size()} bytes, but its manifest says {expected.num_bytes}",
            "decode again",
        )
    reader = open_reader(source, path)
    columns = [(field.name, field.type) for field in reader.schema]
    if columns != [("feature", expected.type)]:
        found = ", ".join(f"{name!r} of {kind}" for name, kind in columns[:5])
        raise DataError(
            f"{path} has the columns {found or 'nothing'}, not 'feature' of {expected.type}",
            "decode again",
        )
    num_batches = -(-expected.num_rows // expected.batch_rows)
    if reader.num_record_batches != num_batches:
        raise DataError(
            f"{path} has {reader.num_record_batches} record batches, but its manifest says {expected.num_rows} rows, which are {num_batches}",
            "decode again",
        )
    return reader


def _features(batch: pa.RecordBatch, number: int, expected: Expected, path: StorePath) -> Array:
    """(B, *shape): the features of a record batch of a part (raises DataError where it is not as expected)."""
    column = batch.column(0)
    if len(column) != expected.rows_of(number):
        raise DataError(
            f"{path}: record batch {number} has {len(column)} rows, not {expected.rows_of(number)}",
            "decode again",
        )
    if column.null_count or column.storage.flatten().null_count:
        raise DataError(
            f"{path}: column 'feature' has nulls in record batch {number}", "decode again"
        )
    rows: Array = column.to_numpy_ndarray()
    return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    reader: pa.ipc.RecordBatchFileReader
    mapped: bool
    num_bytes: int  # of the copy that it holds
    views: dict[BatchName, Array]  # of the record batches that the map holds as they are


class PartReader:
    """The open parts of a feature set; of a remote one the least recently used is closed first.

    `find` names the file of a modality's part, `expect` what it holds. Threads may share a reader.
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
        """(B, *shape): one record batch (raises DataError, MissingError, StoreError)."""
        key, name = (modality, part), (modality, part, number)
        if name in self._local_views:
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
        if file.path.local:  # maps of local files cost nothing, so they stay
            part = open_part(file.path, self._expect(*key))
            self._open[key] = _Part(reader=part, mapped=True, num_bytes=0, views=self._local_views)
            return
        mapped = self._cache.map(file) if self._cache else None
        if mapped is None and self._cache and not self._cache.keep and self._num_bytes:
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
        bound = HELD_SHARE * self._cache.max_bytes if self._cache and evicts else inf
        while len(self._open) > 1 and (len(self._open) > OPEN_PARTS or self._num_bytes > bound):
            self._close_oldest()

    def _close_oldest(self) -> None:
        _, closed = self._open.popitem(last=False)
        self._num_bytes -= closed.num_bytes

    def _read(self, key: tuple[str, int], number: int) -> tuple[Array, bool]:
        """A record batch, and whether it is a view of the mapped file."""
        part, path = self._open[key], self._find(*key).path
        try:
            batch = part.reader.get_batch(number)
            batch.validate()
        except DAMAGED as error:
            if isinstance(error, OSError) and not part.mapped:
                raise StoreError(
                    f"{path} cannot be read ({error})",
                    "check that the store is there and may be read",
                ) from error
            raise DataError(
                f"{path} is damaged in record batch {number} ({error})", "decode again"
            ) from error
        # a buffer that was unpacked is memory of its own, which could be written to
        is_view = part.mapped and not batch.column(0).buffers()[-1].is_mutable
        return _features(batch, number, self._expect(*key), path), is_view
