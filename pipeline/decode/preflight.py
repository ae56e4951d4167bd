"""Checks of the scanned shards before decoding starts."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.decode.config import DecodeConfig
from pipeline.decode.media.shapes import shape_of
from pipeline.decode.shard_task import ShardScan
from pipeline.errors import ConfigError, DataError, InputError
from pipeline.shards.reading import summed
from pipeline.storage.schemas import SPLITS


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
    _check_unread(scans, config)
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
            'Add "split" to its .json, name the shard train-*, validation-* or test-*, or set'
            " `sample.split` in decode.yaml.",
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


def _check_unread(scans: Sequence[ShardScan], config: DecodeConfig) -> None:
    suffixes = summed(scan.suffixes for scan in scans)
    share = config.reading.unread_share(suffixes)
    if share > config.max_unread_share:
        unread = config.reading.unread(suffixes)
        counts = ", ".join(f"{num} {suffix}" for suffix, num in unread.items())
        example = min(unread, key=lambda suffix: (-unread[suffix], suffix))
        raise InputError(
            f"No modality reads {share:.1%} of the media in the shards: {counts}."
            f" max_unread_share is {config.max_unread_share}",
            f"Add the suffixes to the `member` of a modality, or leave them out on purpose with"
            f" `ignore: [{example}]`.",
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
