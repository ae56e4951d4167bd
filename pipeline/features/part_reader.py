"""The parts of a feature set, read record batch by record batch.

A local part is mapped. A part of a remote store is a view of its copy in the node's cache, or where
the cache has no room, read by ranges that are kept for a while.
"""

import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from threading import Lock
from typing import Any

import pyarrow as pa

from pipeline.arrays import Array
from pipeline.errors import DataError, StoreError
from pipeline.storage.arrow_files import open_reader, open_source
from pipeline.storage.ipc_footer import DAMAGED, find_blocks, unpacked_bytes
from pipeline.storage.node_cache import NodeCache, RemoteFile
from pipeline.storage.store_path import Place

OPEN_PARTS = 256
"""Parts that a process has open at once; a copy takes a file descriptor."""
REMOTE_BATCHES = 256
"""Record batches that were read by ranges, which a process keeps in memory."""
HELD_SHARE = 0.25
"""Of a cache that evicts, what the copies that a process has open may take (one it may always have), so that there is something to evict."""


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
    place: Place, expected: Expected, copy: pa.Buffer | None = None
) -> pa.ipc.RecordBatchFileReader:
    """A part as it is expected, from its copy where there is one, or mapped where it is local.

    Raises MissingError, DataError, StoreError.
    """
    source = open_source(place, mapped=True) if copy is None else pa.BufferReader(copy)
    if expected.num_bytes not in (0, source.size()):
        raise DataError(
            f"{place} has {source.size()} bytes, but its manifest says {expected.num_bytes}",
            "decode again",
        )
    reader = open_reader(source, place)
    _check_part(reader, source, expected, place)
    return reader


def _check_part(
    reader: pa.ipc.RecordBatchFileReader, source: Any, expected: Expected, place: Place
) -> None:
    """Holds the footer, and of a mapped file the header of each record batch, against the manifest (raises DataError)."""
    columns = [(field.name, field.type) for field in reader.schema]
    if columns != [("feature", expected.type)]:
        found = ", ".join(f"{name!r} of {kind}" for name, kind in columns[:5])
        raise DataError(
            f"{place} has the columns {found or 'nothing'}, not 'feature' of {expected.type}",
            "decode again",
        )
    num_batches = -(-expected.num_rows // expected.batch_rows)
    if reader.num_record_batches != num_batches:
        raise DataError(
            f"{place} has {reader.num_record_batches} record batches, but its manifest says {expected.num_rows} rows, which are {num_batches}",
            "decode again",
        )
    if isinstance(source, pa.BufferReader):
        try:
            unpacked = [
                unpacked_bytes(source, block) == block[2] for block in find_blocks(source)[1]
            ]
        except (struct.error, ValueError) as error:
            raise DataError(f"{place} is damaged ({error})", "decode again") from error
        if not all(unpacked):
            raise DataError(
                f"{place}: record batch {unpacked.index(False)} is compressed, which Remix does not write",
                "decode again",
            )


def _read_batch(
    reader: pa.ipc.RecordBatchFileReader, number: int, expected: Expected, place: Place
) -> Array:
    """(B, *shape): the features of one record batch of a part, a view where the file is mapped.

    Raises DataError where it is not as expected; where the file cannot be read what pyarrow raises.
    """
    batch = reader.get_batch(number)
    try:
        batch.validate()
    except DAMAGED as error:
        raise DataError(
            f"{place} is damaged in record batch {number} ({error})", "decode again"
        ) from error
    column = batch.column(0)
    if len(column) != expected.rows_of(number):
        raise DataError(
            f"{place}: record batch {number} has {len(column)} rows, not {expected.rows_of(number)}",
            "decode again",
        )
    if column.null_count or column.storage.flatten().null_count:
        raise DataError(
            f"{place}: column 'feature' has nulls in record batch {number}", "decode again"
        )
    rows: Array = column.to_numpy_ndarray()
    return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    reader: pa.ipc.RecordBatchFileReader
    num_bytes: int  # of the copy that it holds
    views: dict[int, Array] | None  # None: read by ranges


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
        self._ranges: OrderedDict[tuple[str, int, int], Array] = OrderedDict()

    def batch(self, modality: str, part: int, number: int) -> Array:
        """(B, *shape): one record batch (raises DataError, MissingError, StoreError)."""
        key = (modality, part)
        with self._lock:
            if key in self._open:
                self._open.move_to_end(key)
            else:
                self._add(key)
            opened = self._open[key]
            if opened.views is None:
                return self._range(key, number)
            if number not in opened.views:
                opened.views[number] = self._view(key, number)
            return opened.views[number]

    def _add(self, key: tuple[str, int]) -> None:
        file = self._find(*key)
        if file.place.local:  # maps of local files cost nothing, so they stay
            part = open_part(file.place, self._expect(*key))
            self._open[key] = _Part(reader=part, num_bytes=0, views={})
            return
        mapped = self._cache.map(file) if self._cache else None
        if mapped is None and self._cache and not self._cache.keep and self._num_bytes:
            while self._open:
                self._close_oldest()
            mapped = self._cache.map(file)
        self._open[key] = _Part(
            reader=open_part(file.place, self._expect(*key), mapped),
            num_bytes=0 if mapped is None else file.num_bytes,
            views=None if mapped is None else {},
        )
        self._num_bytes += self._open[key].num_bytes
        evicts = self._cache and not self._cache.keep
        bound = HELD_SHARE * self._cache.max_bytes if self._cache and evicts else inf
        while len(self._open) > 1 and (len(self._open) > OPEN_PARTS or self._num_bytes > bound):
            self._close_oldest()

    def _close_oldest(self) -> None:
        _, closed = self._open.popitem(last=False)
        self._num_bytes -= closed.num_bytes

    def _view(self, key: tuple[str, int], number: int) -> Array:
        place = self._find(*key).place
        try:
            return _read_batch(self._open[key].reader, number, self._expect(*key), place)
        except DAMAGED as error:
            raise DataError(
                f"{place} is damaged in record batch {number} ({error})", "decode again"
            ) from error

    def _range(self, key: tuple[str, int], number: int) -> Array:
        name, place = (*key, number), self._find(*key).place
        if name in self._ranges:
            self._ranges.move_to_end(name)
            return self._ranges[name]
        try:
            self._ranges[name] = _read_batch(
                self._open[key].reader, number, self._expect(*key), place
            )
        except (pa.ArrowException, OSError) as error:
            raise StoreError(
                f"{place} cannot be read ({error})",
                "check that the store is there and may be read",
            ) from error
        if len(self._ranges) > REMOTE_BATCHES:
            self._ranges.popitem(last=False)
        return self._ranges[name]
