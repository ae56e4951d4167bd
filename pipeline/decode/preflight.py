"""Checks of the first samples of some shards before decoding starts.

Media are skipped. What these samples cannot show is checked at the end of the job.
"""

from collections import Counter
from collections.abc import Sequence

from pipeline.decode.config import DecodeConfig
from pipeline.decode.problems import (
    check_config,
    check_members,
    check_metadata,
    check_unread,
    class_names,
    duplicate_id,
    location,
    no_samples,
    no_training_samples,
)
from pipeline.errors import SampleError
from pipeline.shards.first_samples import FirstSamples, first_samples
from pipeline.shards.sample_metadata import SampleMetadata, parse_metadata
from pipeline.shards.sample_rules import split_of_path
from pipeline.shards.samples import RejectedSample, Sample
from pipeline.shards.source import ShardSource
from pipeline.storage.prefetch import prefetched

MAX_SHARDS, MAX_SAMPLES = 64, 4096
"""Maximum number of shards to read, spread evenly, and of samples of all of them together."""


def check_first_samples(sources: Sequence[ShardSource], config: DecodeConfig) -> None:
    """Check configuration and first samples of shards. Raises InputError, StoreError."""
    check_config(config)
    chosen = sources[:: -(-len(sources) // MAX_SHARDS)]
    num, metadata = MAX_SAMPLES // len(chosen), config.sample.metadata

    def read(source: ShardSource) -> FirstSamples:
        return first_samples(
            source.path,
            num,
            metadata=metadata,
            load=lambda suffix: suffix in metadata,
            **config.reading.options,
        )

    seen = _Seen(config)
    for source, first in zip(chosen, prefetched(read, chosen), strict=True):
        seen.add(source.name, first)
    seen.complete &= len(chosen) == len(sources)
    seen.check(sources)


class _Seen:
    """What the samples read so far have.

    Attributes:
        complete: they are all samples of the shards.
    """

    def __init__(self, config: DecodeConfig) -> None:
        self.complete = True
        self._config = config
        self._classes = None if config.classes is None else frozenset(config.classes)
        self._places: dict[str, str] = {}
        self._labels: set[str] = set()
        self._splits: set[str | None] = set()
        self._suffixes = Counter[str]()
        self._losses: list[str] = []

    def add(self, shard: str, first: FirstSamples) -> None:
        """Add samples of a shard. Raises DataError."""
        self.complete &= first.complete
        for item in first.items:
            if isinstance(item, RejectedSample):
                self._losses.append(f"{shard}: {item.reason}: {item.error}")
            elif first.joined or self._has_all(item):
                self._add(shard, item)

    def _has_all(self, sample: Sample) -> bool:
        """Whether a sample seems to have all of its members: one may follow that was not read."""
        rules = self._config.sample
        is_medium = [rules.is_medium(suffix) for suffix in sample.suffixes]
        in_names = {"key", "shard/key", "folder", "shard"}.issuperset(rules.label)
        return any(is_medium) and (in_names or not all(is_medium))

    def _add(self, shard: str, sample: Sample) -> None:
        try:
            metadata = parse_metadata(sample, shard, self._config.sample)
        except SampleError as error:
            self._losses.append(f"{shard}: {error}")
            self._suffixes.update(sample.suffixes)
            return
        if metadata is not None:
            self._suffixes.update(sample.suffixes)
            self._check(shard, sample.index, metadata)

    def _check(self, shard: str, index: int, metadata: SampleMetadata) -> None:
        check_metadata(metadata, self._classes, shard, index)
        place = location(shard, index, metadata.sample_id)
        other = self._places.setdefault(metadata.sample_id, place)
        if other != place:
            raise duplicate_id(metadata.sample_id, other, place)
        self._labels.add(metadata.label)
        self._splits.add(metadata.split)

    def check(self, sources: Sequence[ShardSource]) -> None:
        """Check the samples of all shards together. Raises InputError."""
        if not self._places:
            if self.complete or self._losses:
                where = f"{len(sources)} shards" if self.complete else "the first samples"
                raise no_samples(where, self._losses[:3])
            return
        places = self._config.sample.split.places
        is_other = all(split_of_path(source.name) not in (None, "train") for source in sources)
        if "train" not in self._splits and (self.complete or (is_other and "shard" in places)):
            raise no_training_samples()
        first = "" if self.complete else "first "
        check_members(self._config.modalities, self._suffixes, f"{first}sample")
        check_unread(self._config, self._suffixes, f"{first}samples" if first else "shards")
        if self.complete:
            class_names(self._config, self._labels)
