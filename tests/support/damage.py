"""The catalogue of damaged shards: what was done to each, which samples a human with a hex editor could save of it, and what has to be named.

A human trusts no header whose checksum is wrong, since any of its bytes may be the one that changed, and knows no name that is not there.
"""

import gzip
import io
import random
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from tests.support.media_files import make_tar

BLOCK = 512
HURT = 20
"""The number of the sample that is damaged."""
FRAME = 2**14
"""Bytes of the shard in each frame of zstd, which is the most that a cut in it costs."""
Samples = Mapping[str, Mapping[str, bytes]]
Losses = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A damaged shard, the samples that can be saved, and (member, reason) of each loss, the first of them at byte `at` of the unpacked shard."""

    data: bytes
    kept: Samples
    losses: Losses = ()
    at: int = 0
    regrouped: int = 0
    suffix: str = ".tar"

    @property
    def lost_keys(self) -> set[str]:
        """The keys among the names of what is lost."""
        return {name.rpartition(".")[0] for name, _ in self.losses} - {""}


class Entry(NamedTuple):
    """A member of an intact shard; `end` is behind its padding."""

    name: str
    offset: int
    start: int
    size: int
    end: int


def entries(tar: bytes) -> list[Entry]:
    """The members of an intact shard in order."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        return [
            Entry(
                one.name,
                one.offset,
                one.offset_data,
                one.size,
                one.offset_data + -(-one.size // BLOCK) * BLOCK,
            )
            for one in file
        ]


