"""Shared code of the importers of known datasets: argument checks and unusable clips."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.decode.config import ModalitySpec
from pipeline.errors import DataError, MissingError
from pipeline.sources.checks import require
from pipeline.sources.importers.manifest import Row
from pipeline.sources.importers.probing import stream_problem
from pipeline.sources.importers.rows import (
    LFS_POINTER,
    FileProblem,
    describe,
    groups_of,
    members_of,
    problem_with,
)
from pipeline.sources.shard_writer import JsonValue, check_vacant

CURES = {
    LFS_POINTER: "Run `git lfs install` and `git lfs pull` in the clone to fetch the files.",
    "there twice": "Keep one of the files.",
    "not a file": "Remove it.",
}
"""How to fix the problems that always stop an import, by kind.

A problem of any other kind means that a clip is incomplete; --allow-incomplete skips such clips.
"""
_INCOMPLETE = "Fix the clips, or pass --allow-incomplete to leave them out."


def check_request(
    src: Path, out: Path, content: str, validation_share: float, test_share: float
) -> None:
    """Raise InputError or StoreError if an argument of an importer is invalid.

    `content` names what the folder `src` should contain.
    """
    check_vacant(out)
    if not src.is_dir():
        raise MissingError(
            f"SRC is not a folder: {src}", f"Pass the folder that contains {content}."
        )
    require(
        min(validation_share, test_share) >= 0 and validation_share + test_share < 1,
        f"Invalid validation share {validation_share} and test share {test_share}",
        "Pass non-negative numbers whose sum is below 1.",
    )


def keep_complete(
    rows: Sequence[Row],
    problems: Sequence[FileProblem],
    cures: Mapping[str, str],
    allow_incomplete: bool,
) -> tuple[list[Row], dict[str, JsonValue]]:
    """Remove rows with a problem; every file is opened to check its streams.

    Args:
        rows: the rows.
        problems: the problems that are already known.
        cures: how to fix the kinds of problems that `allow_incomplete` does not allow.
        allow_incomplete: remove incomplete clips instead of raising an error.
    Returns:
        The remaining rows, sorted by id and numbered, and the kind of problem by removed id.
    Raises:
        DataError: a problem is not allowed.
    """
    removed = left_out([*problems, *_file_problems(rows)], "clips", cures, allow_incomplete)
    kept = [row for row in rows if row.sample_id not in removed]
    kept.sort(key=lambda row: row.sample_id)
    return [replace(row, line=line) for line, row in enumerate(kept, 1)], removed


def left_out(
    problems: Sequence[FileProblem], what: str, cures: Mapping[str, str], allow_incomplete: bool
) -> dict[str, JsonValue]:
    """Return the kind of problem by name; raise DataError if one of them is not allowed."""
    if fatal := [item for item in problems if item.kind in cures or not allow_incomplete]:
        fixes = dict.fromkeys(cures.get(problem.kind, _INCOMPLETE) for problem in fatal)
        raise DataError(describe(fatal, what), " ".join(fixes))
    return {problem.name: problem.kind for problem in problems}


def with_members(specs: Mapping[str, ModalitySpec], rows: Sequence[Row]) -> dict[str, ModalitySpec]:
    """Set the members that each modality reads in its spec."""
    members = members_of(rows)
    return {name: spec.model_copy(update={"member": members[name]}) for name, spec in specs.items()}


def _file_problems(rows: Sequence[Row]) -> Iterator[FileProblem]:
    """Yield a problem for each file that cannot be used, or lacks a stream that is read from it."""
    for row in rows:
        for group in groups_of(row):
            path = row.files[group[0]]
            assert isinstance(path, Path)
            if kind := problem_with(path) or stream_problem(path, group):
                detail = f" ({path.parent.name}/{path.name})"
                yield FileProblem(name=row.sample_id, kind=kind, detail=detail)
