"""A catalogue of damaged shards, with the samples that can be recovered and the damage to report.

Recoverable is what a person with a hex editor could save, who trusts no header with a wrong
checksum, since any of its bytes may have changed, and guesses no name.
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
"""Number of the damaged sample."""
FRAME = 2**14
"""Bytes of the shard per zstd frame, the most that a cut in a frame loses."""
Samples = Mapping[str, Mapping[str, bytes]]
Losses = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A damaged shard.

    Attributes:
        data: its bytes.
        kept: the recoverable samples.
        losses: (member, reason) of each loss.
        at: offset of the first loss in the decompressed shard.
        regrouped: number of recoverable samples that are not contiguous.
        suffix: of its file name.
    """

    data: bytes
    kept: Samples
    losses: Losses = ()
    at: int = 0
    regrouped: int = 0
    suffix: str = ".tar"

    @property
    def lost_keys(self) -> set[str]:
        """Keys of the lost members."""
        return {name.rpartition(".")[0] for name, _ in self.losses} - {""}


class Entry(NamedTuple):
    """A member of an intact shard; `end` is the end of its padding."""

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
                member.name,
                member.offset,
                member.offset_data,
                member.size,
                member.offset_data + -(-member.size // BLOCK) * BLOCK,
            )
            for member in file
        ]