def samples_of(tar: bytes) -> dict[str, dict[str, bytes]]:
    """The samples of an intact shard by key and suffix."""
    found: dict[str, dict[str, bytes]] = {}
    for one in entries(tar):
        key, _, suffix = one.name.rpartition(".")
        found.setdefault(key, {})[suffix] = tar[one.start : one.start + one.size]
    return found


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """A block that says so, with a right checksum."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf(tarfile.GNU_FORMAT)


def catalogue(tar: bytes) -> dict[str, Case]:
    """The cases by what was done to this shard, which is intact, ustar, and of samples of .json and .mp4 in this order, more than HURT + 4 of them."""
    shard = _Shard(tar)
    return {
        **shard.cuts(),
        **shard.fillings(),
        **shard.names(),
        **shard.sizes(),
        **shard.archives(),
        **shard.refused(),
    }


class _Shard:
    def __init__(self, tar: bytes) -> None:
        self.tar, self.entries, self.samples = tar, entries(tar), samples_of(tar)
        self.json, self.mp4 = self.entries[2 * HURT : 2 * HURT + 2]
        self.key = self.json.name.removesuffix(".json")
        self.others = {key: members for key, members in self.samples.items() if key != self.key}
        self.end = self.entries[-1].end

    def with_bytes(self, at: int, new: bytes, instead_of: int = 0) -> bytes:
        return self.tar[:at] + new + self.tar[at + instead_of :]

    def before(self, end: int) -> Samples:
        """The samples that end before this byte."""
        return {
            one.name.removesuffix(".mp4"): self.samples[one.name.removesuffix(".mp4")]
            for one in self.entries[1::2]
            if one.start + one.size <= end
        }

    def without_mp4(self, reason: str, named: str = "") -> Losses:
        """The losses where the damaged sample has its .json alone."""
        return (named, reason), (self.json.name, "missing_member")

    def cuts(self) -> dict[str, Case]:
        at = self.json.offset
        header, data = self.mp4.offset + 200, self.mp4.start + self.mp4.size // 2
        nothing, beside = (("", "truncated"),), self.without_mp4("truncated")
        inside = ((self.mp4.name, "truncated"), (self.json.name, "truncated"))
        places = {
            "cut between two samples": (at, nothing, at),
            "cut between two members of a sample": (self.mp4.offset, beside, at),
            "cut inside a header": (header, beside, at),
            "cut inside data": (data, inside, at),
            "last blocks missing": (self.end, nothing, self.end),
        }
        return {
            what: Case(self.tar[:cut], self.before(cut), losses, first)
            for what, (cut, losses, first) in places.items()
        }

    def fillings(self) -> dict[str, Case]:
        noise, at = random.Random(0), self.mp4.offset
        between = {
            "512 zero bytes between two members": bytes(BLOCK),
            "1,024 bytes of garbage between two members": noise.randbytes(2 * BLOCK),
            "700 bytes of garbage between two members": noise.randbytes(700),
        }
        over = {
            "one bad checksum": (at + 148, b"777777", self.mp4.name),
            "512 zero bytes over a header": (at, bytes(BLOCK), ""),
        }
        return {
            what: Case(
                self.with_bytes(start, new, len(new)),
                self.others,
                self.without_mp4("bad_header", named),
                self.json.offset,
            )
            for what, (start, new, named) in over.items()
        } | {
            what: Case(self.with_bytes(at, filling), self.samples, (("", "bad_header"),), at)
            for what, filling in between.items()
        }

    def names(self) -> dict[str, Case]:
        members = [(one.name, self.tar[one.start : one.start + one.size]) for one in self.entries]
        first, num = 2 * HURT, len(self.samples)
        again = [(self.json.name, b'{"label": "another"}'), (self.mp4.name, b"another")]
        later = make_tar([*members[: first + 6], *again, *members[first + 6 :]])
        beside = make_tar([*members[: first + 2], *again, *members[first + 2 :]])
        two = members[first : first + 4]
        crossed = make_tar([*members[:first], *two[::2], *two[1::2], *members[first + 4 :]])
        apart = make_tar(members[::2] + members[1::2])
        both = tuple((name, "duplicate") for name, _ in again)
        behind = self.entries[first + 6].offset
        return {
            "a key twice, apart": Case(later, self.samples, both, behind),
            "a key twice, side by side": Case(beside, self.others, both + both, self.json.offset),
            "the members of two samples interleaved": Case(crossed, self.samples, regrouped=2),
            "all .json first, then all .mp4": Case(apart, self.samples, regrouped=num),
        }

    def sizes(self) -> dict[str, Case]:
        swallowing = self.entries[2 * HURT + 4].end - self.mp4.start
        reasons = {
            "a size that swallows three members": swallowing,
            "a size beyond the file": 2**40,
            "a size that is too small": self.mp4.size // 3,
        }
        lie = ((self.mp4.name, "truncated"), (self.json.name, "truncated"))
        cases = {}
        for what, size in reasons.items():
            data = self.with_bytes(self.mp4.offset, header(self.mp4.name, size), BLOCK)
            rest = (("", "bad_header"),) if size < self.mp4.size else ()
            cases[what] = Case(data, self.others, (*lie, *rest), self.json.offset)
        return cases

    def archives(self) -> dict[str, Case]:
        half = self.json.offset
        whole = gzip.compress(self.tar, 1, mtime=0)
        cut = whole[: len(whole) // 2]
        frames = [
            pa.compress(self.tar[at : at + FRAME], codec="zstd", asbytes=True)
            for at in range(0, len(self.tar), FRAME)
        ]
        num = len(frames) // 2
        there = len(zlib.decompressobj(wbits=31).decompress(cut))
        last = b"".join(frames[:num]) + frames[num][:-9]
        twice = self.tar[:half] + bytes(2 * BLOCK) + self.tar[half:]
        return {
            "two archives, one behind the other": Case(twice, self.samples),
            "gzip cut in the middle": self.packed(cut, there, ".tar.gz"),
            "zstd cut in the middle": self.packed(last, num * FRAME, ".tar.zst"),
        }

    def packed(self, data: bytes, there: int, suffix: str) -> Case:
        """A shard that is cut where it is packed, `there` bytes of it unpacked."""
        last = next(i for i, one in enumerate(self.entries) if one.end > there)
        begun = self.entries[last - last % 2 : last + 1]
        reason = "truncated" if there >= begun[-1].offset + BLOCK else "missing_member"
        losses = [
            ("", "truncated"),
            *((one.name, reason) for one in begun if there >= one.offset + BLOCK),
        ]
        if 0 < there - begun[-1].offset < BLOCK:
            losses.append(("", "truncated"))  # of the header that is cut
        at = begun[0].offset if len(losses) > 1 else there
        return Case(data, self.before(there), tuple(losses), at, suffix=suffix)

    def refused(self) -> dict[str, Case]:
        odd = {
            "link.mp4": tarfile.SYMTYPE,
            "hard.mp4": tarfile.LNKTYPE,
            "null.mp4": tarfile.CHRTYPE,
        }
        special = b"".join(header(name, 0, kind, "/etc/passwd") for name, kind in odd.items())
        outside = ("/etc/cron.d/a.json", "../a.json")
        unknown = (f"{self.key}.pkl", f"{self.key}.pyd")
        put_in = {
            "links and a device": (self.json.offset, special, tuple(odd), "wrong_type"),
            "an absolute name and one with ..": (
                self.json.offset,
                _harm(*outside),
                outside,
                "bad_header",
            ),
            "members .pkl and .pyd": (self.mp4.end, _harm(*unknown), unknown, "wrong_type"),
        }
        return {
            what: Case(
                self.with_bytes(at, new), self.samples, tuple((name, reason) for name in names), at
            )
            for what, (at, new, names, reason) in put_in.items()
        } | {"pax long names, one extension header damaged": self.long_names()}

    def long_names(self) -> Case:
        folder = "folder/" * 30
        members = [
            (f"{folder}{one.name}", self.tar[one.start : one.start + one.size])
            for one in self.entries
        ]
        data = make_tar(members, tarfile.PAX_FORMAT)
        start = (
            data.index(f"path={folder}{self.mp4.name}\n".encode()) // BLOCK * BLOCK
        )  # of the records; their header is before them
        with tarfile.open(fileobj=io.BytesIO(data)) as file:
            at = file.getmember(f"{folder}{self.json.name}").offset_data - BLOCK
        data = data[:start] + b"\xff" * BLOCK + data[start + BLOCK :]
        guess = f"{folder}{self.mp4.name}".encode()[:100].decode()
        losses = (
            ("", "bad_header"),
            (guess, "bad_header"),
            (f"{folder}{self.json.name}", "missing_member"),
        )
        kept = {f"{folder}{key}": members for key, members in self.others.items()}
        return Case(data, kept, losses, at)


def _harm(*names: str) -> bytes:
    """Members of these names."""
    return b"".join(header(name, 4) + b"harm".ljust(BLOCK, b"\0") for name in names)


def make_shard(samples: Samples) -> bytes:
    """An intact shard in ustar format."""
    return make_tar(
        [
            (f"{key}.{suffix}", data)
            for key, members in samples.items()
            for suffix, data in members.items()
        ]
    )
