"""Importer of a CSV manifest and the files that it lists.

`write_table` is the half that it shares with other tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from pipeline.config import parse
from pipeline.decode.config import DecodeConfig
from pipeline.errors import DataError
from pipeline.sources.checks import require
from pipeline.sources.importers.content import extension, is_blank
from pipeline.sources.importers.manifest import (
    TEXT_COLUMN,
    Columns,
    Row,
    carve_out,
    read_manifest,
)
from pipeline.sources.importers.probing import fields_of, kind_of
from pipeline.sources.importers.rows import (
    FileProblem,
    describe,
    members_of,
    problem_with,
    shared_groups,
    write_rows,
)
from pipeline.sources.shard_writer import JsonValue, Progress, check_vacant


def import_table(
    manifest: Path,
    out: Path,
    *,
    modalities: Mapping[str, str],
    root: Path | None = None,
    label: str = "label",
    split: str = "split",
    sample_id: str = "sample_id",
    where: Mapping[str, str] | None = None,
    kinds: Mapping[str, str] | None = None,
    split_by: str | None = None,
    validation_share: float = 0.0,
    num_shards: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, JsonValue]:
    """Write the samples of a manifest as shards and return the content of shards.json.

    Args:
        manifest: CSV file with a header and one line per sample.
        modalities: name of each modality and its column of file paths, or `text:COLUMN` for a
            column that contains the texts themselves.
        root: folder that the paths are relative to; by default the manifest's folder.
        label, split, sample_id: columns of the label, the split and the sample id.
        where: columns and values; only lines that have all the values are imported.
        kinds: kind of a modality, whatever the extensions of its files are.
        split_by: column whose groups go to the same split, such as the speaker.
        validation_share: fraction of the train samples to move to validation.
        num_shards: number of shards; by default one per 256 samples.
        seed: seed of the order of the samples and of the validation split.
    Raises InputError before anything is written, or StoreError.
    """
    check_vacant(out)
    check_options(modalities, kinds or {}, split_by, validation_share)
    columns = Columns(
        modalities=modalities,
        sample_id=sample_id,
        label=label,
        split=split,
        split_by=split_by,
        where=where or {},
    )
    rows = read_manifest(manifest, root or manifest.parent, columns)
    texts = [name for name, column in modalities.items() if column.startswith(TEXT_COLUMN)]
    kinds = {**(kinds or {}), **dict.fromkeys(texts, "text")}
    origin: dict[str, JsonValue] = {
        "source": "table",
        "manifest": manifest.name,
        "label": label,
        "where": {**columns.where},
    }
    return write_table(
        out,
        [_without_blank_texts(row, kinds) for row in rows],
        source=str(manifest),
        modalities=modalities,
        label=label,
        kinds=kinds,
        split_by=split_by,
        validation_share=validation_share,
        num_shards=num_shards,
        seed=seed,
        origin=origin,
        progress=progress,
    )


def write_table(
    out: Path,
    rows: list[Row],
    *,
    source: str,
    modalities: Mapping[str, str],
    label: str,
    kinds: Mapping[str, str],
    split_by: str | None,
    validation_share: float,
    num_shards: int | None,
    seed: int,
    origin: Mapping[str, JsonValue],
    progress: Progress | None,
) -> dict[str, JsonValue]:
    """Check the rows of a table, write them as shards and return the content of shards.json.

    `source` is the name of the table for messages; the other arguments are those of `import_table`.
    Raises InputError before anything is written, or StoreError.
    """
    _check_rows(source, rows, modalities, label)
    if validation_share:
        rows = carve_out(rows, "validation", validation_share, split_by, seed)
    _check_files(rows)
    options: dict[str, JsonValue] = {
        "modalities": {**modalities},
        "split_by": split_by,
        "validation_share": validation_share,
        "seed": seed,
    }
    return write_rows(
        out,
        rows,
        decode=_decode_config(rows, modalities, kinds),
        origin={**origin, **options},
        seed=seed,
        num_shards=num_shards,
        progress=progress,
    )


def check_options(
    modalities: Mapping[str, str],
    kinds: Mapping[str, str],
    split_by: str | None,
    validation_share: float,
) -> None:
    """Raise InputError if options of an import contradict each other."""
    require(
        len(modalities) > 0,
        "No modality given",
        "Pass each with its column, such as --modality audio=audio_path.",
    )
    for name in modalities:
        same = [other for other in modalities if other.lower() == name.lower()]
        require(
            len(same) == 1,
            f"Modality names differ only in case: {' and '.join(same)}",
            "Rename one of them.",
        )
    for name, kind in kinds.items():
        require(
            name in modalities,
            f"Kind {kind!r} given for unknown modality {name!r}",
            f"Choose one of {', '.join(modalities)}.",
        )
        require(
            kind == "text" or not modalities[name].startswith(TEXT_COLUMN),
            f"Kind {kind!r} given for modality {name!r}, whose column contains texts",
            "Remove --kind or the prefix text: of the column.",
        )
    require(
        0 <= validation_share < 1,
        f"Invalid validation share: {validation_share}",
        "Pass a number of at least 0 and below 1.",
    )
    require(
        not split_by or validation_share > 0,
        f"Split by {split_by!r} requires a validation share",
        "Pass one, such as 0.15.",
    )


def _without_blank_texts(row: Row, kinds: Mapping[str, str]) -> Row:
    """Remove texts that are empty or only whitespace: the sample lacks these modalities."""
    files = {
        name: source
        for name, source in row.files.items()
        if kinds.get(name, "text") != "text"
        or (extension(source) != "txt" and name not in kinds)
        or not is_blank(source)
    }
    return replace(row, files=files)


def _check_rows(
    source: str, rows: Sequence[Row], modalities: Mapping[str, str], label: str
) -> None:
    """Raise DataError for a row without modalities, a modality without rows, and one class."""
    for row in rows:
        if not row.files:
            raise DataError(
                f"{source}, {row.place}: sample {row.sample_id!r} has none of the modalities"
                f" {', '.join(modalities)}",
                "Add one or remove the row.",
            )
    if len({row.label for row in rows}) < 2:
        raise DataError(
            f"{source}: column {label!r} has only one value, {rows[0].label!r}",
            "Include rows of at least two classes.",
        )
    for name, column in modalities.items():
        if not any(name in row.files for row in rows):
            raise DataError(
                f"{source}: no sample has modality {name!r}, since column {column!r} is empty in"
                " all rows",
                "Add values or remove the modality.",
            )


def _check_files(rows: Sequence[Row]) -> None:
    """Raise DataError if a file is missing or unusable."""
    check = cache(problem_with)
    problems = [
        FileProblem(name=f"{row.place}: {path}", kind=kind)
        for row in rows
        for path in dict.fromkeys(row.files.values())
        if isinstance(path, Path) and (kind := check(path))
    ]
    if problems:
        cure = (
            "Check the root folder of the paths, run `git lfs pull` if files are git-lfs pointers,"
            " or remove the rows."
        )
        raise DataError(describe(problems, "files"), cure)


def _decode_config(
    rows: Sequence[Row], modalities: Mapping[str, str], kinds: Mapping[str, str]
) -> DecodeConfig:
    """Infer the decode configuration from the files. Raises InputError."""
    members, shared = members_of(rows), shared_groups(rows)
    specs = {}
    for name in modalities:
        files = list(dict.fromkeys(row.files[name] for row in rows if name in row.files))
        examples = {extension(path): path for path in reversed(files)}
        is_shared = any(name in group for group in shared)
        kind = kind_of(name, examples, is_shared, kinds.get(name))
        fields = fields_of(name, kind, files)
        specs[name] = {"kind": kind, "member": members[name], **fields}
    return parse(DecodeConfig, {"modalities": specs}, "modalities")
