"""Commands that import a dataset: `remix import table|cremad|kinetics-sounds`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from remix.cli.output import Json, pairs, progress, say


def import_table(
    manifest: Path,
    out: Path,
    modality: Annotated[list[str], typer.Option(help="NAME=PATH_COLUMN, once per modality.")],
    label: str = "label",
    split: str = "split",
    sample_id: str = "sample_id",
    where: Annotated[list[str], typer.Option(help="COLUMN=VALUE: keep only such rows.")] = [],  # noqa: B006
    kind: Annotated[
        list[str],
        typer.Option(
            help="NAME=video|audio|image|tensor|text where the file's ending does not tell."
        ),
    ] = [],  # noqa: B006
    root: Annotated[
        Path | None, typer.Option(help="Where the paths start; by default the manifest's folder.")
    ] = None,
    split_by: Annotated[
        str | None, typer.Option(help="No value of this column is in both train and validation.")
    ] = None,
    validation_share: float = 0.0,
    shards: Annotated[
        int | None, typer.Option(help="Number of shards; by default about 256 samples each.")
    ] = None,
    seed: int = 0,
    json_: Json = False,
) -> None:
    """Turn a CSV with sample_id, split, label and a path column per modality into shards."""
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
            num_shards=shards,
            seed=seed,
            progress=update,
        )
    say(result, f"{result['samples']} samples: {out}", json_)


def import_cremad(
    src: Annotated[Path, typer.Argument(help="The folder that has AudioWAV and VideoFlash in it.")],
    out: Path,
    lists: Annotated[
        list[Path] | None,
        typer.Argument(
            help="With --split lists: TRAIN.csv TEST.csv [VAL.csv].", show_default=False
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="actor: no actor on two sides; lists: as published lists say.")
    ] = "actor",
    video: Annotated[
        str | None,
        typer.Option(
            help="The folder in SRC that the videos lie in; by default the one that is there."
        ),
    ] = None,
    allow_incomplete: Annotated[
        bool, typer.Option("--allow-incomplete", help="Leave out clips that lack a half.")
    ] = False,
    validation_share: Annotated[
        float, typer.Option(help="Of all clips, or of the train list.")
    ] = 0.1,
    test_share: Annotated[
        float, typer.Option(help="Of all clips; lists name the test themselves.")
    ] = 0.15,
    shards: Annotated[
        int | None, typer.Option(help="Number of shards; by default about 256 samples each.")
    ] = None,
    seed: int = 0,
    json_: Json = False,
) -> None:
    """Turn CREMA-D as its authors give it out into shards."""
    from pipeline.sources.importers.cremad import import_cremad as run

    shares = {"validation_share": validation_share, "test_share": test_share}
    with progress("import") as update:
        result = run(
            src,
            out,
            split=split,
            lists=lists or (),
            video=video,
            allow_incomplete=allow_incomplete,
            **shares,
            num_shards=shards,
            seed=seed,
            progress=update,
        )
    say(result, imported(result, out), json_)


def import_kinetics_sounds(
    src: Annotated[
        Path,
        typer.Argument(
            help="The folder of SPLIT/CLASS or CLASS folders, or with --csv of clips in any folders."
        ),
    ],
    out: Path,
    csv: Annotated[
        list[Path], typer.Option(help="Kinetics' own file of labels and splits; may be repeated.")
    ] = [],  # noqa: B006
    allow_missing_classes: Annotated[
        bool,
        typer.Option(
            "--allow-missing-classes", help="Go on where some of the 31 classes have no clip."
        ),
    ] = False,
    allow_incomplete: Annotated[
        bool,
        typer.Option(
            "--allow-incomplete", help="Leave out clips that are not there or have no sound."
        ),
    ] = False,
    validation_share: Annotated[
        float, typer.Option(help="Of what is train at first; where no clip is validation yet.")
    ] = 0.1,
    test_share: Annotated[
        float, typer.Option(help="Of what is train at first; where no clip is test yet.")
    ] = 0.15,
    shards: Annotated[
        int | None, typer.Option(help="Number of shards; by default about 256 samples each.")
    ] = None,
    seed: int = 0,
    json_: Json = False,
) -> None:
    """Turn Kinetics-Sounds, in class folders or with Kinetics' CSV files, into shards."""
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
            num_shards=shards,
            seed=seed,
            progress=update,
        )
    say(result, imported(result, out), json_)


def imported(result: dict[str, Any], out: Path) -> str:
    """What an importer of a known set did, in words."""
    splits = ", ".join(f"{each['samples']} {split}" for split, each in result["splits"].items())
    origin = result["origin"]
    rest = [
        *(
            [f"{len(origin['left_out'])} left out, named in shards.json"]
            if origin["left_out"]
            else []
        ),
        *([f"{origin['num_unlisted']} in no list"] if origin.get("num_unlisted") else []),
        *(
            [f"without {', '.join(origin['missing_classes'])}"]
            if origin.get("missing_classes")
            else []
        ),
    ]
    return "; ".join([f"{result['samples']} samples ({splits})", *rest]) + f": {out}"
