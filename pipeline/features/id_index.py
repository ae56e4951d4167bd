"""Index of a feature set: the rows of a sample id by binary search."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from pipeline.arrays import UInt64Array
from pipeline.errors import DataError
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.store_path import StorePath

IDS = "ids.arrow"
IDS_SCHEMA = pa.schema([("hash", pa.uint64()), ("row", pa.int64())])
INDEX_ROWS = 2**16
"""Rows per record batch, the unit that a look-up reads."""


def hash_ids(ids: Iterable[str]) -> UInt64Array:
    """Hash sample ids: (N,) uint64, the first 8 bytes of each SHA-256, little-endian."""
    # no table contains an id with unpaired surrogates, but a query may
    return np.frombuffer(
        b"".join(
            hashlib.sha256(value.encode(errors="surrogatepass")).digest()[:8] for value in ids
        ),
        "<u8",
    )


def write_ids(path: StorePath, hashes: Sequence[UInt64Array]) -> None:
    """Write the index of all sample ids, given their hashes in row order.

    Uses 24 bytes of memory per row. Raises StoreError.
    """
    values = np.concatenate([np.empty(0, np.uint64), *hashes])
    order = np.argsort(values, kind="stable")
    with path.create() as file, pa.ipc.new_file(file, IDS_SCHEMA) as writer:
        for start in range(0, len(order), INDEX_ROWS):
            rows = order[start : start + INDEX_ROWS]
            writer.write_batch(
                pa.record_batch([pa.array(values[rows]), pa.array(rows)], schema=IDS_SCHEMA)
            )


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
