"""What a shard holds: whole samples, losses, and an account of every member and byte."""

from dataclasses import dataclass

MAX_TOLD = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class DamagedMember:
    """One member, or stretch of a shard, that is not part of any sample; `reason` is one of errors.REASONS."""

    key: str
    member: str
    offset: int
    reason: str
    detail: str


@dataclass(slots=True)
class Sample:
    """One whole sample: the number of its place in the shard, all its suffixes, the members that were asked for by suffix, and those of unknown suffix."""

    key: str
    index: int
    suffixes: frozenset[str]
    members: dict[str, bytes]
    ignored: tuple[DamagedMember, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectedSample:
    """A sample, or a stretch of a shard whose samples are not known, that is lost with all of these members."""

    key: str
    reason: str
    losses: tuple[DamagedMember, ...]

    @property
    def error(self) -> str:
        """What happened, member by member, the first few in words."""
        told = [
            f"{loss.member or 'shard'} at byte {loss.offset}: {loss.detail}"
            for loss in self.losses[:MAX_TOLD]
        ]
        return "; ".join(
            told
            + ([f"and {len(self.losses) - MAX_TOLD} more"] if len(self.losses) > MAX_TOLD else [])
        )


@dataclass(kw_only=True, slots=True)
class ByteAccounting:
    """Of a shard: members = kept + lost + ignored, bytes = those of the kept, the lost, the ignored and of what holds no file; `regrouped` lay apart."""

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


def split_name(name: str) -> tuple[str, str]:
    """A member's name as (key, suffix), split at the first dot of the base name; ("", "") where it has no key or no suffix."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, suffix = base.partition(".")
    return (f"{folder}{slash}{stem}", suffix.lower()) if stem and suffix else ("", "")
