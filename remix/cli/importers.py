"""Commands that import a dataset: `remix import table|hf|cremad|kinetics-sounds`."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from remix.cli.output import Json, pairs, progress, say

_MAX_CLASSES = 20
NumShards = Annotated[
    int | None, Option("--shards", help="Number of shards; by default about 256 samples each.")
]
Seed = Annotated[int, Option(help="Seed; the same seed gives the same result.")]
SplitBy = Annotated[
    str | None,
    Option(help="Keep rows with the same value of this column together in train or validation."),
]
TrainShare = Annotated[float, Option(help="Share of the training rows to move to validation.")]
AllowIncomplete = Annotated[
    bool,
    Option("--allow-incomplete", help="Leave out clips that are damaged or lack audio or video."),
]


def import_table(
    manifest: Annotated[Path, Argument(help="CSV file, one row per sample.")],
    out: Annotated[Path, Argument(help="Folder for the shards.")],
    modality: Annotated[
        list[str], Option(help="NAME=PATH_COLUMN or NAME=text:COLUMN, once per modality.")
    ],
    label: Annotated[str, Option(help="Column of the class.")] = "label",
    split: Annotated[str, Option(help="Column of the split: train, validation, test.")] = "split",
    sample_id: Annotated[str, Option(help="Column of the unique id.")] = "sample_id",
    where: Annotated[list[str], Option(help="Import only rows with COLUMN=VALUE.")] = [],  # noqa: B006
    kind: Annotated[
        list[str],
        Option(help="NAME=video|audio|image|tensor|text, if file extensions do not show it."),
    ] = [],  # noqa: B006
    root: Annotated[
        Path | None, Option(help="Folder of relative paths; by default the manifest's folder.")
    ] = None,
    split_by: SplitBy = None,
    validation_share: TrainShare = 0.0,
    num_shards: NumShards = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Import a CSV file with sample_id, split, label and a path column per modality."""
    from pipeline.sources.importers.table import import_table as run

    with progress("import") as update:
        result = run(
            manifest,
            out,
            modalities=pairs(modality, "--modality"),
            label=label,
            split=split,
            sample_id=sample_id,
            where=pairs(where, "--where"),
            kinds=pairs(kind, "--kind"),
            root=root,
            split_by=split_by,
            validation_share=validation_share,
            num_shards=num_shards,
            seed=seed,
            progress=update,
        )
    say(result, imported(result, out), json_)


