"""What of a shard is read: the rules of samples, the suffixes that modalities read, and limits."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.shards.limits import Limits
from pipeline.shards.sample_rules import SampleRules


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How shards are read.

    Attributes:
        members: suffixes that modalities read; None if no modality is known.
        ignore: suffixes of media that are left out on purpose.
        max_unread_share: maximum fraction of media that may be left out otherwise.
    """

    limits: Limits = field(default_factory=Limits)
    rules: SampleRules = field(default_factory=SampleRules)
    members: frozenset[str] | None = None
    ignore: frozenset[str] = frozenset()
    max_unread_share: float = 1.0

    @property
    def loaded(self) -> frozenset[str]:
        """Suffixes of the members that decoding needs."""
        return (self.members or frozenset()) | self.rules.metadata

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of ShardReader."""
        return {
            "limits": self.limits,
            "known": self.loaded,
            "key_end": self.rules.key_end,
        }

    def unread(self, suffixes: Mapping[str, int]) -> dict[str, int]:
        """Of numbers of members by suffix, those of media that no modality reads."""
        if self.members is None:
            return {}
        return {
            suffix: num
            for suffix, num in sorted(suffixes.items())
            if self.rules.is_medium(suffix)
            and suffix not in self.members
            and self.ignore.isdisjoint((suffix, suffix.rpartition(".")[2]))
        }

    def unread_share(self, suffixes: Mapping[str, int]) -> float:
        """The fraction of media that no modality reads."""
        num = sum(num for suffix, num in suffixes.items() if self.rules.is_medium(suffix))
        return sum(self.unread(suffixes).values()) / max(num, 1)


def summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sums of counts by key."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)
