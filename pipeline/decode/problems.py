"""What can be wrong with samples or configuration of a decode job, as errors.

The first samples, a task and the end of a job may each find the same problem.
"""

from collections.abc import Iterable, Mapping, Sequence

from pipeline.decode.config import DecodeConfig
from pipeline.decode.media.shapes import AnySpec, shape_of
from pipeline.errors import ConfigError, DataError, InputError
from pipeline.shards.sample_metadata import SampleMetadata
from pipeline.storage.schemas import SPLITS
from pipeline.storage.table_checks import MAX_CLASSES


def check_config(config: DecodeConfig) -> None:
    """Raise ConfigError if a class is listed twice or a spec is impossible."""
    classes = config.classes or ()
    if len(set(classes)) != len(classes):
        raise ConfigError(
            f"Duplicate class in 'classes': {next(c for c in classes if classes.count(c) > 1)!r}",
            "List each class once.",
        )
    for name, spec in config.modalities.items():
        shape_of(name, spec)


def check_metadata(
    metadata: SampleMetadata, classes: frozenset[str] | None, shard: str, index: int
) -> None:
    """Raise DataError if a sample has no split, or an unknown split or label.

    Args:
        metadata: of the sample.
        classes: the known labels, None if any label is a class.
        shard: name of the shard.
        index: position of the sample in the shard.
    """
    place = location(shard, index, metadata.sample_id)
    if metadata.split is None:
        raise DataError(
            f"No split given: {place}",
            'Add "split" to its .json, name the shard train-*, validation-* or test-*, or set'
            " `sample.split` in decode.yaml.",
        )
    if metadata.split not in SPLITS:
        raise DataError(
            f"Unknown split {metadata.split!r}: {place}", f"The splits are {', '.join(SPLITS)}."
        )
    if classes is not None and metadata.label not in classes:
        raise unknown_label(metadata.label, sorted(classes), place)


def unknown_label(label: str, classes: Sequence[str], place: str) -> DataError:
    """The error of a label that is not among the configured classes."""
    return DataError(
        f"Label {label!r} is not one of the classes {', '.join(classes)}: {place}",
        "Add it to 'classes' or remove the samples that have it.",
    )


def duplicate_id(sample_id: str, first: str, second: str) -> DataError:
    """The error of an id that two samples have, with the places of both."""
    return DataError(
        f"Duplicate sample id {sample_id!r}: {first} and {second}",
        "Remove one of the samples or change its sample_id.",
    )


def no_samples(where: str, losses: Sequence[str]) -> DataError:
    """The error of shards without a readable sample, with some of the losses."""
    return DataError(
        f"No readable sample in {where} ({'; '.join(losses) or 'the shards are empty'})",
        "Pass WebDataset shards with members such as KEY.json and KEY.mp4.",
    )


def no_training_samples() -> DataError:
    """The error of shards of which none has a training sample."""
    return DataError("Split 'train' is empty", "Pass the training shards too.")


def check_members(
    specs: Mapping[str, AnySpec], present: Iterable[str], where: str = "sample"
) -> None:
    """Raise InputError if no sample has the member of a modality.

    Args:
        specs: the modalities.
        present: suffixes of the samples' members.
        where: which samples these are.
    """
    suffixes = set(present)
    for name, spec in specs.items():
        if suffixes.isdisjoint(spec.member):
            known = ", ".join(sorted(suffixes - {"json"})) or "none"
            raise InputError(
                f"No {where} has modality {name!r}: no member with suffix"
                f" {' or '.join(spec.member)}, only {known}",
                f"Correct modalities.{name}.member.",
            )


def check_unread(config: DecodeConfig, suffixes: Mapping[str, int], where: str = "shards") -> None:
    """Raise InputError if no modality reads too many of the media.

    Args:
        config: modalities and `max_unread_share`.
        suffixes: number of members by suffix.
        where: what has these members.
    """
    share = config.reading.unread_share(suffixes)
    if share > config.max_unread_share:
        unread = config.reading.unread(suffixes)
        counts = ", ".join(f"{num} {suffix}" for suffix, num in unread.items())
        example = min(unread, key=lambda suffix: (-unread[suffix], suffix))
        raise InputError(
            f"No modality reads {share:.1%} of the media in the {where}: {counts}."
            f" max_unread_share is {config.max_unread_share}",
            f"Add the suffixes to the `member` of a modality, or leave them out on purpose with"
            f" `ignore: [{example}]`.",
        )


def class_names(config: DecodeConfig, labels: Iterable[str]) -> tuple[str, ...]:
    """Return the classes: those of the configuration, or the labels in class order.

    Raises InputError if there are fewer than two, or too many.
    """
    classes = config.classes if config.classes is not None else sorted_labels([*labels])
    check_num_classes(len(classes))
    if len(classes) < 2:
        raise InputError(
            f"At least 2 classes are required: {', '.join(classes)}",
            "Add samples with other labels.",
        )
    return classes


def check_num_classes(num: int) -> None:
    """Raise InputError if there are too many different labels."""
    if num > MAX_CLASSES:
        raise InputError(
            f"More than {MAX_CLASSES} different labels", "Set `sample.label` in decode.yaml."
        )


def sorted_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Sort labels into class order: numerically if all are integers, else alphabetically."""
    if all(label.lstrip("-").isdecimal() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def location(shard: str, index: int, sample_id: str) -> str:
    """Shard, position and id of a sample, for messages."""
    return f"{shard}, sample {index} ({sample_id!r})"
