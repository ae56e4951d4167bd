"""The metadata of a sample: its id, label and split."""

import posixpath
import re
from dataclasses import dataclass

from pipeline.errors import SampleError
from pipeline.shards.samples import Sample
from pipeline.storage.strict_json import parse_json

_SPLIT_OF_NAME = re.compile(r"(train|validation|val|test)[-_]")


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleMetadata:
    """Id, label and split of a sample; `split` is None if it and the shard's name have none."""

    sample_id: str
    label: str
    split: str | None


def parse_metadata(sample: Sample, shard: str) -> SampleMetadata:
    """Parse a sample's metadata.

    From its .json: `label`, and optionally `sample_id` (else its key) and `split`. Without a label
    there, the label is the content of its .cls. Without a split, a shard whose name begins with
    train, val, validation or test, then - or _, gives it.
    Raises SampleError.
    """
    value = _json_of(sample)
    label = value.get("label")
    if label is None and "cls" in sample.members:
        label = sample.members["cls"].decode("utf-8", "replace").strip()
    if label is None or label == "":
        raise SampleError(
            "missing_member", f"no label in {sample.key}.json, and no {sample.key}.cls"
        )
    sample_id, split = value.get("sample_id", sample.key), value.get("split")
    for name, given in (("label", label), ("sample_id", sample_id)):
        if not isinstance(given, str | int) or isinstance(given, bool):
            raise SampleError(
                "wrong_type",
                f"{sample.key}.json: {name} is {given!r}, neither a string nor an integer",
            )
    if not isinstance(split, str | None):
        raise SampleError("wrong_type", f"{sample.key}.json: split is {split!r}, not a string")
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
