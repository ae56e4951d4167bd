"""Writing of rows with files as shards, shared by all importers.

A file becomes the member `<modality>.<extension>` of its sample. A file that several modalities
read is written once, as `<extension>`.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

from pipeline.decode.config import DecodeConfig
from pipeline.errors import StoreError
from pipeline.shards.member_checks import LFS_BYTES, is_lfs_pointer
from pipeline.sources.checks import require
from pipeline.sources.importers.content import Source, extension
from pipeline.sources.importers.manifest import Row
from pipeline.sources.shard_writer import JsonValue, NewSample, Progress, write_shards
from pipeline.sources.splits import hashed

SAMPLES_PER_SHARD = 256
LFS_POINTER = "a git-lfs pointer"
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")
_NUM_EXAMPLES = 3

Group = tuple[str, ...]
"""The modalities of a row that read the same file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileProblem:
    """A problem with a file or a clip.

    `kind` completes "NAME is", such as "empty", and `detail` is appended to it in messages.
    """

    name: str
    kind: str
    detail: str = ""


def describe(problems: Sequence[FileProblem], what: str) -> str:
    """Describe problems with files: the number of each kind, and examples."""
    kinds: dict[str, list[FileProblem]] = defaultdict(list)
    for problem in problems:
        kinds[problem.kind].append(problem)
    counts = ", ".join(f"{len(group)} {kind}" for kind, group in sorted(kinds.items()))
    examples = [
        f"{problem.name} is {problem.kind}{problem.detail}"
        for group in kinds.values()
        for problem in group[:_NUM_EXAMPLES]
    ]
    num_more = len(problems) - len(examples)
    more = [f"and {num_more} more"] if num_more else []
    return f"{len(problems)} {what} cannot be used ({counts}): {'; '.join(examples + more)}"


def problem_with(path: Path) -> str:
    """Return why a file cannot be used, without opening it as media; "" if no problem is found."""
    try:
        if not path.is_file():
            return "missing" if not path.exists() else "not a file"
        size = path.stat().st_size
        if size <= LFS_BYTES and is_lfs_pointer(path.read_bytes()):
            return LFS_POINTER
        return "" if size else "empty"
    except OSError:
        return "unreadable"


def shared_groups(rows: Sequence[Row]) -> list[Group]:
    """Groups of several modalities that read the same file in some row, sorted."""
    return sorted({group for row in rows for group in groups_of(row) if len(group) > 1})


def groups_of(row: Row) -> list[Group]:
    """Group the modalities of a row by the file that they read."""
    groups: dict[Source, list[str]] = {}
    for name, path in row.files.items():
        groups.setdefault(path, []).append(name)
    return [tuple(group) for group in groups.values()]


def member_groups(rows: Sequence[Row]) -> Iterator[dict[str, Group]]:
    """Yield, for each row, the suffixes of its members with the modalities that read them."""
    shared = shared_groups(rows)
    for row in rows:
        members = {}
        for group in groups_of(row):
            suffix = extension(row.files[group[0]])
            if len(group) == 1:
                suffix = f"{group[0].lower()}.{suffix}"
            elif len(shared) > 1:
                # If different modalities share files in different rows, a plain extension would
                # give a shared file to a third modality that has no file in that row.
                suffix = f"shared-{shared.index(group)}.{suffix}"
            members[suffix] = group
        yield members


def members_of(rows: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    """Suffixes of the members that each modality reads, sorted."""
    suffixes_of: dict[str, set[str]] = defaultdict(set)
    for members in member_groups(rows):
        for suffix, group in members.items():
            for name in group:
                suffixes_of[name].add(suffix)
    return {name: tuple(sorted(suffixes)) for name, suffixes in suffixes_of.items()}


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
    """Write rows as shards in an order that is shuffled by a hash of the seed.

    By default a shard has about 256 samples. Returns the content of shards.json. Raises InputError
    or StoreError.
    """
    num = num_shards if num_shards is not None else -(-len(rows) // SAMPLES_PER_SHARD)
    require(
        1 <= num <= len(rows),
        f"Invalid number of shards: {num}",
        f"Pass 1 to {len(rows)}, the number of samples.",
    )
    shuffled = sorted(rows, key=lambda row: (hashed(seed, "order", row.sample_id), row.sample_id))
    return write_shards(
        out,
        _samples(shuffled),
        num_samples=len(rows),
        num_shards=num,
        decode=decode,
        origin={**origin, "similar_labels": similar_labels(rows)},
        progress=progress,
    )


def similar_labels(rows: Sequence[Row]) -> list[JsonValue]:
    """Groups of labels that differ only in blanks, case or Unicode form: number of rows by label.

    They stay different classes, which is seldom meant.
    """
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for label, num in sorted(Counter(row.label for row in rows).items()):
        groups[normalize("NFC", "".join(label.casefold().split()))][label] = num
    return [dict(group) for group in groups.values() if len(group) > 1]


def _samples(rows: Sequence[Row]) -> Iterator[NewSample]:
    are_keys = all(_KEY.fullmatch(row.sample_id) for row in rows)
    digits = len(str(max(row.line for row in rows)))
    for row, members in zip(rows, member_groups(rows), strict=True):
        # If one id cannot be a key, all keys are line numbers: a line number among ids could equal
        # another sample's id.
        key = row.sample_id if are_keys else f"{row.line:0{digits}d}"
        yield NewSample(
            key=key,
            sample_id=row.sample_id,
            label=row.label,
            split=row.split,
            metadata={"columns": {**row.cells}},
            members={suffix: _read(row.files[group[0]]) for suffix, group in members.items()},
        )


def _read(path: Source) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"File cannot be read: {path} ({error})", "Check the disk and import again."
        ) from error
