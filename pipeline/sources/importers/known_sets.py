"""What the importers of known sets share: what is asked for is checked, and a clip that lacks something is named or left out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.decode.config import ModalitySpec
from pipeline.errors import DataError, MissingError
from pipeline.sources.checks import require
from pipeline.sources.importers.manifest import Row
from pipeline.sources.importers.probing import lacks
from pipeline.sources.importers.rows import (
    POINTER,
    FileProblem,
    groups_of,
    members_of,
    problem_with,
    told,
)
from pipeline.sources.shard_writer import JsonValue, check_vacant

CURES = {
    POINTER: "`git lfs install` and `git lfs pull` in the clone fetch what pointers stand for",
    "there twice": "keep one of them",
    "not a file": "remove it",
}
"""What helps against problems that leaving clips out does not; every other kind is that a clip is incomplete."""
_INCOMPLETE = "give --allow-incomplete to leave such clips out, or mend them"


def check_request(
    src: Path, out: Path, holds: str, validation_share: float, test_share: float
) -> None:
    """Raises InputError or StoreError where nothing can come of what is asked for."""
    check_vacant(out)
    if not src.is_dir():
        raise MissingError(f"SRC {src} is no folder", f"give the folder that has {holds} in it")
    require(
        min(validation_share, test_share) >= 0 and validation_share + test_share < 1,
        f"shares of validation and test are {validation_share} and {test_share}",
        "give numbers from 0 up whose sum is below 1",
    )


def keep_whole(
    rows: Sequence[Row],
    problems: Sequence[FileProblem],
    cures: Mapping[str, str],
    allow_incomplete: bool,
) -> tuple[list[Row], dict[str, JsonValue]]:
    """The rows without a problem, sorted by id and numbered, and what is left out of them; each file is looked into (raises DataError)."""
    lost = left_out([*problems, *_looks(rows)], "clips", cures, allow_incomplete)
    kept = sorted((row for row in rows if row.sample_id not in lost), key=lambda row: row.sample_id)
    return [replace(row, line=line) for line, row in enumerate(kept, 1)], lost


def left_out(
    problems: Sequence[FileProblem], what: str, cures: Mapping[str, str], allow_incomplete: bool
) -> dict[str, JsonValue]:
    """The names that may be left out with their kinds of problem (raises DataError where any may not)."""
    if fatal := [each for each in problems if each.kind in cures or not allow_incomplete]:
        helps = dict.fromkeys(cures.get(each.kind, _INCOMPLETE) for each in fatal)
        raise DataError(told(fatal, what), "; ".join(helps))
    return {each.name: each.kind for each in problems}


def with_members(specs: Mapping[str, ModalitySpec], rows: Sequence[Row]) -> dict[str, ModalitySpec]:
    """The preprocessing of each modality, with the members that it reads."""
    members = members_of(rows)
    return {name: spec.model_copy(update={"member": members[name]}) for name, spec in specs.items()}


def _looks(rows: Sequence[Row]) -> Iterator[FileProblem]:
    for row in rows:
        for group in groups_of(row):
            path = row.files[group[0]]
            if kind := problem_with(path) or lacks(path, group):
                detail = f" ({path.parent.name}/{path.name})"
                yield FileProblem(name=row.sample_id, kind=kind, detail=detail)
