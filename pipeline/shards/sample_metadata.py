"""The metadata of a sample: its id, label and split."""

import hashlib
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import SampleError
from pipeline.shards.sample_rules import SPLIT_WORDS, SampleRules, SplitRule, split_of_path
from pipeline.shards.samples import Sample
from pipeline.storage.strict_json import parse_json

MAX_WORD = 256
"""Maximum length of a label in a .txt, in characters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleMetadata:
    """Id, label and split of a sample; `split` is None if no place has one."""

    sample_id: str
    label: str
    split: str | None


def parse_metadata(sample: Sample, shard: str, rules: SampleRules) -> SampleMetadata | None:
    """Parse a sample's metadata by the rules.

    Args:
        shard: name of the shard, which a rule may use.
    Returns:
        The metadata, None for members that are no sample: neither medium nor label.
    Raises:
        SampleError: the label is missing, or a value has the wrong type.
    """
    values = _Values(sample, shard)
    label = values.first("label", rules.label)
    if label is None:
        if not any(rules.is_medium(suffix) for suffix in sample.suffixes):
            return None
        raise SampleError(
            "missing_member", f"no label in {' or '.join(rules.label)} of sample {sample.key}"
        )
    if rules.class_names is not None:
        label = _class_name(label, rules.class_names, sample.key)
    sample_id = values.first("id", rules.id)
    if sample_id is None:
        raise SampleError(
            "missing_member", f"no id in {' or '.join(rules.id)} of sample {sample.key}"
        )
    return SampleMetadata(
        sample_id=sample_id, label=label, split=_split(values, rules.split, sample_id)
    )


def value_at(sample: Sample, shard: str, role: str, place: str) -> str | None:
    """A sample's value at one place, None if it has none there. Raises SampleError.

    Args:
        role: "id", "label", "split" or "group"; for a split, shards and folders give split words.
    """
    return _Values(sample, shard).first(role, (place,))


def _split(values: "_Values", rule: SplitRule, sample_id: str) -> str | None:
    split = values.first("split", rule.places) if rule.places else "train"
    split = SPLIT_WORDS.get(split.lower(), split) if split else None
    if split is None and rule.validation_share + rule.test_share:
        split = "train"
    if split != "train" or not rule.validation_share + rule.test_share:
        return split
    group = sample_id
    if rule.group_by:
        found = values.first("group", (rule.group_by,))
        if found is None:
            raise SampleError(
                "missing_member", f"no {rule.group_by} to group by in sample {values.key}"
            )
        group = found
    hashed = hashlib.blake2b(f"{rule.seed}\0split\0{group}".encode(), digest_size=8).digest()
    drawn = int.from_bytes(hashed, "big") / 2**64
    if drawn < rule.test_share:
        return "test"
    return "validation" if drawn < rule.test_share + rule.validation_share else "train"


def _class_name(label: str, names: Sequence[str], key: str) -> str:
    if label in names:
        return label
    if not label.isdecimal() or int(label) >= len(names):
        raise SampleError(
            "wrong_type",
            f"label {label!r} of sample {key} is neither a name in class_names nor a number below "
            f"{len(names)}",
        )
    return names[int(label)]


class _Values:
    """The values of a sample at places."""

    def __init__(self, sample: Sample, shard: str) -> None:
        self._sample, self._shard = sample, shard
        self._json: dict[str, object] | None = None
        self.key = sample.key

    def first(self, role: str, places: Sequence[str]) -> str | None:
        """The value at the first place that has one, None if none has. Raises SampleError."""
        return next(
            (value for place in places if (value := self._at(role, place)) is not None), None
        )

    def _at(self, role: str, place: str) -> str | None:
        if place.startswith("json."):
            return self._field(role, place.removeprefix("json."))
        if place in ("cls", "txt"):
            text = self._sample.members.get(place, b"").decode("utf-8", "replace").strip()
            if place == "txt" and len(text) > MAX_WORD:
                raise SampleError("wrong_type", f"{self.key}.txt is too long for a {role}")
            return text or None
        if place == "key":
            return self.key
        if place == "shard/key":
            return f"{self._shard}/{self.key}"
        if place == "shard":
            return split_of_path(self._shard) if role == "split" else self._shard
        folder = posixpath.dirname(self.key)
        return split_of_path(folder) if role == "split" else posixpath.basename(folder) or None

    def _field(self, role: str, path: str) -> str | None:
        if self._json is None:
            self._json = _json_of(self._sample)
        value: object = self._json
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is None or value == "":
            return None
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise SampleError(
                "wrong_type",
                f"{self.key}.json: {path} is {value!r}, neither a string nor an integer",
            )
        if role == "split" and not isinstance(value, str):
            raise SampleError("wrong_type", f"{self.key}.json: {path} is {value!r}, not a string")
        return str(value)


def _json_of(sample: Sample) -> dict[str, object]:
    try:
        value = parse_json(sample.members.get("json", b"{}"))
    except (ValueError, RecursionError) as error:
        raise SampleError("undecodable", f"{sample.key}.json is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise SampleError("wrong_type", f"{sample.key}.json is not a JSON object")
    return value
