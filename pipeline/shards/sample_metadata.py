"""What a sample says of itself: its id, its label, its split."""

import posixpath
import re
from dataclasses import dataclass

from pipeline.errors import SampleError
from pipeline.shards.samples import Sample
from pipeline.storage.strict_json import parse_json

_SPLIT_OF_NAME = re.compile(r"(train|validation|val|test)[-_]")


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleMetadata:
    """What a sample says of itself; `split` is None where neither it nor the shard's name tells."""

    sample_id: str
    label: str
    split: str | None


def parse_metadata(sample: Sample, shard: str) -> SampleMetadata:
    """What the sample's .json (or .cls and the shard's name) says of it (raises SampleError)."""
    value = _json_of(sample)
    label = value.get("label")
    if label is None and "cls" in sample.members:
        label = sample.members["cls"].decode("utf-8", "replace").strip()
    if label is None or label == "":
        raise SampleError(
            "missing_member", f"{sample.key}.json with a label, or {sample.key}.cls, is not there"
        )
    sample_id, split = value.get("sample_id", sample.key), value.get("split")
    for name, given in (("label", label), ("sample_id", sample_id)):
        if not isinstance(given, str | int) or isinstance(given, bool):
            raise SampleError(
                "wrong_type",
                f"{sample.key}.json: {name} is {given!r}, neither text nor a whole number",
            )
    if not isinstance(split, str | None):
        raise SampleError("wrong_type", f"{sample.key}.json: split is {split!r}, not text")
    if split is None and (match := _SPLIT_OF_NAME.match(posixpath.basename(shard))):
        split = {"val": "validation"}.get(match[1], match[1])
    return SampleMetadata(sample_id=str(sample_id), label=str(label), split=split)


def _json_of(sample: Sample) -> dict[str, object]:
    try:
        value = parse_json(sample.members.get("json", b"{}"))
    except (ValueError, RecursionError) as error:
        raise SampleError("undecodable", f"{sample.key}.json is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise SampleError("wrong_type", f"{sample.key}.json is not a JSON object")
    return value
