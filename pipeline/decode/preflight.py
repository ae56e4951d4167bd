"""What is looked at before a shard is decoded: what the configuration may be, and whether the samples fit it."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import load
from pipeline.decode.config import (
    AudioSpec,
    DecodeConfig,
    ImageSpec,
    TensorSpec,
    TextSpec,
    VideoSpec,
)
from pipeline.decode.media.shapes import AnySpec, shape_of
from pipeline.decode.media.tensor import npy_header
from pipeline.decode.sandbox.sandbox import sandbox_for
from pipeline.decode.shard_task import ShardScan
from pipeline.errors import ConfigError, DataError, InputError, SampleError
from pipeline.shards.discover import ShardFile
from pipeline.shards.limits import Limits
from pipeline.shards.member_checks import check_member
from pipeline.shards.member_suffixes import AUDIO, CLIPS, IMAGES
from pipeline.shards.reader import ShardReader
from pipeline.shards.samples import Sample
from pipeline.storage.schemas import SPLITS
from pipeline.storage.store_path import StorePath

CONFIG = "decode.yaml"


def infer_config(shards: Sequence[StorePath]) -> DecodeConfig:
    """The decode.yaml beside the first shard, or else modalities by the suffixes of the first sample (raises InputError)."""
    beside = config_beside(shards)
    if beside is not None:
        return beside
    for shard in shards:
        with ShardFile(shard) as file:
            for sample in ShardReader(file, hashed=False).samples():
                return DecodeConfig(modalities=_modalities(sample, shard))
    raise DataError(
        f"{shards[0]} and the {len(shards) - 1} shards beside it hold no whole sample",
        "give WebDataset shards: members KEY.json, KEY.mp4, ...",
    )


def config_beside(shards: Sequence[StorePath]) -> DecodeConfig | None:
    """The decode.yaml beside the first shard, where there is one (raises ConfigError)."""
    beside = shards[0].parent / CONFIG
    return load(DecodeConfig, beside) if beside.exists() else None


def _modalities(sample: Sample, shard: StorePath) -> dict[str, AnySpec]:
    found: dict[str, AnySpec] = {}
    try:
        for suffix, data in sorted(sample.members.items()):
            for kind, spec in _specs(suffix, data):
                name = suffix.partition(".")[0] if "." in suffix else kind
                if name in found:
                    raise ConfigError(
                        f"{shard}: sample {sample.key!r} has two members for {name!r}",
                        f"write a {CONFIG} beside the shards that names the modalities",
                    )
                found[name] = spec
    except SampleError as error:
        raise DataError(
            f"{shard}: the first sample {sample.key!r} tells no configuration ({error})",
            f"mend it, or write a {CONFIG} beside the shards",
        ) from error
    if not found:
        raise DataError(
            f"{shard}: sample {sample.key!r} has no media among {', '.join(sorted(sample.suffixes))}",
            f"write a {CONFIG} beside the shards that names the members",
        )
    return found


def _specs(suffix: str, data: bytes) -> list[tuple[str, AnySpec]]:
    last = suffix.rpartition(".")[2]
    if last not in CLIPS | IMAGES | AUDIO | {"npy", "txt"}:
        return []
    check_member(data, suffix)
    if last in CLIPS:
        streams = sandbox_for({}, Limits()).streams_in(data)
        sound: list[tuple[str, AnySpec]] = (
            [("audio", AudioSpec(kind="audio", member=(suffix,)))] if "audio" in streams else []
        )
        return sound + (
            [("video", VideoSpec(kind="video", member=(suffix,)))] if "video" in streams else []
        )
    if last in IMAGES:
        return [("image", ImageSpec(kind="image", member=(suffix,)))]
    if last in AUDIO:
        return [("audio", AudioSpec(kind="audio", member=(suffix,)))]
    if last == "txt":
        return [("text", TextSpec(kind="text", member=(suffix,)))]
    return [
        ("tensor", TensorSpec(kind="tensor", member=(suffix,), shape=npy_header(data)[0] or (1,)))
    ]


def check(scans: Sequence[ShardScan], config: DecodeConfig) -> tuple[str, ...]:
    """The class names, once every sample of every shard is seen to fit (raises InputError naming thing, value and cure)."""
    if not any(scan.samples.num_rows for scan in scans):
        losses = (
            "; ".join([f"{scan.name}: {loss}" for scan in scans for loss in scan.losses][:3])
            or "they are empty"
        )
        raise DataError(
            f"the {len(scans)} shards hold no sample that can be read ({losses})",
            "give WebDataset shards: members KEY.json, KEY.mp4, ...",
        )
    for name, spec in config.modalities.items():
        shape_of(name, spec)
    _check_ids(scans)
    _check_splits(scans)
    _check_members(scans, config)
    return _classes(scans, config)


def _check_ids(scans: Sequence[ShardScan]) -> None:
    counts = _column(scans, "sample_id").value_counts()
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(twice):
        first, second = _places(scans, "sample_id", twice[0].as_py())[:2]
        raise DataError(
            f"sample id {twice[0].as_py()!r} occurs twice: in {first} and in {second}",
            "leave one of them out, or give it another sample_id",
        )


def _check_splits(scans: Sequence[ShardScan]) -> None:
    splits = _column(scans, "split").unique().to_pylist()
    if None in splits:
        cure = 'put "split" into its .json, or name the shard train-*, validation-* or test-*'
        raise DataError(f"{_places(scans, 'split', None)[0]} is in no split", cure)
    for split in splits:
        if split not in SPLITS:
            raise DataError(
                f"{_places(scans, 'split', split)[0]} is in the split {split!r}",
                f"a split is one of {', '.join(SPLITS)}",
            )
    if "train" not in splits:
        raise DataError("the split 'train' is empty", "give the training shards too")


def _check_members(scans: Sequence[ShardScan], config: DecodeConfig) -> None:
    present = {suffix for scan in scans for suffix in scan.suffixes}
    for name, spec in config.modalities.items():
        if not present.intersection(spec.member):
            known = ", ".join(sorted(present - {"json"})) or "none"
            raise InputError(
                f"no sample has the modality {name!r}: no member ends in {' or '.join(spec.member)} (found {known})",
                f"correct modalities.{name}.member",
            )


def _classes(scans: Sequence[ShardScan], config: DecodeConfig) -> tuple[str, ...]:
    labels = _column(scans, "label").unique().to_pylist()
    classes = config.classes if config.classes is not None else sorted_labels(labels)
    if len(set(classes)) != len(classes):
        raise ConfigError(
            f"field 'classes' names {next(c for c in classes if classes.count(c) > 1)!r} twice",
            "name each class once",
        )
    for label in labels:
        if label not in classes:
            path = _places(scans, "label", label)[0]
            raise DataError(
                f"{path} has the label {label!r}, which is not among the classes {', '.join(classes)}",
                "add it to classes, or leave such samples out",
            )
    if len(classes) < 2:
        raise InputError(
            f"there are fewer than 2 classes: {', '.join(classes)}",
            "give samples of at least two labels",
        )
    return classes


def _column(scans: Sequence[ShardScan], name: str) -> pa.ChunkedArray:
    return pa.chunked_array(
        [chunk for scan in scans for chunk in scan.samples[name].chunks], pa.string()
    )


def _places(scans: Sequence[ShardScan], column: str, value: str | None) -> list[str]:
    """Where samples with this value are: shard, number in the shard, and id."""
    found = []
    for scan in scans:
        rows = scan.samples.filter(
            pc.is_null(scan.samples[column])
            if value is None
            else pc.equal(scan.samples[column], value)
        )
        found += [
            f"{scan.name}, sample {row['index']} ({row['sample_id']!r})"
            for row in rows.slice(0, 2).to_pylist()
        ]
    return found


def sorted_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Labels in the order of their class numbers: by value where all are whole numbers, else by character."""
    if all(label.lstrip("-").isdecimal() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))
