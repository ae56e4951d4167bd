"""Progress and result of a decode job."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.shards.member_formats import mislabelled_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Progress of a stage, "decode" or "verify"; `num_done` counts shards."""

    stage: str
    num_done: int
    num_shards: int
    num_rows: int
    num_rejected: int

    @property
    def text(self) -> str:
        """Stage and counts, to be followed by the number of shards."""
        counts = f": {self.num_rows} rows, {self.num_rejected} rejected"
        return f"{self.stage}{counts if self.stage == 'decode' else ''}; shards"


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeSummary:
    """Result of a decode job.

    Attributes:
        reasons: number of rejected samples by reason.
        splits: number of rows by split.
        ignored: number of members with an unknown suffix, by suffix.
        mislabelled: number of members decoded as another format than their suffix, by suffix and
            format.
        unread: number of media that no modality reads, by suffix, and of streams of clips, by kind.
        num_reused: number of shards whose rows an earlier job had decoded.
        unchanged: the feature set was already complete, and nothing was written.
        notes: messages for the user.
    """

    fingerprint: str
    num_rows: int
    num_rejected: int
    reasons: dict[str, int]
    splits: dict[str, int]
    ignored: dict[str, int]
    mislabelled: dict[str, dict[str, int]]
    unread: dict[str, int]
    num_shards: int
    num_reused: int
    unchanged: bool
    notes: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """One line with the number of rows, rejected samples, ignored and mislabelled members."""
        reasons = ", ".join(f"{reason} {num}" for reason, num in self.reasons.items())
        rejected = f"{self.num_rejected} rejected{f' ({reasons})' if reasons else ''}"
        ignored = (
            f", {sum(self.ignored.values())} members of unknown suffix left out"
            f" ({', '.join(self.ignored)})"
            if self.ignored
            else ""
        )
        mislabelled = (
            f", members decoded by content ({mislabelled_text(self.mislabelled)})"
            if self.mislabelled
            else ""
        )
        counts = ", ".join(f"{num} {what}" for what, num in self.unread.items())
        unread = f", media that no modality reads ({counts})" if counts else ""
        return f"{self.num_rows} rows, {rejected}{ignored}{mislabelled}{unread}"


def summary_of(
    manifest: dict[str, Any], *, num_reused: int, unchanged: bool, notes: Sequence[str] = ()
) -> DecodeSummary:
    """Summarize a feature set from its manifest; `notes` come first among its notes."""
    all_notes = [*notes]
    all_notes += [
        f"{missing} of {manifest['num_rows']} samples lack modality {name!r}"
        for name, spec in manifest["modalities"].items()
        if (missing := manifest["num_rows"] - spec["num_rows"])
    ]
    all_notes += [
        f"split {split!r} is empty" for split, num in manifest["splits"].items() if not num
    ]
    if unchanged:
        all_notes.append("already decoded; reused")
    num_regrouped = sum(part["account"]["regrouped"] for part in manifest["parts"])
    if num_regrouped:
        all_notes.append(f"{num_regrouped} samples with non-contiguous members were reassembled")
    return DecodeSummary(
        fingerprint=manifest["fingerprint"],
        num_rows=manifest["num_rows"],
        num_rejected=manifest["num_rejected"],
        reasons=manifest["reasons"],
        ignored=manifest["ignored"],
        mislabelled=manifest.get("mislabelled", {}),
        unread=manifest.get("unread", {}),
        splits=manifest["splits"],
        num_shards=len(manifest["parts"]),
        num_reused=num_reused,
        unchanged=unchanged,
        notes=all_notes,
    )
