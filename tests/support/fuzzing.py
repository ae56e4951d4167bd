"""Shards with harm done to them, and a judge of what a reader makes of them; for `benchmarks/fuzz.py`."""

import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from pipeline.config import Limits
from pipeline.errors import REASONS
from pipeline.shards.decompress import BLOCK, Stream
from pipeline.shards.reader import Lost, Sample, ShardReader, everything, only_text
from pipeline.shards.tar import Damage, Member, read_members

SIZES = (0, 1, 7, 8, 100, 511, 512, 513, 1024, 4096)
NUMBERS = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**63 - 1,
    2**63,
    2**64 - 1,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Bytes of a kind, and a judge: it says what came of them in a word, and raises where a promise is broken."""

    name: str
    data: bytes
    judge: Callable[[bytes], str]


Cases = Callable[[int, int], Case]
"""The case of a seed and a number."""


def harmed(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """One harm at a random place: bits, bytes and numbers changed, zeros, pieces put in, taken out, moved and copied, the end cut off, two files spliced."""
    out, at, size = bytearray(data), rng.randrange(len(data) + 1), rng.choice(SIZES)
    if rng.random() < 0.3:
        at -= at % BLOCK
    how = rng.randrange(11)
    if how == 0:
        for _ in range(rng.choice((1, 2, 8, 64))):
            flip(out, rng)
    elif how == 1:
        out[at : at + size] = rng.randbytes(min(size, len(out) - at))
    elif how == 2:
        out[at : at + size] = bytes(min(size, len(out) - at))
    elif how == 3:
        out[at:at] = rng.choice((rng.randbytes(size), bytes(size), b"ustar" * (size // 5)))
    elif how == 4:
        del out[at : at + size]
    elif how == 5:
        del out[at:]
    elif how in (6, 7):
        start = rng.randrange(len(out) + 1)
        piece = bytes(out[start : start + size])
        if how == 6:
            del out[start : start + size]
        out[at:at] = piece
    elif how == 8:
        start = rng.randrange(len(other) + 1)
        out[at:] = other[start - start % BLOCK if rng.random() < 0.5 else start :]
    elif how == 9:
        width = rng.choice((1, 2, 3, 4, 8))
        number = rng.choice((rng.choice(NUMBERS), rng.getrandbits(64))) % 256**width
        out[at : at + width] = number.to_bytes(width, rng.choice(("big", "little")))
    else:
        out += rng.choice((data, other))
    return bytes(out)


def flip(data: bytearray, rng: random.Random) -> None:
    """Changes one bit."""
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A whole shard: by key, what a reader gives back of each sample, and the bytes of its members with their headers; `flexible` says a flip may rename."""

    data: bytes
    samples: dict[str, dict[str, bytes]]
    spans: dict[str, tuple[tuple[int, bytes], ...]]
    flexible: bool


def shard_of(members: Sequence[tuple[str, bytes]], fmt: int, flexible: bool = False) -> Shard:
    """A shard of these members, which all have known suffixes, behind a directory."""
    folder = tarfile.TarInfo("folder")
    folder.type = tarfile.DIRTYPE
    data = folder.tobuf(fmt)
    samples: dict[str, dict[str, bytes]] = {}
    spans: dict[str, list[tuple[int, bytes]]] = {}
    for name, content in members:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        span = info.tobuf(fmt) + content + bytes(-len(content) % BLOCK)
        key, _, suffix = name.partition(".")
        samples.setdefault(key, {})[suffix] = content
        spans.setdefault(key, []).append((len(data), span))
        data += span
    return Shard(
        data=data + bytes(2 * BLOCK),
        samples=samples,
        spans={key: tuple(each) for key, each in spans.items()},
        flexible=flexible,
    )