def import_hf(
    name: Annotated[str, Argument(help="Folder of save_to_disk, or a dataset in the cache.")],
    out: Annotated[Path, Argument(help="Folder for the shards.")],
    modality: Annotated[
        list[str],
        Option(help="NAME=COLUMN, once per modality; by default all image, audio and video."),
    ] = [],  # noqa: B006
    label: Annotated[
        str | None, Option(help="Column of the class; by default the only ClassLabel, or label.")
    ] = None,
    kind: Annotated[
        list[str],
        Option(help="NAME=video|audio|image|tensor|text, if the column does not show it."),
    ] = [],  # noqa: B006
    split_by: SplitBy = None,
    validation_share: TrainShare = 0.0,
    num_shards: NumShards = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Import a Hugging Face dataset that is saved to disk or in the local cache."""
    from pipeline.sources.importers.hugging_face import import_hf as run

    with progress("import") as update:
        result = run(
            name,
            out,
            modalities=pairs(modality, "--modality") or None,
            label=label,
            kinds=pairs(kind, "--kind"),
            split_by=split_by,
            validation_share=validation_share,
            num_shards=num_shards,
            seed=seed,
            progress=update,
        )
    say(result, imported(result, out), json_)


def import_cremad(
    src: Annotated[Path, Argument(help="Folder that contains AudioWAV and VideoFlash.")],
    out: Annotated[Path, Argument(help="Folder for the shards.")],
    lists: Annotated[
        list[Path] | None,
        Argument(help="With --split lists: TRAIN.csv TEST.csv [VAL.csv].", show_default=False),
    ] = None,
    split: Annotated[
        str, Option(help="actor: no actor in two splits; lists: as in the CSV files given.")
    ] = "actor",
    video: Annotated[
        str | None,
        Option(help="Subfolder of the videos; by default the one that contains video files."),
    ] = None,
    allow_incomplete: AllowIncomplete = False,
    validation_share: Annotated[
        float, Option(help="Share of all clips, or of the training list.")
    ] = 0.1,
    test_share: Annotated[
        float, Option(help="Share of all clips; with lists, they define the test split.")
    ] = 0.15,
    num_shards: NumShards = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Import CREMA-D as published by its authors."""
    from pipeline.sources.importers.cremad import import_cremad as run

    with progress("import") as update:
        result = run(
            src,
            out,
            split=split,
            lists=lists or (),
            video=video,
            allow_incomplete=allow_incomplete,
            validation_share=validation_share,
            test_share=test_share,
            num_shards=num_shards,
            seed=seed,
            progress=update,
        )
    say(result, imported(result, out), json_)


def import_kinetics_sounds(
    src: Annotated[Path, Argument(help="SPLIT/CLASS or CLASS folders, or with --csv any folders.")],
    out: Annotated[Path, Argument(help="Folder for the shards.")],
    csv: Annotated[
        list[Path], Option(help="CSV file of Kinetics with labels and splits; repeatable.")
    ] = [],  # noqa: B006
    allow_missing_classes: Annotated[
        bool, Option("--allow-missing-classes", help="Leave out classes without any clip.")
    ] = False,
    allow_incomplete: AllowIncomplete = False,
    validation_share: Annotated[
        float, Option(help="Share of the training clips, if no clip is in validation.")
    ] = 0.1,
    test_share: Annotated[
        float, Option(help="Share of the training clips, if no clip is in test.")
    ] = 0.15,
    num_shards: NumShards = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Import Kinetics-Sounds from class folders or with Kinetics' CSV files."""
    from pipeline.sources.importers.kinetics_sounds import import_kinetics_sounds as run

    with progress("import") as update:
        result = run(
            src,
            out,
            csv=csv,
            allow_missing_classes=allow_missing_classes,
            allow_incomplete=allow_incomplete,
            validation_share=validation_share,
            test_share=test_share,
            num_shards=num_shards,
            seed=seed,
            progress=update,
        )
    say(result, imported(result, out), json_)


def imported(result: dict[str, Any], out: Path) -> str:
    """Summarize an import: its samples, what it left out, and its classes."""
    splits, origin = result["splits"], result["origin"]
    sizes = ", ".join(f"{counts['samples']} {split}" for split, counts in splits.items())
    text = f"{result['samples']} samples ({sizes})"
    if lost := origin.get("left_out"):
        text += f"; {len(lost)} left out, listed in shards.json"
    if num := origin.get("num_unlisted"):
        text += f"; {num} in no list"
    if classes := origin.get("missing_classes"):
        text += f"; without {', '.join(classes)}"
    if columns := origin.get("ignored_columns"):
        text += f"; without columns {', '.join(columns)}"
    lines = [f"{text}: {out}"]
    for name, num in result["missing"].items():
        lines += [f"{num} samples lack {name}"] if num else []
    labels = sorted({label for split in splits.values() for label in split["labels"]})
    lines.append(f"{len(labels)} classes:")
    for label in labels[:_MAX_CLASSES]:
        of_label = {split: counts["labels"].get(label, 0) for split, counts in splits.items()}
        lines.append(f"  {label!r}: " + ", ".join(f"{num} {s}" for s, num in of_label.items()))
    if len(labels) > _MAX_CLASSES:
        lines.append(f"  and {len(labels) - _MAX_CLASSES} more")
    for group in origin["similar_labels"]:
        names = ", ".join(f"{label!r} ({num})" for label, num in group.items())
        lines.append(f"Different classes, by blanks, case or Unicode form alone: {names}")
    return "\n".join(lines)
