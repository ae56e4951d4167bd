"""The content of a shard: samples, rejected samples, and counts of all members and bytes."""

from dataclasses import dataclass

MAX_LISTED = 16
"""Members that the message of a rejected sample lists."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DamagedMember:
    """A member, or a byte range without one, that is in no sample.

    It is damaged, ignored, or part of a rejected sample.

    Attributes:
        key: of the sample that it belongs to, "" if unknown.
        member: name of the member, "" if unknown.
        offset: position in the decompressed shard.
        reason: one of errors.REASONS.
        detail: what is wrong, for people.
    """

    key: str
    member: str
    offset: int
    reason: str
    detail: str


@dataclass(slots=True)
class Sample:
    """A complete sample.

    Attributes:
        key: name of its members up to the first dot of the base name.
        index: its position among the samples of the shard, rejected ones included.
        suffixes: of all its members.
        members: content of the loaded members, by suffix.
        ignored: members whose suffix is not read.
        num_bytes: of its members in the shard, without the ignored ones.
    """

    key: str
    index: int
    suffixes: frozenset[str]
    members: dict[str, bytes]
    ignored: tuple[DamagedMember, ...] = ()
    num_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectedSample:
    """A sample rejected with all its members, or damage that belongs to no known sample."""

    key: str
    reason: str
    damaged: tuple[DamagedMember, ...]

    @property
    def error(self) -> str:
        """Details of the first MAX_LISTED members, as text."""
        details = [
            f"{member.member or 'shard'} at byte {member.offset}: {member.detail}"
            for member in self.damaged[:MAX_LISTED]
        ]
        if len(self.damaged) > MAX_LISTED:
            details.append(f"and {len(self.damaged) - MAX_LISTED} more")
        return "; ".join(details)


@dataclass(kw_only=True, slots=True)
class ByteAccounting:
    """Counts of a shard's samples, members and bytes; every member and byte is counted once.

    members = kept + lost + ignored.
    bytes = bytes_kept + bytes_lost + bytes_ignored + bytes_framing (directories and the end).
    regrouped: complete samples whose members were not contiguous.
    """

    samples: int = 0
    samples_lost: int = 0
    members: int = 0
    kept: int = 0
    lost: int = 0
    ignored: int = 0
    regrouped: int = 0
    bytes: int = 0
    bytes_kept: int = 0
    bytes_lost: int = 0
    bytes_ignored: int = 0
    bytes_framing: int = 0


def is_junk(name: str) -> bool:
    """Whether a file of this name is left by a system or a repository, and belongs to no sample."""
    parts = name.removeprefix("./").split("/")
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or "." not in parts[-1]


def split_name(name: str, key_end: str = "first_dot") -> tuple[str, str]:
    """Split a member's name at the first or last dot of its base name into (key, suffix).

    The suffix is lower case. Returns ("", "") if either would be empty.
    """
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, suffix = base.partition(".") if key_end == "first_dot" else base.rpartition(".")
    return (f"{folder}{slash}{stem}", suffix.lower()) if stem and suffix else ("", "")
