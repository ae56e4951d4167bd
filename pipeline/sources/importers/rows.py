"""Rows with files -> shards: what every importer does once it knows its samples.

A file is the member `<modality>.<extension>` of its sample; a file that several modalities read is written once, as `<extension>`.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.decode.config import DecodeConfig
from pipeline.errors import StoreError
from pipeline.shards.member_checks import LFS_BYTES, is_lfs_pointer
from pipeline.sources.checks import require
from pipeline.sources.importers.manifest import Row
from pipeline.sources.importers.probing import extension
from pipeline.sources.shard_writer import JsonValue, NewSample, Progress, write_shards
from pipeline.sources.splits import hashed

SAMPLES_PER_SHARD = 256
POINTER = "a git-lfs pointer"
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")
_NUM_NAMED = 3

Group = tuple[str, ...]
"""The modalities that read one and the same file of a row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileProblem:
    """`name` is `kind`, and `detail` says more."""

    name: str
    kind: str
    detail: str = ""


def told(problems: Sequence[FileProblem], what: str) -> str:
    """How many there are of each kind, and the first few of each by name."""
    kinds: dict[str, list[FileProblem]] = defaultdict(list)
    for problem in problems:
        kinds[problem.kind].append(problem)
    counts = ", ".join(f"{len(found)} {kind}" for kind, found in sorted(kinds.items()))
    named = [
        f"{each.name} is {each.kind}{each.detail}"
        for found in kinds.values()
        for each in found[:_NUM_NAMED]
    ]
    more = [f"and {len(problems) - len(named)} more"] if len(problems) > len(named) else []
    return f"{len(problems)} {what} cannot be used ({counts}): {'; '.join(named + more)}"


def problem_with(path: Path) -> str:
    """Why a file cannot be used, as far as can be told without opening it as media; "" where nothing speaks against it."""
    try:
        if not path.is_file():
            return "missing" if not path.exists() else "not a file"
        size = path.stat().st_size
        if size <= LFS_BYTES and is_lfs_pointer(path.read_bytes()):
            return POINTER
        return "" if size else "empty"
    except OSError:
        return "unreadable"


def shared_groups(rows: Sequence[Row]) -> list[Group]:
    """The groups of modalities that read one file in some row, sorted."""
    return sorted({group for row in rows for group in groups_of(row) if len(group) > 1})


def groups_of(row: Row) -> list[Group]:
    """The modalities of a row by the file that they read."""
    names: dict[Path, list[str]] = {}
    for name, path in row.files.items():
        names.setdefault(path, []).append(name)
    return [tuple(group) for group in names.values()]


def member_groups(rows: Sequence[Row]) -> Iterator[dict[str, Group]]:
    """For each row the members that its files become, with the modalities that read them."""
    shared = shared_groups(rows)
    for row in rows:
        members = {}
        for group in groups_of(row):
            suffix = extension(row.files[group[0]])
            if len(group) == 1:
                suffix = f"{group[0].lower()}.{suffix}"
            elif len(shared) > 1:
                # Where now these share a file and now those, a bare extension would offer one pair's file to a third that lacks its own.
                suffix = f"shared-{shared.index(group)}.{suffix}"
            members[suffix] = group
        yield members


def members_of(rows: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    """The members that each modality reads, sorted."""
    found: dict[str, set[str]] = defaultdict(set)
    for members in member_groups(rows):
        for suffix, group in members.items():
            for name in group:
                found[name].add(suffix)
    return {name: tuple(sorted(suffixes)) for name, suffixes in found.items()}


def write_rows(
    out: Path,
    rows: Sequence[Row],
    *,
    decode: DecodeConfig,
    origin: Mapping[str, JsonValue],
    seed: int,
    num_shards: int | None,
    progress: Progress | None = None,
) -> dict[str, JsonValue]:
    """Writes the rows as shards, mixed by a hash under the seed, and returns their counts (raises InputError, StoreError)."""
    num = num_shards if num_shards is not None else -(-len(rows) // SAMPLES_PER_SHARD)
    require(1 <= num <= len(rows), f"shards is {num}", f"give 1 to {len(rows)}, one of each sample")
    mixed = sorted(rows, key=lambda row: (hashed(seed, "order", row.sample_id), row.sample_id))
    return write_shards(
        out,
        _samples(mixed),
        num_samples=len(rows),
        num_shards=num,
        decode=decode,
        origin=origin,
        progress=progress,
    )


def _samples(rows: Sequence[Row]) -> Iterator[NewSample]:
    fit = all(_KEY.fullmatch(row.sample_id) for row in rows)
    digits = len(str(max(row.line for row in rows)))
    for row, members in zip(rows, member_groups(rows), strict=True):
        # One id that is no key makes every key a line number: a number among ids could be another sample's id.
        key = row.sample_id if fit else f"{row.line:0{digits}d}"
        yield NewSample(
            key=key,
            sample_id=row.sample_id,
            label=row.label,
            split=row.split,
            facts={"columns": {**row.cells}},
            members={suffix: _read(row.files[group[0]]) for suffix, group in members.items()},
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"{path} cannot be read ({error})", "check the disk, and import again"
        ) from error
