"""Data as people have it on disk, a CSV manifest and files -> shards."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from pipeline.config import parse
from pipeline.decode.config import DecodeConfig
from pipeline.errors import DataError
from pipeline.sources.checks import require
from pipeline.sources.importers.manifest import Columns, Row, carve_out, read_manifest
from pipeline.sources.importers.probing import extension, fields_of, kind_of
from pipeline.sources.importers.rows import (
    FileProblem,
    members_of,
    problem_with,
    shared_groups,
    told,
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
    """Writes the manifest's samples as shards, mixed by a hash under the seed, and returns their counts; `modalities` maps names to columns of
    paths below `root`, by default the manifest's folder; `kinds` says what a file of several kinds is to a modality (raises InputError, StoreError).
    """
    check_vacant(out)
    _check(modalities, kinds or {}, split_by, validation_share)
    columns = Columns(
        modalities=modalities,
        sample_id=sample_id,
        label=label,
        split=split,
        split_by=split_by,
        where=where or {},
    )
    rows = read_manifest(manifest, root or manifest.parent, columns)
    if validation_share:
        rows = carve_out(rows, "validation", validation_share, split_by, seed)
    _check_files(rows)
    decode = _decode_config(rows, modalities, kinds or {})
    origin: dict[str, JsonValue] = {
        "source": "table",
        "manifest": manifest.name,
        "modalities": {**modalities},
        "label": label,
        "where": {**columns.where},
        "split_by": split_by,
        "validation_share": validation_share,
        "seed": seed,
    }
    return write_rows(
        out, rows, decode=decode, origin=origin, seed=seed, num_shards=num_shards, progress=progress
    )


def _check(
    modalities: Mapping[str, str],
    kinds: Mapping[str, str],
    split_by: str | None,
    validation_share: float,
) -> None:
    require(
        len(modalities) > 0,
        "no modality is given",
        "name each with its column of paths: --modality audio=audio_path",
    )
    for name in modalities:
        same = [other for other in modalities if other.lower() == name.lower()]
        require(
            len(same) == 1,
            f"modalities {' and '.join(same)} differ in the size of letters alone",
            "rename one",
        )
    for name, kind in kinds.items():
        require(
            name in modalities,
            f"kind {kind!r} is given for {name!r}, which is no modality",
            f"choose among {', '.join(modalities)}",
        )
    require(
        0 <= validation_share < 1,
        f"validation share is {validation_share}",
        "give a number from 0 up to, but not, 1",
    )
    require(
        not split_by or validation_share > 0,
        f"split by {split_by!r} is given without a validation share",
        "give one, such as 0.15",
    )


def _check_files(rows: Sequence[Row]) -> None:
    """Raises DataError where a file is not what it should be, before anything is written."""
    look = cache(problem_with)
    problems = [
        FileProblem(name=f"line {row.line}: {path}", kind=kind)
        for row in rows
        for path in dict.fromkeys(row.files.values())
        if (kind := look(path))
    ]
    if problems:
        cure = "check the root folder that the paths start from; `git lfs pull` fetches what pointers stand for; or take the lines out of the manifest"
        raise DataError(told(problems, "files"), cure)


def _decode_config(
    rows: Sequence[Row], modalities: Mapping[str, str], kinds: Mapping[str, str]
) -> DecodeConfig:
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
