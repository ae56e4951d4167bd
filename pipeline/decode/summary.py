"""How far a decode job has come, and what it produced."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a stage ("scan" or "decode") has come."""

    stage: str
    num_done: int
    num_shards: int
    num_rows: int
    num_rejected: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeSummary:
    """What came of a decode job: `ignored` members by suffix, `unchanged` where the feature set was finished before, `notes` for what one should know."""

    fingerprint: str
    num_rows: int
    num_rejected: int
    reasons: dict[str, int]
    splits: dict[str, int]
    ignored: dict[str, int]
    num_shards: int
    num_reused: int
    unchanged: bool
    notes: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """How many rows there are, and what was left out."""
        reasons = ", ".join(f"{reason} {num}" for reason, num in self.reasons.items())
        rejected = f"{self.num_rejected} rejected{f' ({reasons})' if reasons else ''}"
        ignored = (
            f", {sum(self.ignored.values())} members of unknown suffix left out ({', '.join(self.ignored)})"
            if self.ignored
            else ""
        )
        return f"{self.num_rows} rows, {rejected}{ignored}"


def summary_of(
    manifest: dict[str, Any], *, num_reused: int, unchanged: bool, notes: Sequence[str] = ()
) -> DecodeSummary:
    """The summary of a feature set from its manifest."""
    told = [*notes]
    told += [
        f"no sample is in the split {split!r}"
        for split, num in manifest["splits"].items()
        if not num
    ]
    if unchanged:
        told.append("the feature set was finished before: nothing was decoded")
    apart = sum(part["account"]["regrouped"] for part in manifest["parts"])
    if apart:
        told.append(f"{apart} samples whose members lie apart in their shard were put together")
    return DecodeSummary(
        fingerprint=manifest["fingerprint"],
        num_rows=manifest["num_rows"],
        num_rejected=manifest["num_rejected"],
        reasons=manifest["reasons"],
        ignored=manifest["ignored"],
        splits=manifest["splits"],
        num_shards=len(manifest["parts"]),
        num_reused=num_reused,
        unchanged=unchanged,
        notes=told,
    )
