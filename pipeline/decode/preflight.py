"""Inference of a decode configuration, and checks of the scanned shards before decoding starts."""

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
    """Read decode.yaml next to the first shard, or infer the modalities from the first sample.

    Raises InputError.
    """
    config = config_beside(shards)
    if config is not None:
        return config
    for shard in shards:
        with ShardFile(shard) as file:
            for sample in ShardReader(file, hashed=False).samples():
                return DecodeConfig(modalities=_modalities(sample, shard))
    raise DataError(
        f"No complete sample in {shards[0]} and {len(shards) - 1} more shards",
        "Pass WebDataset shards with members such as KEY.json and KEY.mp4.",
    )


def config_beside(shards: Sequence[StorePath]) -> DecodeConfig | None:
    """Read decode.yaml next to the first shard, or return None. Raises ConfigError."""
    path = shards[0].parent / CONFIG
    return load(DecodeConfig, path) if path.exists() else None


def _modalities(sample: Sample, shard: StorePath) -> dict[str, AnySpec]:
    """Infer the spec of each modality from the suffixes of a sample. Raises InputError."""
    specs: dict[str, AnySpec] = {}
    try:
        for suffix, data in sorted(sample.members.items()):
            for kind, spec in _specs(suffix, data):
                name = suffix.partition(".")[0] if "." in suffix else kind
                if name in specs:
                    raise ConfigError(
                        f"Sample {sample.key!r} of {shard} has two members for modality {name!r}",
                        f"Write a {CONFIG} next to the shards that defines the modalities.",
                    )
                specs[name] = spec
    except SampleError as error:
        raise DataError(
            f"No configuration can be inferred from sample {sample.key!r} of {shard} ({error})",
            f"Fix the sample or write a {CONFIG} next to the shards.",
        ) from error
    if not specs:
        raise DataError(
            f"Sample {sample.key!r} of {shard} has no member of a known media type:"
            f" {', '.join(sorted(sample.suffixes))}",
            f"Write a {CONFIG} next to the shards that names the members.",
        )
    return specs


def _specs(suffix: str, data: bytes) -> list[tuple[str, AnySpec]]:
    """Kinds and specs that a member can be decoded with; a clip may have video and audio."""
    last = suffix.rpartition(".")[2]
    if last not in CLIPS | IMAGES | AUDIO | {"npy", "txt"}:
        return []
    if data or last != "txt":
        check_member(data, suffix)
    if last in CLIPS:
        streams = sandbox_for({}, Limits()).streams_in(data)
        audio: list[tuple[str, AnySpec]] = (
            [("audio", AudioSpec(kind="audio", member=(suffix,)))] if "audio" in streams else []
        )
        return audio + (
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
    """Check the samples of all shards against the configuration, and return the class names.

    Raises InputError.
    """
    if not any(scan.samples.num_rows for scan in scans):
        losses = (
            "; ".join([f"{scan.name}: {loss}" for scan in scans for loss in scan.losses][:3])
            or "the shards are empty"
        )
        raise DataError(
            f"No readable sample in {len(scans)} shards ({losses})",
            "Pass WebDataset shards with members such as KEY.json and KEY.mp4.",
        )
    for name, spec in config.modalities.items():
        shape_of(name, spec)
    _check_ids(scans)
    _check_splits(scans)
    _check_members(scans, config)
    return _classes(scans, config)


def _check_ids(scans: Sequence[ShardScan]) -> None:
    counts = _column(scans, "sample_id").value_counts()
    duplicates = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(duplicates):
        first, second = _locations(scans, "sample_id", duplicates[0].as_py())[:2]
        raise DataError(
            f"Duplicate sample id {duplicates[0].as_py()!r}: {first} and {second}",
            "Remove one of the samples or change its sample_id.",
        )


def _check_splits(scans: Sequence[ShardScan]) -> None:
    splits = _column(scans, "split").unique().to_pylist()
    if None in splits:
        raise DataError(
            f"No split given: {_locations(scans, 'split', None)[0]}",
            'Add "split" to its .json, or name the shard train-*, validation-* or test-*.',
        )
    for split in splits:
        if split not in SPLITS:
            raise DataError(
                f"Unknown split {split!r}: {_locations(scans, 'split', split)[0]}",
                f"The splits are {', '.join(SPLITS)}.",
            )
    if "train" not in splits:
        raise DataError("Split 'train' is empty", "Pass the training shards too.")


def _check_members(scans: Sequence[ShardScan], config: DecodeConfig) -> None:
    present = {suffix for scan in scans for suffix in scan.suffixes}
    for name, spec in config.modalities.items():
        if not present.intersection(spec.member):
            known = ", ".join(sorted(present - {"json"})) or "none"
            raise InputError(
                f"No sample has modality {name!r}: no member with suffix"
                f" {' or '.join(spec.member)}, only {known}",
                f"Correct modalities.{name}.member.",
            )


def _classes(scans: Sequence[ShardScan], config: DecodeConfig) -> tuple[str, ...]:
    labels = _column(scans, "label").unique().to_pylist()
    classes = config.classes if config.classes is not None else sorted_labels(labels)
    if len(set(classes)) != len(classes):
        raise ConfigError(
            f"Duplicate class in 'classes': {next(c for c in classes if classes.count(c) > 1)!r}",
            "List each class once.",
        )
    for label in labels:
        if label not in classes:
            raise DataError(
                f"Label {label!r} is not one of the classes {', '.join(classes)}:"
                f" {_locations(scans, 'label', label)[0]}",
                "Add it to 'classes' or remove the samples that have it.",
            )
    if len(classes) < 2:
        raise InputError(
            f"At least 2 classes are required: {', '.join(classes)}",
            "Add samples with other labels.",
        )
    return classes


def _column(scans: Sequence[ShardScan], name: str) -> pa.ChunkedArray:
    return pa.chunked_array(
        [chunk for scan in scans for chunk in scan.samples[name].chunks], pa.string()
    )


def _locations(scans: Sequence[ShardScan], column: str, value: str | None) -> list[str]:
    """Shard, index and id of the first samples with this value."""
    locations = []
    for scan in scans:
        rows = scan.samples.filter(
            pc.is_null(scan.samples[column])
            if value is None
            else pc.equal(scan.samples[column], value)
        )
        locations += [
            f"{scan.name}, sample {row['index']} ({row['sample_id']!r})"
            for row in rows.slice(0, 2).to_pylist()
        ]
    return locations


def sorted_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Sort labels into class order: numerically if all are integers, else alphabetically."""
    if all(label.lstrip("-").isdecimal() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))
