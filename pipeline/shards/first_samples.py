"""Reads the first samples of a shard with their metadata, and skips their media by seeking.

A shard that cannot be read so, as it is compressed or damaged, is read from its start instead.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.shards.discover import ShardFile
from pipeline.shards.limits import Limits
from pipeline.shards.member_suffixes import MEDIA, TEXT
from pipeline.shards.reader import ShardReader
from pipeline.shards.samples import RejectedSample, Sample, is_junk, split_name
from pipeline.shards.seek_members import MAX_LOADED_BYTES, SeekError, seek_members
from pipeline.storage.store_path import StorePath

SEQUENTIAL_BYTES = 2**24
"""Bytes of a shard to read if its media cannot be skipped."""


@dataclass(slots=True)
class FirstSample(Sample):
    """A sample; `places` has offset and size of the members whose content was skipped."""

    places: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FirstSamples:
    """The first samples of a shard.

    Attributes:
        items: the samples, and rejected ones if the shard is damaged.
        complete: these are all samples of the shard.
        joined: no member of these samples follows in what was not read.
    """

    items: list[Sample | RejectedSample]
    complete: bool
    joined: bool


def first_samples(
    path: StorePath,
    num: int,
    *,
    metadata: frozenset[str],
    load: Callable[[str], bool],
    known: frozenset[str] = frozenset(),
    key_end: str = "first_dot",
    limits: Limits | None = None,
) -> FirstSamples:
    """Read the first samples of a shard.

    Args:
        path: the shard.
        num: number of samples.
        metadata: suffixes whose content is read. Other members have `places` if they are skipped.
        load: whether a suffix is read if members cannot be skipped.
        known, key_end, limits: as of ShardReader.
    Raises:
        MissingError, StoreError.
    """
    try:
        with ShardFile(path, seeks=True) as file:
            members = seek_members(file, path.info().size)
            reads_all = path.local is not None
            return _grouped(file, members, num, metadata, known, key_end, reads_all)
    except SeekError:
        return _sequential(path, num, load=load, known=known, key_end=key_end, limits=limits)


def _grouped(
    file: ShardFile,
    members: Iterator[tuple[str, int, int]],
    num: int,
    metadata: frozenset[str],
    known: frozenset[str],
    key_end: str,
    reads_all: bool,
) -> FirstSamples:
    """Group members by key.

    If the first samples have metadata without media or the reverse, their other members may come
    later in the shard; with `reads_all`, its headers are then read to the end.
    """
    samples: dict[str, FirstSample] = {}
    complete, joined, is_usual = True, True, True
    last = ""
    for name, offset, size in members:
        if is_junk(name):
            continue
        key, suffix = split_name(name, key_end)
        if not key:
            raise SeekError
        if key not in samples:
            if len(samples) >= num:
                complete = False
                if not reads_all or (is_usual and all(map(_is_usual, samples.values()))):
                    joined = False
                    break
                is_usual = False
                continue
            samples[key] = FirstSample(key, len(samples), frozenset(), {})
        elif key != last:
            is_usual = False
        last = key
        sample = samples[key]
        if suffix in sample.suffixes or not (
            suffix.rpartition(".")[2] in MEDIA | TEXT or suffix in known
        ):
            continue
        sample.suffixes |= {suffix}
        if suffix not in metadata:
            sample.places[suffix] = (offset, size)
        elif size <= MAX_LOADED_BYTES:
            sample.members[suffix] = file.read_at(offset, size)
        else:
            raise SeekError
    items = [each for each in samples.values() if each.suffixes]
    return FirstSamples([*items], complete, joined)


def _is_usual(sample: FirstSample) -> bool:
    """Whether a sample seems to have all of its members: metadata and media."""
    return bool(sample.members and sample.places)


def _sequential(
    path: StorePath, num: int, non_contiguous: Mapping[str, int] | None = None, **options: Any
) -> FirstSamples:
    items: list[Sample | RejectedSample] = []
    complete, num_bytes = True, 0
    with ShardFile(path) as file:
        reader = ShardReader(file, hashed=False, non_contiguous=non_contiguous, **options)
        for item in reader:
            if len(items) >= num or num_bytes > SEQUENTIAL_BYTES:
                complete = False
                break
            items.append(item)
            num_bytes += item.num_bytes if isinstance(item, Sample) else 0
    if complete and reader.non_contiguous and non_contiguous is None:
        return _sequential(path, num, reader.non_contiguous, **options)
    return FirstSamples(items, complete, joined=complete)