def shards() -> list[Shard]:
    """One in every format; one whose members lie apart, and one that is longer than the reader's window."""
    rng = random.Random(0)
    made = []
    for fmt, flexible, stem in (
        (tarfile.USTAR_FORMAT, False, "s"),
        (tarfile.PAX_FORMAT, True, "long/" * 30 + "ü"),
        (tarfile.GNU_FORMAT, True, "long/" * 30 + "k"),
    ):
        members = _members(rng, [f"{stem}{i}" for i in range(4)], 1500)
        made.append(shard_of(members, fmt, flexible))
    short = _members(rng, [f"folder/s{i}" for i in range(4)], 700)
    made.append(
        shard_of(
            sorted(short, key=lambda member: member[0].rpartition(".")[2]), tarfile.USTAR_FORMAT
        )
    )
    made.append(
        shard_of(_members(rng, [f"s{i}" for i in range(4)], 400_000), tarfile.PAX_FORMAT, True)
    )
    return made


def _members(rng: random.Random, keys: Sequence[str], most: int) -> list[tuple[str, bytes]]:
    found = []
    for i, key in enumerate(keys):
        found.append((f"{key}.json", json.dumps({"label": i, "split": "train"}).encode()))
        found.append(
            (
                f"{key}.mp4",
                rng.choice(
                    (rng.randbytes(most), b"\0" * most, b"u" * most, b"ustar\0" * (most // 6))
                )[: rng.randrange(most)],
            )
        )
        if i % 2:
            found.append((f"{key}.wav", rng.randbytes(rng.choice((0, 1, 511, 512, 513)))))
    return found


_NAMES = (
    b"",
    b".",
    b"..",
    b"/etc/a.mp4",
    b"a/../b.mp4",
    b"nosuffix",
    b".mp4",
    b"s1.mp4",
    b"s2.json",
    b"s1.pkl",
    b"s9.mp4",
    b"\xff\xfe.mp4",
    b"x" * 100,
)
_FIELDS = {
    "name": (0, 100),
    "size": (124, 12),
    "checksum": (148, 8),
    "kind": (156, 1),
    "magic": (257, 8),
    "prefix": (345, 155),
    "any": (0, 512),
}


def header_edited(data: bytes, rng: random.Random) -> bytes:
    """One field of one header changed, with a checksum that is right."""
    places = [
        at for at in range(0, len(data) - BLOCK + 1, BLOCK) if data.startswith(b"ustar", at + 257)
    ]
    if not places:
        return data
    at = rng.choice(places)
    header = bytearray(data[at : at + BLOCK])
    field = rng.choice(list(_FIELDS))
    start, width = _FIELDS[field]
    if field == "size":
        size = rng.choice((*SIZES, 2**20, 2**33, 2**62, 2**87, rng.randrange(20_000)))
        new = rng.choice(
            (
                b"%011o\0" % size,
                b"\x80" + size.to_bytes(11, "big"),
                b"\xff" + (256**11 - 1 - size).to_bytes(11, "big"),
                rng.randbytes(12),
            )
        )
    elif field == "any":
        start, width = rng.randrange(BLOCK), 1
        new = rng.randbytes(1)
    else:
        choices = {
            "kind": [b"0", b"\0", b"5", b"1", b"2", b"x", b"g", b"L", b"K", b"S", b"7", b"Z"],
            "magic": [b"ustar\x0000", b"ustar  \0", b"ustarXYZ"],
        }
        new = rng.choice([*choices.get(field, _NAMES), rng.randbytes(width)])
    header[start : start + width] = new[:width].ljust(width, b"\0")
    if field != "checksum" or rng.random() < 0.5:
        header[148:156] = rng.choice((b"%06o\0 ", b"%07o\0", b"%06o  ", b" %06o\0")) % (
            sum(header) - sum(header[148:156]) + 8 * 32
        )
    return data[:at] + header + data[at + BLOCK :]


def extension_put_in(data: bytes, rng: random.Random) -> bytes:
    """An extension header somewhere, with records that are right or not."""
    value = rng.choice([*_NAMES, b"-1", b"0", b"600", b"9" * 30, b"1" * 5000, rng.randbytes(8)])
    record = b" %b=%b\n" % (
        rng.choice((b"path", b"size", b"linkpath", b"GNU.sparse.name", b"GNU.sparse.realsize")),
        value,
    )
    length = len(record) + len(str(len(record) + 3)) + rng.choice((0, 0, 0, 1, -1))
    content = rng.choice((b"%d%b" % (length, record), record, value, value + b"\0"))
    info = tarfile.TarInfo("extension")
    info.type, info.size = (
        rng.choice((b"x", b"g", b"L", b"K")),
        len(content) + rng.choice((0, 0, 0, 1, 512, 2**21)),
    )
    at = rng.randrange(len(data) + 1)
    at -= at % BLOCK
    return (
        data[:at]
        + info.tobuf(tarfile.USTAR_FORMAT)
        + content
        + bytes(-len(content) % BLOCK)
        + data[at:]
    )


_LIMITS = (
    *[Limits()] * 8,
    Limits(member_bytes=1000),
    Limits(sample_bytes=3000),
    Limits(shard_bytes=9000),
)


def tar_cases(_: Path) -> Cases:
    """Shards, one in eight of them packed before or after the harm."""
    made = shards()

    def case(seed: int, number: int) -> Case:
        rng = random.Random(f"tar {seed} {number}")
        which = rng.choices(range(len(made)), (30, 30, 30, 20, 1))[0]
        original, data, num = made[which], made[which].data, rng.choice((1, 1, 2, 3))
        one_bit = rng.random() < 0.1
        pack, harmed_when_packed = (
            rng.choices((bytes, _gzip, _zstd), (14, 1, 1))[0],
            rng.random() < 0.6,
        )
        if pack is not bytes and harmed_when_packed:
            data, other = pack(data), pack(made[0].data)
            for _ in range(num):
                data = harmed(data, rng, other)
        elif one_bit:
            changed = bytearray(data)
            flip(changed, rng)
            data = pack(bytes(changed))
        else:
            for _ in range(num):
                how = rng.random()
                other = rng.choice(made[:4]).data
                data = (
                    header_edited(data, rng)
                    if how < 0.3
                    else extension_put_in(data, rng)
                    if how < 0.4
                    else harmed(data, rng, other)
                )
            data = pack(data)
        silent = (
            one_bit and not original.flexible and not (pack is not bytes and harmed_when_packed)
        )
        judge = partial(
            judge_shard, original=original, limits=rng.choice(_LIMITS), may_rename=not silent
        )
        return Case(name=f"{which}.tar", data=data, judge=judge)

    return case


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


def _zstd(data: bytes) -> bytes:
    return b"".join(
        bytes(pa.compress(data[at : at + 4096], codec="zstd", asbytes=True))
        for at in range(0, len(data), 4096)
    )


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
    assert reader.account.bytes == len(unpacked), (
        f"{reader.account.bytes} bytes of {len(unpacked)} are accounted for"
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
) -> tuple[dict[str, Sample], list[Lost], ShardReader]:
    """The samples and losses, read a second time where samples lie apart; every reading's account is checked."""
    torn: dict[str, int] = {}
    while True:
        reader = ShardReader(io.BytesIO(data), limits=limits, load=load, torn=torn)
        items = list(reader)
        _check_account(reader, items)
        if torn or not reader.apart:
            break
        torn = reader.apart
    kept = [item for item in items if isinstance(item, Sample)]
    assert len({sample.key for sample in kept}) == len(kept), "a key is kept twice"
    return (
        {sample.key: sample for sample in kept},
        [item for item in items if isinstance(item, Lost)],
        reader,
    )


def _check_account(reader: ShardReader, items: Sequence[Sample | Lost]) -> None:
    account = reader.account
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
        [item for item in items if isinstance(item, Lost)],
    )
    assert (account.samples, account.samples_lost) == (len(kept), len(lost)), account
    assert (account.kept, account.lost) == (
        sum(len(each.suffixes) for each in kept),
        sum(len(each.losses) for each in lost),
    ), account
    for each in lost:
        assert (
            each.losses
            and each.reason in REASONS
            and all(loss.reason in REASONS and loss.detail for loss in each.losses)
        ), each


def _unpacked(data: bytes, limits: Limits) -> bytes:
    stream = Stream(io.BytesIO(data), limits.shard_bytes)
    stream.ahead(2**40)
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
        yield at - item.num_bytes, at, isinstance(item, Damage) or extended
    assert at == stream.offset == len(data), f"the items are {at} bytes, the archive {len(data)}"
