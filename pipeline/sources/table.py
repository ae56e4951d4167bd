"""Data as people have it on disk, a CSV manifest and files -> shards.

A file is the member `<modality>.<extension>` of its sample; a file that several modalities read is written once, as `<extension>`.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from pipeline.config import DecodeConfig, parse
from pipeline.errors import DataError, InputError, StoreError
from pipeline.sources.manifest import Columns, Row, carve_validation, read_manifest
from pipeline.sources.probing import extension, kind_of, spec_of
from pipeline.sources.splitting import hashed
from pipeline.sources.writing import JsonValue, Progress, Sample, check_vacant, write_shards

SAMPLES_PER_SHARD = 256
KINDS = ("audio", "image", "tensor", "video")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")
_LFS_POINTER = b"version https://git-lfs"
_POINTER_BYTES = 1024
_NUM_NAMED = 5

Group = tuple[str, ...]
"""The modalities that read one and the same file of a row."""


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
    samples_per_shard: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, JsonValue]:
    """Writes the manifest's samples as shards, mixed by a hash under the seed, and returns their counts; `modalities` maps names to columns of
    paths below `root`, by default the manifest's folder; `kinds` says what a file of several kinds is to a modality (raises InputError, StoreError).
    """
    check_vacant(out)
    _check(modalities, kinds or {}, split_by, validation_share)
    columns = Columns(modalities=modalities, sample_id=sample_id, label=label, split=split, split_by=split_by, where=where or {})
    rows = read_manifest(manifest, root or manifest.parent, columns)
    if validation_share:
        rows = carve_validation(rows, validation_share, split_by, seed)
    _check_files(rows)
    shared = sorted({group for row in rows for group in _groups(row) if len(group) > 1})
    decode = _decode_config(rows, modalities, shared, kinds or {})
    rows.sort(key=lambda row: (hashed(seed, "order", row.sample_id), row.sample_id))
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
    num = _num_shards(len(rows), num_shards, samples_per_shard)
    return write_shards(out, _samples(rows, shared), num_samples=len(rows), num_shards=num, decode=decode, origin=origin, progress=progress)


def _check(modalities: Mapping[str, str], kinds: Mapping[str, str], split_by: str | None, validation_share: float) -> None:
    if not modalities:
        raise InputError("no modality is given", "name each with its column of paths: --modality audio=audio_path")
    if repeated := [name for name, num in Counter(name.lower() for name in modalities).items() if num > 1]:
        raise InputError(f"two modalities are called {repeated[0]!r} but for the size of letters", "rename one")
    for name, kind in kinds.items():
        if name not in modalities:
            raise InputError(f"kind {kind!r} is given for {name!r}, which is no modality", f"choose among {', '.join(modalities)}")
        if kind not in KINDS:
            raise InputError(f"kind {kind!r} of modality {name!r} is unknown", f"choose among {', '.join(KINDS)}")
    if not 0 <= validation_share < 1:
        raise InputError(f"validation share is {validation_share}", "give a number from 0 up to, but not, 1")
    if split_by and not validation_share:
        raise InputError(f"split by {split_by!r} is given without a validation share", "give one, such as 0.15")


def _num_shards(num_samples: int, num_shards: int | None, samples_per_shard: int | None) -> int:
    if num_shards is not None and samples_per_shard is not None:
        raise InputError(f"both {num_shards} shards and {samples_per_shard} samples a shard are asked for", "give one of them")
    if num_shards is not None and not 1 <= num_shards <= num_samples:
        raise InputError(f"shards is {num_shards}", f"give 1 to {num_samples}, the number of samples")
    if samples_per_shard is not None and samples_per_shard < 1:
        raise InputError(f"samples a shard is {samples_per_shard}", "give at least 1")
    return num_shards or -(-num_samples // (samples_per_shard or SAMPLES_PER_SHARD))


def _check_files(rows: Sequence[Row]) -> None:
    """Raises DataError where a file is not what it should be, before anything is written."""
    look = cache(_problem)
    problems = [(row.line, path, problem) for row in rows for path in dict.fromkeys(row.files.values()) if (problem := look(path))]
    if problems:
        kinds = ", ".join(f"{num} {problem}" for problem, num in sorted(Counter(problem for _, _, problem in problems).items()))
        named = "; ".join(f"line {line}: {path} is {problem}" for line, path, problem in problems[:_NUM_NAMED])
        more = f"; and {len(problems) - _NUM_NAMED} more" if len(problems) > _NUM_NAMED else ""
        cure = "check the root folder that the paths start from; `git lfs pull` fetches what pointers stand for; or take the lines out of the manifest"
        raise DataError(f"{len(problems)} files cannot be used ({kinds}): {named}{more}", cure)


def _problem(path: Path) -> str:
    try:
        if not path.is_file():
            return "missing" if not path.exists() else "not a file"
        size = path.stat().st_size
        if size <= _POINTER_BYTES and path.read_bytes().startswith(_LFS_POINTER):
            return "a git-lfs pointer"
        return "" if size else "empty"
    except OSError:
        return "unreadable"


def _groups(row: Row) -> list[Group]:
    names: dict[Path, list[str]] = {}
    for name, path in row.files.items():
        names.setdefault(path, []).append(name)
    return [tuple(group) for group in names.values()]


def _suffix(group: Group, path: Path, shared: Sequence[Group]) -> str:
    if len(group) == 1:
        return f"{group[0].lower()}.{extension(path)}"
    # Where now these share a file and now those, a bare extension would offer one pair's file to a third that lacks its own.
    return extension(path) if len(shared) == 1 else f"shared-{shared.index(group)}.{extension(path)}"


def _decode_config(rows: Sequence[Row], modalities: Mapping[str, str], shared: Sequence[Group], kinds: Mapping[str, str]) -> DecodeConfig:
    suffixes: dict[str, set[str]] = {name: set() for name in modalities}
    examples: dict[str, dict[str, Path]] = {name: {} for name in modalities}
    for row in rows:
        for group in _groups(row):
            path = row.files[group[0]]
            for name in group:
                suffixes[name].add(_suffix(group, path, shared))
                examples[name].setdefault(extension(path), path)
    specs = {}
    for name in modalities:
        kind = kind_of(name, examples[name], any(name in group for group in shared), kinds.get(name))
        files = dict.fromkeys(row.files[name] for row in rows if name in row.files)
        specs[name] = spec_of(name, kind, sorted(suffixes[name]), list(files)).model_dump()
    return parse(DecodeConfig, {"modalities": specs}, "modalities")


def _samples(rows: Sequence[Row], shared: Sequence[Group]) -> Iterator[Sample]:
    fit = all(_KEY.fullmatch(row.sample_id) for row in rows)
    digits = len(str(max(row.line for row in rows)))
    for row in rows:
        paths = {_suffix(group, row.files[group[0]], shared): row.files[group[0]] for group in _groups(row)}
        members = {suffix: _read(path) for suffix, path in paths.items()}
        # One id that is no key makes every key a line number: a number among ids could be another sample's id.
        key = row.sample_id if fit else f"{row.line:0{digits}d}"
        yield Sample(key=key, sample_id=row.sample_id, label=row.label, split=row.split, facts={"columns": {**row.cells}}, members=members)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error})", "check the disk, and import again") from error
