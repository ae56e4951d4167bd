"""Infers a decode configuration from samples of many shards, and says what was inferred."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import load
from pipeline.decode.config import CONFIG, DecodeConfig
from pipeline.decode.inferred_modalities import Modalities
from pipeline.decode.media.shapes import AnySpec
from pipeline.decode.preflight import MAX_SAMPLES, MAX_SHARDS
from pipeline.errors import DataError, SampleError
from pipeline.shards.discover import ShardFile, shard_names
from pipeline.shards.first_samples import FirstSample, FirstSamples, first_samples
from pipeline.shards.member_suffixes import MEDIA, TEXT
from pipeline.shards.reader import everything
from pipeline.shards.reading import Reading
from pipeline.shards.sample_metadata import value_at
from pipeline.shards.sample_rules import SPLIT_WORDS, SampleRules, SplitRule, split_of_path
from pipeline.shards.samples import Sample
from pipeline.storage.prefetch import prefetched
from pipeline.storage.schemas import SPLITS
from pipeline.storage.store_path import StorePath

NUM_PROBED, MAX_PROBED_BYTES = 64, 2**26
"""Maximum number of members to probe per suffix, and of bytes of all of these in memory."""
MIN_DOTTED = 8
"""With as many suffixes of several parts, and as many as half of the samples, keys have dots."""
GUESSED_SHARE = 0.1
"""Share of the train samples that a split gets that no sample has."""
LOADED = TEXT | {"txt"}
"""Suffixes of members that may hold metadata."""
LABELS = (("json.label", "cls"), ("json.class",), ("json.category",), ("json.target",))
"""Places of labels, most usual first; then a word in .txt, and the folder."""
_PLACES = (*(place for places in LABELS for place in places), "txt", "folder")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inferred:
    """A decode configuration, and what was inferred, as lines; none if it was given."""

    config: DecodeConfig
    lines: tuple[str, ...] = ()


def infer_config(shards: Sequence[StorePath]) -> Inferred:
    """Read decode.yaml next to the first shard, or infer modalities and rules from samples.

    Raises InputError.
    """
    config = config_beside(shards)
    if config is not None:
        return Inferred(config=config)
    survey = _survey(shards)
    if not survey.num:
        raise DataError(
            f"No complete sample in {shards[0]} and {len(shards) - 1} more shards",
            "Pass WebDataset shards with members such as KEY.json and KEY.mp4.",
        )
    rules, guesses = survey.rules()
    specs, contents = survey.modalities(rules)
    return Inferred(
        config=DecodeConfig(modalities=specs, sample=rules),
        lines=(
            f"inferred from {survey.num} samples: {'; '.join(contents)}",
            f"metadata: {'; '.join(guesses)}",
        ),
    )


def config_beside(shards: Sequence[StorePath]) -> DecodeConfig | None:
    """Read decode.yaml next to the first shard, or return None. Raises ConfigError."""
    path = shards[0].parent / CONFIG
    return load(DecodeConfig, path) if path.exists() else None


def reading_of(shards: Sequence[StorePath]) -> Reading:
    """How decoding without further options would read shards, without probing their media.

    Without decode.yaml, and if no rules can be inferred, it has the defaults. Raises ConfigError.
    """
    config = config_beside(shards)
    if config is not None:
        return config.reading
    try:
        return Reading(rules=_survey(shards).rules()[0])
    except DataError:
        return Reading()


def _survey(shards: Sequence[StorePath]) -> "_Survey":
    survey = _Survey(shards, "first_dot")
    return _Survey(shards, "last_dot") if survey.keys_have_dots else survey


class _Survey:
    """What some samples of some shards contain.

    Attributes:
        num: number of samples with media.
    """

    def __init__(self, shards: Sequence[StorePath], key_end: str) -> None:
        self._key_end = key_end
        self._names = shard_names(shards)
        self.num = 0
        self._suffixes = Counter[str]()
        self._together = Counter[frozenset[str]]()
        self._kept = _Reservoirs()
        self._values: dict[str, Counter[str]] = {place: Counter() for place in _PLACES}
        self._splits: dict[str, set[str]] = defaultdict(set)
        self._labelled = Counter[tuple[str, ...]]()
        self._shard_of: dict[str, str] = {}
        self._repeats = False
        step = -(-len(shards) // MAX_SHARDS)
        chosen, names = shards[::step], self._names[::step]
        num = MAX_SAMPLES // len(chosen)

        def read(shard: StorePath) -> FirstSamples:
            return first_samples(
                shard, num, metadata=LOADED, load=everything, known=TEXT, key_end=key_end
            )

        for path, name, first in zip(chosen, names, prefetched(read, chosen), strict=True):
            for sample in first.items:
                if isinstance(sample, Sample):
                    self._add(sample, name, path)

    def _add(self, sample: Sample, shard: str, path: StorePath) -> None:
        media = {suffix for suffix in sample.suffixes if suffix.rpartition(".")[2] in MEDIA}
        if not media:
            return
        self.num += 1
        self._suffixes.update(media)
        self._together[frozenset(media)] += 1
        for suffix in sorted(media):
            self._kept.add(suffix, _Member.of(sample, suffix, path))
        found = {place: _value(sample, shard, "label", place) for place in _PLACES}
        for place, value in found.items():
            if value is not None:
                self._values[place][value] += 1
        for places in (*LABELS, ("txt",), ("folder",)):
            self._labelled[places] += any(found[place] is not None for place in places)
        for place in ("json.split", "folder"):
            if (split := _value(sample, shard, "split", place)) is not None:
                self._splits[place].add(split)
        sample_id = _value(sample, shard, "id", "json.sample_id") or sample.key
        self._repeats |= self._shard_of.setdefault(sample_id, shard) != shard

    @property
    def keys_have_dots(self) -> bool:
        """Whether suffixes of several parts are too many to be names of modalities."""
        dotted = sum("." in suffix for suffix in self._suffixes)
        return self._key_end == "first_dot" and dotted >= max(MIN_DOTTED, self.num / 2)

    def rules(self) -> tuple[SampleRules, list[str]]:
        """The rules that fit, and each as text. Raises DataError if no place has labels."""
        label = self._label()
        split, text = self._split()
        fields: dict[str, Any] = {"key_end": self._key_end, "label": label, "split": split}
        texts = [f"label from {' or '.join(label)}", text]
        if self._repeats:
            fields["id"] = ("json.sample_id", "shard/key")
            texts.append("ids with the shard's name, as keys repeat")
        if self._key_end != "first_dot":
            texts.append("keys end at the last dot")
        return SampleRules(**fields), texts

    def _label(self) -> tuple[str, ...]:
        for places in LABELS:
            if self._labelled[places] >= 0.9 * self.num:
                return places
        words = self._values["txt"]
        if self._labelled["txt",] >= 0.9 * self.num and _are_classes(words):
            return ("txt",)
        folders = self._values["folder"]
        is_split = all(name.lower() in SPLIT_WORDS for name in folders)
        if self._labelled["folder",] >= 0.9 * self.num and _are_classes(folders) and not is_split:
            return ("folder",)
        if not any(self._labelled[places] for places in LABELS):
            raise DataError(
                "No labels found: in json.label, .cls, json.class, json.category, json.target, a"
                " word in .txt, or folders",
                f"Name the place in a {CONFIG} next to the shards, such as"
                " `sample: {label: json.FIELD}`.",
            )
        return max(LABELS, key=lambda places: self._labelled[places])

    def _split(self) -> tuple[SplitRule, str]:
        by_shard = {split for name in self._names if (split := split_of_path(name))}
        default = SplitRule()
        if found := self._splits["json.split"] | by_shard:
            places = default.places
            origin = " and ".join(
                text
                for text, splits in (
                    ("json.split", self._splits["json.split"]),
                    ("names of shards", by_shard),
                )
                if splits
            )
        elif found := self._splits["folder"]:
            places, origin = ("folder",), "folders"
        else:
            places, found, origin = (), {"train"}, ""
        shares = {
            f"{split}_share": GUESSED_SHARE
            for split in SPLITS
            if split != "train" and split not in {SPLIT_WORDS.get(word, word) for word in found}
        }
        drawn = ", ".join(
            f"{GUESSED_SHARE:.0%} of train drawn for {name.removesuffix('_share')}"
            for name in shares
        )
        text = f"split from {origin}" if origin else "no split found"
        rule = SplitRule.model_validate({"from": places, **shares})
        return rule, ", ".join(filter(None, (text, drawn)))

    def modalities(self, rules: SampleRules) -> tuple[dict[str, AnySpec], list[str]]:
        """The spec of each modality, and each as text. Raises DataError, ConfigError."""
        found = Modalities()
        suffixes = [suffix for suffix in sorted(self._suffixes) if rules.is_medium(suffix)]
        for suffix in suffixes:
            found.probe(suffix, self._kept.of(suffix))
        if not found.suffixes:
            problem = f" ({found.problem})" if found.problem else ""
            raise DataError(
                f"No member of the shards can be read as a medium{problem}:"
                f" {', '.join(suffixes) or 'there is none'}",
                f"Write a {CONFIG} next to the shards that names the members.",
            )
        found.check(self._together)
        return found.specs(self._suffixes), found.texts(self._suffixes)


@dataclass(frozen=True, slots=True)
class _Member:
    """A member of a sample; `data` is None if it has not been read from its place in the shard."""

    size: int
    data: bytes | None
    shard: StorePath
    offset: int

    @classmethod
    def of(cls, sample: Sample, suffix: str, shard: StorePath) -> "_Member":
        data = sample.members.get(suffix)
        if data is None and isinstance(sample, FirstSample):
            offset, size = sample.places[suffix]
            return cls(size, None, shard, offset)
        return cls(len(data or b""), data, shard, 0)

    def read(self) -> bytes:
        """The content of the member. Raises MissingError, StoreError."""
        if self.data is not None:
            return self.data
        with ShardFile(self.shard, seeks=True) as file:
            return file.read_at(self.offset, self.size)


class _Reservoirs:
    """A few members of each suffix, drawn from all; the same members give the same draw."""

    def __init__(self) -> None:
        self._members: dict[str, list[_Member]] = defaultdict(list)
        self._num_seen = Counter[str]()
        self._random = random.Random(0)

    def add(self, suffix: str, member: _Member) -> None:
        """Keep a member, perhaps in place of another one."""
        kept = self._members[suffix]
        self._num_seen[suffix] += 1
        largest = max(each.size for each in (*kept, member))
        room = min(NUM_PROBED, max(1, MAX_PROBED_BYTES // max(largest, 1)))
        if len(kept) < room:
            kept.append(member)
            return
        place = self._random.randrange(self._num_seen[suffix])
        if place < len(kept):
            kept[place] = member

    def of(self, suffix: str) -> Iterator[bytes]:
        """The members of a suffix that were kept."""
        return (member.read() for member in self._members[suffix])


def _value(sample: Sample, shard: str, role: str, place: str) -> str | None:
    try:
        value = value_at(sample, shard, role, place)
    except SampleError:
        return None
    if value is not None and place == "txt" and (len(value.split()) != 1 or len(value) > 64):
        return None
    return value


def _are_classes(values: Mapping[str, int]) -> bool:
    """Whether values repeat, as classes do."""
    return len(values) > 1 and 2 * len(values) <= sum(values.values())
