"""Index of a feature set: the rows of a sample id by binary search."""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa

from pipeline.arrays import Array, UInt64Array
from pipeline.errors import DataError
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.store_path import StorePath

IDS = "ids.arrow"
IDS_SCHEMA = pa.schema([("hash", pa.uint64()), ("row", pa.int64())])
INDEX_ROWS = 2**16
"""Rows per record batch, the unit that a look-up reads."""
SORTED_ROWS = 2**20
"""Rows that are sorted at once, more if there are more than 256 times as many."""
_ENTRY = np.dtype([("hash", "<u8"), ("position", "<i8"), ("row", "<i8")])


def hash_ids(ids: Iterable[str]) -> UInt64Array:
    """Hash sample ids: (N,) uint64, the first 8 bytes of each SHA-256, little-endian."""
    # no table contains an id with unpaired surrogates, but a query may
    return np.frombuffer(
        b"".join(
            hashlib.sha256(value.encode(errors="surrogatepass")).digest()[:8] for value in ids
        ),
        "<u8",
    )


class IdSorter:
    """Sorts hashes of sample ids in bounded memory; a context manager.

    Rows are divided by the first bits of the hash into temporary files, which are sorted one by
    one: 24 bytes of disk per row, and memory of about 50 bytes per row of the largest file.

    Args:
        num_ids: number of ids that will be added.
        folder: folder for the temporary files; by default that of the system.
    """

    def __init__(self, num_ids: int, folder: Path | None = None) -> None:
        self._num_bits = min(8, (num_ids // SORTED_ROWS).bit_length())
        self._folder = folder
        self._num_added = 0
        self._stack = ExitStack()
        self._files: list[IO[bytes]] = []

    def __enter__(self) -> "IdSorter":
        with ExitStack() as stack:
            self._files = [
                stack.enter_context(tempfile.TemporaryFile(dir=self._folder))
                for _ in range(2**self._num_bits)
            ]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, hashes: UInt64Array, rows: Array) -> None:
        """Add ids by their hashes, (N,) uint64, with their rows, -1 for ids without one."""
        entries = np.empty(len(hashes), _ENTRY)
        entries["hash"], entries["row"] = hashes, rows
        entries["position"] = np.arange(self._num_added, self._num_added + len(hashes))
        self._num_added += len(hashes)
        numbers = (entries["hash"] >> np.uint64(56)).astype(np.int64) >> (8 - self._num_bits)
        order = np.argsort(numbers, kind="stable")
        ends = np.searchsorted(numbers[order], np.arange(1, len(self._files) + 1))
        for file, part in zip(self._files, np.split(entries[order], ends[:-1]), strict=True):
            file.write(part.tobytes())

    def blocks(self) -> Iterator[Array]:
        """Entries (hash, position, row), sorted by hash and position, in blocks.

        Equal hashes are in the same block. `position` is the order in which ids were added.
        """
        for file in self._files:
            file.seek(0)
            entries = np.frombuffer(file.read(), _ENTRY)
            yield entries[np.argsort(entries["hash"], kind="stable")]


def write_ids(path: StorePath, blocks: Iterable[Array]) -> None:
    """Write the index of sample ids from the blocks of an IdSorter. Raises StoreError."""
    with path.create() as file, pa.ipc.new_file(file, IDS_SCHEMA) as writer:
        rest = np.empty(0, _ENTRY)
        for block in blocks:
            rest = np.concatenate([rest, block[block["row"] >= 0]])
            num_full = len(rest) // INDEX_ROWS * INDEX_ROWS
            for start in range(0, num_full, INDEX_ROWS):
                writer.write_batch(_batch(rest[start : start + INDEX_ROWS]))
            rest = rest[num_full:]
        if len(rest):
            writer.write_batch(_batch(rest))


def _batch(entries: Array) -> pa.RecordBatch:
    columns = [pa.array(np.ascontiguousarray(entries[name])) for name in ("hash", "row")]
    return pa.record_batch(columns, schema=IDS_SCHEMA)


def find_rows(index: BatchFile, sample_id: str) -> list[int]:
    """Rows whose id has the hash of `sample_id`, ascending.

    Hashes may collide: compare the ids. Raises DataError, StoreError.
    """
    target = hash_ids([sample_id])[0]
    low, high = 0, index.num_batches
    while low < high:  # the first batch whose last hash is not below the target
        middle = (low + high) // 2
        hashes = index.batch(middle, ["hash"]).column(0)
        if not len(hashes):
            raise DataError(f"{index.what}: record batch {middle} is empty", "write the file again")
        if hashes[-1].as_py() < target:
            low = middle + 1
        else:
            high = middle
    rows: list[int] = []
    for number in range(low, index.num_batches):
        batch = index.batch(number)
        hashes = batch.column("hash").to_numpy()
        first, last = np.searchsorted(hashes, target), np.searchsorted(hashes, target, side="right")
        rows += batch.column("row").to_numpy()[first:last].tolist()
        if last < len(hashes):
            break
    return rows
