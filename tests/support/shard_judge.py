"""A judge of what a reader makes of a harmed shard: the samples as they were or a named loss each, and an account that balances."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.errors import REASONS
from pipeline.shards.decompress import BLOCK, Stream
from pipeline.shards.limits import Limits
from pipeline.shards.reader import ShardReader, everything, only_text
from pipeline.shards.samples import RejectedSample, Sample
from pipeline.shards.tar import read_members
from pipeline.shards.tar_items import Member, TarDamage


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A whole shard: by key, what a reader gives back of each sample, and the bytes of its members with their headers; `flexible` says a flip may rename."""

    data: bytes
    samples: dict[str, dict[str, bytes]]
    spans: dict[str, tuple[tuple[int, bytes], ...]]
    flexible: bool


def judge_shard(data: bytes, original: Shard, limits: Limits, may_rename: bool) -> str:
    """The account must balance, no loss be silent, and every sample whose bytes are all there be kept as it is, or be named."""
    kept, lost, reader = read_shard(data, limits, everything)
    again, lost_again, text = read_shard(data, limits, only_text)
    assert text.digest == reader.digest, "the digest depends on what is loaded"
    assert lost_again == lost and {key: again[key].suffixes for key in again} == {
        key: kept[key].suffixes for key in kept
    }, "loading changes what is kept"
    unpacked = (
        data
        if data[:2] != b"\x1f\x8b" and data[:4] != b"\x28\xb5\x2f\xfd"
        else _unpacked(data, limits)
    )
    assert reader.accounting.bytes == len(unpacked), (
        f"{reader.accounting.bytes} bytes of {len(unpacked)} are accounted for"
    )
    named = {each.key for each in lost}
    unclear = []
    for key, spans in original.spans.items():
        if key in named or (
            key in kept and original.samples[key].items() <= kept[key].members.items()
        ):
            continue
        if all(unpacked.startswith(span, at) or span in unpacked for at, span in spans):
            unclear.append(key)
    if unclear:
        _check_damaged(
            unpacked, limits, [span for key in unclear for _, span in original.spans[key]], unclear
        )
    assert lost or may_rename or kept.keys() == original.samples.keys(), (
        "a sample is gone in silence"
    )
    return (
        "whole"
        if not lost
        else max({each.reason for each in lost}, key=REASONS.index)
        if kept
        else "all lost"
    )


def read_shard(
    data: bytes, limits: Limits, load: Callable[[str], bool]
) -> tuple[dict[str, Sample], list[RejectedSample], ShardReader]:
    """The samples and losses, read a second time where samples lie apart; every reading's account is checked."""
    torn: dict[str, int] = {}
    while True:
        reader = ShardReader(io.BytesIO(data), limits=limits, load=load, non_contiguous=torn)
        items = list(reader)
        _check_account(reader, items)
        if torn or not reader.non_contiguous:
            break
        torn = reader.non_contiguous
    kept = [item for item in items if isinstance(item, Sample)]
    assert len({sample.key for sample in kept}) == len(kept), "a key is kept twice"
    return (
        {sample.key: sample for sample in kept},
        [item for item in items if isinstance(item, RejectedSample)],
        reader,
    )


def _check_account(reader: ShardReader, items: Sequence[Sample | RejectedSample]) -> None:
    account = reader.accounting
    assert account.members == account.kept + account.lost + account.ignored, account
    assert (
        account.bytes
        == account.bytes_kept + account.bytes_lost + account.bytes_ignored + account.bytes_framing
    ), account
    assert (
        min(account.bytes_kept, account.bytes_lost, account.bytes_ignored, account.bytes_framing)
        >= 0
    ), account
    kept, lost = (
        [item for item in items if isinstance(item, Sample)],
        [item for item in items if isinstance(item, RejectedSample)],
    )
    assert (account.samples, account.samples_lost) == (len(kept), len(lost)), account
    assert (account.kept, account.lost) == (
        sum(len(each.suffixes) for each in kept),
        sum(len(each.damaged) for each in lost),
    ), account
    for each in lost:
        assert (
            each.damaged
            and each.reason in REASONS
            and all(loss.reason in REASONS and loss.detail for loss in each.damaged)
        ), each


def _unpacked(data: bytes, limits: Limits) -> bytes:
    stream = Stream(io.BytesIO(data), limits.shard_bytes)
    stream.load(2**40)
    return stream.data


def _check_damaged(
    data: bytes, limits: Limits, spans: Sequence[bytes], keys: Sequence[str]
) -> None:
    """Bytes of a sample that is neither kept nor named must lie in a stretch that is named, or behind an extension header that renames them.

    Or off the grid of blocks in a member whose size takes them in, and behind which stands what may stand there: that is a file that holds a tar.
    """
    stretches = list(_stretches(data, limits))
    for span in spans:
        at = data.find(span)
        if any(
            start < at + len(span)
            and at < end
            and (excused or (start < at and (at - start) % BLOCK))
            for start, end, excused in stretches
        ):
            return
    raise AssertionError(
        f"{keys} are all there, neither kept nor named, and lie in no damaged stretch"
    )


def _stretches(data: bytes, limits: Limits) -> Iterator[tuple[int, int, bool]]:
    """Of every item of an archive: start, end, and whether a sample in it may be absent; they leave no byte out."""
    stream, at = Stream(io.BytesIO(data), limits.shard_bytes), 0
    for item in read_members(stream, limits.member_bytes):
        at += item.num_bytes
        extended = (
            isinstance(item, Member) and item.num_bytes > BLOCK + item.size + -item.size % BLOCK
        )
        yield at - item.num_bytes, at, isinstance(item, TarDamage) or extended
    assert at == stream.offset == len(data), f"the items are {at} bytes, the archive {len(data)}"
