"""Names, sizes and versions of shards, which are known without reading them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow.fs as pafs

from pipeline.errors import MissingError
from pipeline.shards.discover import shard_names
from pipeline.storage.store_path import StorePath

SMALL, LARGE = 50 * 10**6, 5 * 10**9
"""Sizes in bytes between which shards are neither too small nor too large for a cluster."""
SMALL_SHARE = 0.1
"""Share of small shards that is usual: the last one of each split."""
NUM_THREADS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSource:
    """A version of a shard.

    Attributes:
        name: name of the shard in tables.
        num_bytes: size of the file.
        version: ETag of an object, modification time in ns of a file.
    """

    path: StorePath
    name: str
    num_bytes: int
    version: str


def shard_sources(shards: Sequence[StorePath]) -> list[ShardSource]:
    """Return the present versions of shards. Raises MissingError, StoreError."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:  # a request to an object store takes long
        versions = pool.map(version_of, shards)
        return [
            ShardSource(path=path, name=name, num_bytes=num_bytes, version=version)
            for path, name, (num_bytes, version) in zip(
                shards, shard_names(shards), versions, strict=True
            )
        ]


def version_of(shard: StorePath) -> tuple[int, str]:
    """Return size and version of a shard. Raises MissingError, StoreError."""
    info = shard.info()
    if info.type != pafs.FileType.File:
        raise MissingError(f"Shard not found: {shard}", "give existing shards")
    version = str(info.mtime_ns)
    if not shard.local:
        with shard.accessing("read"), shard.fs.open_input_file(shard.path) as file:
            tags = {key.lower(): value for key, value in file.metadata().items()}
            version = tags.get("etag", version.encode()).decode()
    return info.size, version


def size_warning(sizes: Sequence[int]) -> str | None:
    """Return a warning about shards that are too small or too large, None if they are not.

    A data set that fits into one shard may have shards of any size.

    Args:
        sizes: size of each shard in bytes.
    """
    num_small = sum(size < SMALL for size in sizes)
    num_large = sum(size > LARGE for size in sizes)
    if sum(sizes) <= LARGE or not (num_large or num_small > SMALL_SHARE * len(sizes)):
        return None
    parts = [
        f"{num} of {len(sizes)} shards {what}"
        for num, what in (
            (num_small, "are smaller than 50 MB, which costs a task each"),
            (num_large, "are larger than 5 GB, which one task reads alone"),
        )
        if num
    ]
    return f"{'; '.join(parts)}: write shards of 50 MB to 5 GB"
