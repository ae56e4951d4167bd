"""Cases for `benchmarks/fuzz.py`: shards with mutated bytes, headers or compression."""

import json
import random
import tarfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipeline.shards.decompress import BLOCK
from pipeline.shards.limits import Limits
from tests.support.fuzzing import SIZES, Case, Cases, flip, harmed
from tests.support.shard_judge import Shard, judge_shard
from tests.support.shard_reading import gz, zst


def shard_of(members: Sequence[tuple[str, bytes]], fmt: int, flexible: bool = False) -> Shard:
    """A shard with a directory entry and these members, which must have known suffixes."""
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
    """One shard per format, a non-contiguous one, and one larger than the reader's window."""
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
    non_contiguous = sorted(short, key=lambda member: member[0].rpartition(".")[2])
    made.append(shard_of(non_contiguous, tarfile.USTAR_FORMAT))
    long = _members(rng, [f"s{i}" for i in range(4)], 400_000)
    made.append(shard_of(long, tarfile.PAX_FORMAT, True))
    return made


def _members(rng: random.Random, keys: Sequence[str], most: int) -> list[tuple[str, bytes]]:
    members = []
    for i, key in enumerate(keys):
        patterns = (rng.randbytes(most), b"\0" * most, b"u" * most, b"ustar\0" * (most // 6))
        members.append((f"{key}.json", json.dumps({"label": i, "split": "train"}).encode()))
        members.append((f"{key}.mp4", rng.choice(patterns)[: rng.randrange(most)]))
        if i % 2:
            members.append((f"{key}.wav", rng.randbytes(rng.choice((0, 1, 511, 512, 513)))))
    return members


_NAMES = (
    *b" . .. /etc/a.mp4 a/../b.mp4 nosuffix .mp4 s1.mp4 s2.json s1.pkl s9.mp4".split(b" "),
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
    """Change one field of one header, usually with a correct checksum."""
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
    """Insert an extension header with a valid or invalid record."""
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
    """Cases of mutated shards; one in eight is compressed, before or after the mutation."""
    made = shards()

    def case(seed: int, number: int) -> Case:
        rng = random.Random(f"tar {seed} {number}")
        which = rng.choices(range(len(made)), (30, 30, 30, 20, 1))[0]
        original, data, num = made[which], made[which].data, rng.choice((1, 1, 2, 3))
        one_bit = rng.random() < 0.1
        pack = rng.choices((bytes, gz, zst), (14, 1, 1))[0]
        harmed_when_packed = rng.random() < 0.6 and pack is not bytes
        if harmed_when_packed:
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
        silent = one_bit and not original.flexible and not harmed_when_packed
        judge = partial(
            judge_shard, original=original, limits=rng.choice(_LIMITS), may_rename=not silent
        )
        return Case(name=f"{which}.tar", data=data, judge=judge)

    return case
