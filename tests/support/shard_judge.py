"""Judges how the reader handles a damaged shard: samples are intact or reported, counts add up."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.errors import REASONS
from pipeline.shards.decompress import BLOCK, Stream
from pipeline.shards.limits import Limits
from pipeline.shards.member_suffixes import TEXT
from pipeline.shards.reader import ShardReader, everything
from pipeline.shards.samples import RejectedSample, Sample
from pipeline.shards.tar import read_members
from pipeline.shards.tar_items import Member, TarDamage


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """An intact shard.

    Attributes:
        data: its bytes.
        samples: members of each sample, by key and suffix.
        spans: offset and bytes of each member with its headers, by key.
        flexible: a flipped bit may rename a member.
    """

    data: bytes
    samples: dict[str, dict[str, bytes]]
    spans: dict[str, tuple[tuple[int, bytes], ...]]
    flexible: bool


def judge_shard(data: bytes, original: Shard, limits: Limits, may_rename: bool) -> str:
    """Check that the accounting adds up and that each intact sample is kept or reported.

    Returns the outcome: "whole", "all lost", or the last reason in REASONS.
    """
    kept, lost, reader = read_shard(data, limits, everything)
    again, lost_again, text = read_shard(data, limits, TEXT.__contains__)
    assert text.digest == reader.digest, "the digest depends on what is loaded"
    assert lost_again == lost and {key: again[key].suffixes for key in again} == {
        key: kept[key].suffixes for key in kept
    }, "loading changes what is kept"
    content = (
        data
        if data[:2] != b"\x1f\x8b" and data[:4] != b"\x28\xb5\x2f\xfd"
        else _decompressed(data, limits)
    )
    assert reader.accounting.bytes == len(content), (
        f"{reader.accounting.bytes} bytes of {len(content)} are accounted for"
    )
    reported = {sample.key for sample in lost}
    missing = []
    for key, spans in original.spans.items():
        if key in reported or (
            key in kept and original.samples[key].items() <= kept[key].members.items()
        ):
            continue
        if all(content.startswith(span, at) or span in content for at, span in spans):
            missing.append(key)
    if missing:
        _check_damaged(
            content, limits, [span for key in missing for _, span in original.spans[key]], missing
        )
    assert lost or may_rename or kept.keys() == original.samples.keys(), (
        "a sample is lost without a report"
    )
    return (
        "whole"
        if not lost
        else max({sample.reason for sample in lost}, key=REASONS.index)
        if kept
        else "all lost"
    )


def read_shard(
    data: bytes, limits: Limits, load: Callable[[str], bool]
) -> tuple[dict[str, Sample], list[RejectedSample], ShardReader]:
    """Read a shard, twice if its samples are not contiguous, and check each accounting."""
    non_contiguous: dict[str, int] = {}
    while True:
        reader = ShardReader(
            io.BytesIO(data), limits=limits, load=load, non_contiguous=non_contiguous
        )
        items = list(reader)
        _check_accounting(reader, items)
        if non_contiguous or not reader.non_contiguous:
            break
        non_contiguous = reader.non_contiguous
    kept = [item for item in items if isinstance(item, Sample)]
    assert len({sample.key for sample in kept}) == len(kept), "a key is kept twice"
    return (
        {sample.key: sample for sample in kept},
        [item for item in items if isinstance(item, RejectedSample)],
        reader,
    )


def _check_accounting(reader: ShardReader, items: Sequence[Sample | RejectedSample]) -> None:
    counts = reader.accounting
    assert counts.members == counts.kept + counts.lost + counts.ignored, counts
    num_bytes = [
        counts.bytes_kept,
        counts.bytes_lost,
        counts.bytes_ignored,
        counts.bytes_framing,
    ]
    assert counts.bytes == sum(num_bytes), counts
    assert min(num_bytes) >= 0, counts
    kept, lost = (
        [item for item in items if isinstance(item, Sample)],
        [item for item in items if isinstance(item, RejectedSample)],
    )
    assert (counts.samples, counts.samples_lost) == (len(kept), len(lost)), counts
    assert (counts.kept, counts.lost) == (
        sum(len(sample.suffixes) for sample in kept),
        sum(len(sample.damaged) for sample in lost),
    ), counts
    for sample in lost:
        assert (
            sample.damaged
            and sample.reason in REASONS
            and all(member.reason in REASONS and member.detail for member in sample.damaged)
        ), sample


def _decompressed(data: bytes, limits: Limits) -> bytes:
    stream = Stream(io.BytesIO(data), limits.shard_bytes)
    stream.load(2**40)
    return stream.data


def _check_damaged(
    data: bytes, limits: Limits, spans: Sequence[bytes], keys: Sequence[str]
) -> None:
    """Check that a sample neither kept nor reported overlaps a range that excuses it.

    Excuses: reported damage; an extension header, which may rename it; or a position off the block
    grid inside an intact member, which then contains a tar.
    """
    ranges = list(_ranges(data, limits))
    for span in spans:
        at = data.find(span)
        if any(
            start < at + len(span)
            and at < end
            and (excused or (start < at and (at - start) % BLOCK))
            for start, end, excused in ranges
        ):
            return
    raise AssertionError(f"{keys} are intact, but neither kept nor reported, and overlap no damage")


def _ranges(data: bytes, limits: Limits) -> Iterator[tuple[int, int, bool]]:
    """Start and end of each item, and whether a sample in it may be absent; they cover all."""
    stream, at = Stream(io.BytesIO(data), limits.shard_bytes), 0
    for item in read_members(stream, limits.member_bytes):
        at += item.num_bytes
        extended = (
            isinstance(item, Member) and item.num_bytes > BLOCK + item.size + -item.size % BLOCK
        )
        yield at - item.num_bytes, at, isinstance(item, TarDamage) or extended
    assert at == stream.offset == len(data), f"the items are {at} bytes, the archive {len(data)}"
