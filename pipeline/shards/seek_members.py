"""Lists the members of an intact tar by seeking over their content."""

from collections.abc import Iterator
from typing import NamedTuple

from pipeline.shards.decompress import BLOCK
from pipeline.shards.discover import ShardFile
from pipeline.shards.samples import is_junk, split_name
from pipeline.shards.tar_header import (
    DIRECTORY,
    EXTENSIONS,
    FILES,
    extension_records,
    parse_header,
)

MAX_LOADED_BYTES = 2**20
"""Maximum size of a member or an extension header that is read while media are skipped."""
_ZERO_BLOCK = bytes(BLOCK)


class SeekError(Exception):
    """The shard cannot be read by seeking; the text is the reason, a part of a sentence."""


class Place(NamedTuple):
    """Where the content of a sample's member is, in bytes."""

    suffix: str
    offset: int
    num_bytes: int


def seek_members(file: ShardFile, end: int) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of the regular files of an intact tar, without reading them.

    Args:
        file: the shard, not compressed.
        end: size of the shard in bytes.
    Raises:
        SeekError, StoreError.
    """
    at, extension = 0, dict[str, str]()
    while at < end:
        block = file.read_at(at, BLOCK)
        at += BLOCK
        if block == _ZERO_BLOCK:
            continue
        header = parse_header(block, 0)
        if header is None:
            raise SeekError(f"byte {at - BLOCK} is no valid header")
        name, size, kind = header
        if kind in EXTENSIONS:
            records = None
            if size <= MAX_LOADED_BYTES:
                records = extension_records(kind, file.read_at(at, size))
            if records is None:
                raise SeekError(f"the extension header at byte {at - BLOCK} cannot be read")
            extension |= records
        elif kind in FILES:
            name, size = extension.get("path", name), int(extension.get("size", size))
            extension = {}
            if at + size > end:
                raise SeekError(f"the member at byte {at} is cut short")
            yield name, at, size
        elif kind == DIRECTORY:
            extension, size = {}, 0
        else:
            raise SeekError(f"the entry at byte {at - BLOCK} is no regular file")
        at += size + -size % BLOCK


def seek_samples(
    file: ShardFile, end: int, key_end: str, max_members: int
) -> tuple[list[tuple[Place, ...]], int]:
    """The places of the members of each sample, by the index of the sample, and their number.

    The samples are those that ShardReader counts, if all members of the shard are intact.

    Args:
        file: the shard, not compressed.
        end: size of the shard in bytes.
        key_end: as of ShardReader.
        max_members: maximum number of members, which bounds time and memory.
    Raises:
        SeekError, StoreError.
    """
    samples: list[list[Place]] = []
    keys, last, num_members = set[str](), "", 0
    suffixes: dict[str, str] = {}  # one object per suffix
    for name, offset, num_bytes in seek_members(file, end):
        num_members += 1
        if num_members > max_members:
            raise SeekError(f"it has more than {max_members:,} members")
        key, suffix = split_name(name, key_end)
        if not key or is_junk(name):
            continue
        if key != last:
            if key in keys:
                raise SeekError(f"the members of {key!r} are not contiguous")
            keys.add(key)
            samples.append([])
            last = key
        samples[-1].append(Place(suffixes.setdefault(suffix, suffix), offset, num_bytes))
    return [tuple(places) for places in samples], num_members