def samples_of(tar: bytes) -> dict[str, dict[str, bytes]]:
    """The samples of an intact shard by key and suffix."""
    samples: dict[str, dict[str, bytes]] = {}
    for entry in entries(tar):
        key, _, suffix = entry.name.rpartition(".")
        samples.setdefault(key, {})[suffix] = tar[entry.start : entry.start + entry.size]
    return samples


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """A header block with a correct checksum."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf(tarfile.GNU_FORMAT)


def catalogue(tar: bytes) -> dict[str, Case]:
    """Damaged versions of a shard, by what was done to it.

    The shard is an intact ustar archive of more than HURT + 4 samples of .json and .mp4, in order.
    """
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
        """Samples that end before this byte."""
        return {
            entry.name.removesuffix(".mp4"): self.samples[entry.name.removesuffix(".mp4")]
            for entry in self.entries[1::2]
            if entry.start + entry.size <= end
        }

    def without_mp4(self, reason: str, name: str = "") -> Losses:
        """Losses if only the .json of the damaged sample is intact."""
        return (name, reason), (self.json.name, "missing_member")

    def cuts(self) -> dict[str, Case]:
        at = self.json.offset
        header, data = self.mp4.offset + 200, self.mp4.start + self.mp4.size // 2
        no_member, only_mp4 = (("", "truncated"),), self.without_mp4("truncated")
        inside = ((self.mp4.name, "truncated"), (self.json.name, "truncated"))
        cuts = {
            "cut between two samples": (at, no_member, at),
            "cut between two members of a sample": (self.mp4.offset, only_mp4, at),
            "cut inside a header": (header, only_mp4, at),
            "cut inside data": (data, inside, at),
            "last blocks missing": (self.end, no_member, self.end),
        }
        return {
            what: Case(self.tar[:cut], self.before(cut), losses, first)
            for what, (cut, losses, first) in cuts.items()
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
                self.without_mp4("bad_header", name),
                self.json.offset,
            )
            for what, (start, new, name) in over.items()
        } | {
            what: Case(self.with_bytes(at, filling), self.samples, (("", "bad_header"),), at)
            for what, filling in between.items()
        }

    def names(self) -> dict[str, Case]:
        members = [
            (entry.name, self.tar[entry.start : entry.start + entry.size]) for entry in self.entries
        ]
        first, num = 2 * HURT, len(self.samples)
        again = [(self.json.name, b'{"label": "another"}'), (self.mp4.name, b"another")]
        later = make_tar([*members[: first + 6], *again, *members[first + 6 :]])
        adjacent = make_tar([*members[: first + 2], *again, *members[first + 2 :]])
        two = members[first : first + 4]
        crossed = make_tar([*members[:first], *two[::2], *two[1::2], *members[first + 4 :]])
        by_suffix = make_tar(members[::2] + members[1::2])
        both = tuple((name, "duplicate") for name, _ in again)
        after = self.entries[first + 6].offset
        return {
            "a key twice, apart": Case(later, self.samples, both, after),
            "a key twice, side by side": Case(adjacent, self.others, both + both, self.json.offset),
            "the members of two samples interleaved": Case(crossed, self.samples, regrouped=2),
            "all .json first, then all .mp4": Case(by_suffix, self.samples, regrouped=num),
        }

    def sizes(self) -> dict[str, Case]:
        swallowing = self.entries[2 * HURT + 4].end - self.mp4.start
        sizes = {
            "a size that swallows three members": swallowing,
            "a size beyond the file": 2**40,
            "a size that is too small": self.mp4.size // 3,
        }
        both = ((self.mp4.name, "truncated"), (self.json.name, "truncated"))
        cases = {}
        for what, size in sizes.items():
            data = self.with_bytes(self.mp4.offset, header(self.mp4.name, size), BLOCK)
            rest = (("", "bad_header"),) if size < self.mp4.size else ()
            cases[what] = Case(data, self.others, (*both, *rest), self.json.offset)
        return cases

    def archives(self) -> dict[str, Case]:
        half = self.json.offset
        complete = gzip.compress(self.tar, 1, mtime=0)
        cut = complete[: len(complete) // 2]
        frames = [
            pa.compress(self.tar[at : at + FRAME], codec="zstd", asbytes=True)
            for at in range(0, len(self.tar), FRAME)
        ]
        num = len(frames) // 2
        num_bytes = len(zlib.decompressobj(wbits=31).decompress(cut))
        last = b"".join(frames[:num]) + frames[num][:-9]
        twice = self.tar[:half] + bytes(2 * BLOCK) + self.tar[half:]
        return {
            "two archives, one behind the other": Case(twice, self.samples),
            "gzip cut in the middle": self.compressed(cut, num_bytes, ".tar.gz"),
            "zstd cut in the middle": self.compressed(last, num * FRAME, ".tar.zst"),
        }

    def compressed(self, data: bytes, num_bytes: int, suffix: str) -> Case:
        """A compressed shard that is cut short and decompresses to `num_bytes` bytes."""
        last = next(i for i, entry in enumerate(self.entries) if entry.end > num_bytes)
        begun = self.entries[last - last % 2 : last + 1]
        reason = "truncated" if num_bytes >= begun[-1].offset + BLOCK else "missing_member"
        losses = [
            ("", "truncated"),
            *((entry.name, reason) for entry in begun if num_bytes >= entry.offset + BLOCK),
        ]
        if 0 < num_bytes - begun[-1].offset < BLOCK:
            losses.append(("", "truncated"))  # the header that is cut
        at = begun[0].offset if len(losses) > 1 else num_bytes
        return Case(data, self.before(num_bytes), tuple(losses), at, suffix=suffix)

    def refused(self) -> dict[str, Case]:
        odd = {
            "link.mp4": tarfile.SYMTYPE,
            "hard.mp4": tarfile.LNKTYPE,
            "null.mp4": tarfile.CHRTYPE,
        }
        special = b"".join(header(name, 0, kind, "/etc/passwd") for name, kind in odd.items())
        outside = ("/etc/cron.d/a.json", "../a.json")
        unknown = (f"{self.key}.pkl", f"{self.key}.pyd")
        inserted = {
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
            for what, (at, new, names, reason) in inserted.items()
        } | {"pax long names, one extension header damaged": self.long_names()}

    def long_names(self) -> Case:
        folder = "folder/" * 30
        members = [
            (f"{folder}{entry.name}", self.tar[entry.start : entry.start + entry.size])
            for entry in self.entries
        ]
        data = make_tar(members, tarfile.PAX_FORMAT)
        # the block of the records, which follows their header
        start = data.index(f"path={folder}{self.mp4.name}\n".encode()) // BLOCK * BLOCK
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
    """Small members with these names."""
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
