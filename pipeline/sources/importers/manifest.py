"""A CSV file that names samples, their labels, their splits and their files -> checked rows."""

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TextIO

from pipeline.errors import DataError, InputError, MissingError
from pipeline.sources.splits import carve, carve_groups

SPLIT_NAMES = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A line of the manifest: `files` holds the path of each modality that the sample has, `cells` the whole line."""

    line: int
    sample_id: str
    label: str
    split: str
    files: Mapping[str, Path]
    cells: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Which column says what: `modalities` maps names to columns of paths, `where` columns to the value that a row must have to be kept."""

    modalities: Mapping[str, str]
    sample_id: str = "sample_id"
    label: str = "label"
    split: str = "split"
    split_by: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)

    def check(self, manifest: Path, header: Sequence[str]) -> None:
        """Raises InputError where the manifest lacks one of them."""
        asked = {
            self.sample_id: "sample id",
            self.label: "label",
            self.split: "split",
        } | dict.fromkeys(self.where, "where")
        asked |= {column: f"modality {name!r}" for name, column in self.modalities.items()}
        asked |= {self.split_by: "split by"} if self.split_by else {}
        for column, purpose in asked.items():
            if column not in header:
                close = get_close_matches(column, header, n=1)
                cure = (
                    f"did you mean {close[0]!r}?"
                    if close
                    else f"choose among {', '.join(header) or 'none, for the file is empty'}"
                )
                raise InputError(f"{manifest} has no column {column!r} ({purpose})", cure)


def read_manifest(manifest: Path, root: Path, columns: Columns) -> list[Row]:
    """The rows to keep, in their order (raises DataError naming the line, InputError, MissingError)."""
    rows = [
        _row(manifest, line, cells, root, columns)
        for line, cells in read_cells(
            manifest, "manifest", lambda header: columns.check(manifest, header)
        )
        if all(cells[name] == value for name, value in columns.where.items())
    ]
    _check_rows(manifest, rows, columns)
    return rows


def read_cells(
    path: Path, what: str, check: Callable[[Sequence[str]], None]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Number and cells of each line behind the header, which `check` sees first (raises DataError naming the line, MissingError)."""
    with _opened(path, what) as file:
        reader = csv.DictReader(file, strict=True)
        header = list(reader.fieldnames or [])
        check(header)
        if repeated := [name for name, num in Counter(header).items() if num > 1]:
            raise DataError(f"{path} has two columns {repeated[0]!r}", "rename one")
        for cells in reader:
            if len(cells) != len(header) or None in cells.values():
                raise DataError(
                    f"{path}, line {reader.line_num}: it has not as many cells as the header, {len(header)}",
                    "mend the line",
                )
            yield reader.line_num, cells


def needing(path: Path, *columns: str) -> Callable[[Sequence[str]], None]:
    """A check for `read_cells`: these columns are there (raises DataError)."""

    def check(header: Sequence[str]) -> None:
        if lost := [column for column in columns if column not in header]:
            raise DataError(
                f"{path} has no column {lost[0]!r}",
                f"take the file as its authors give it out, with {', '.join(columns)} in its first line",
            )

    return check


def read_lines(path: Path, what: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line of a CSV file without a header; empty lines are left out (raises DataError, MissingError)."""
    with _opened(path, what) as file:
        reader = csv.reader(file, strict=True)
        yield from ((reader.line_num, cells) for cells in reader if cells)


@contextmanager
def _opened(path: Path, what: str) -> Iterator[TextIO]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except FileNotFoundError as error:
        raise MissingError(
            f"{what} {path} does not exist", "give the path of a CSV file"
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{what} {path} is not a readable CSV file in UTF-8 ({error})", "mend the file"
        ) from error


def _row(manifest: Path, line: int, cells: dict[str, str], root: Path, columns: Columns) -> Row:
    def problem(what: str, cure: str) -> DataError:
        return DataError(f"{manifest}, line {line}: {what}", cure)

    sample_id, label, split = cells[columns.sample_id], cells[columns.label], cells[columns.split]
    for column, value in ((columns.sample_id, sample_id), (columns.label, label)):
        if not value:
            raise problem(
                f"column {column!r} is empty",
                "fill it in, or leave the row out with a where condition",
            )
    if split.strip().lower() not in SPLIT_NAMES:
        raise problem(
            f"column {columns.split!r} is {split!r}, which names no split",
            f"write one of {', '.join(SPLIT_NAMES)}",
        )
    if columns.split_by and not cells[columns.split_by]:
        raise problem(
            f"column {columns.split_by!r} is empty", "fill it in, or split by another column"
        )
    files = {
        name: root / cells[column] for name, column in columns.modalities.items() if cells[column]
    }
    if not files:
        raise problem(
            f"sample {sample_id!r} has none of the modalities {', '.join(columns.modalities)}",
            "fill in a path, or remove the line",
        )
    return Row(
        line=line,
        sample_id=sample_id,
        label=label,
        split=SPLIT_NAMES[split.strip().lower()],
        files=files,
        cells=cells,
    )


def _check_rows(manifest: Path, rows: list[Row], columns: Columns) -> None:
    if not rows:
        asked = " and ".join(f"{name}={value}" for name, value in columns.where.items())
        raise InputError(
            f"{manifest} has no row{f' with {asked}' if asked else ''}",
            "give other conditions" if asked else "give a manifest with rows",
        )
    first: dict[str, int] = {}
    for row in rows:
        if row.sample_id in first:
            raise DataError(
                f"{manifest}: sample id {row.sample_id!r} is in line {first[row.sample_id]} and in line {row.line}",
                "give every row its own",
            )
        first[row.sample_id] = row.line
    if len(labels := {row.label for row in rows}) < 2:
        raise DataError(
            f"{manifest}: column {columns.label!r} has only one value, {labels.pop()!r}",
            "keep rows of at least two classes",
        )
    for name, column in columns.modalities.items():
        if not any(name in row.files for row in rows):
            raise DataError(
                f"{manifest}: no sample has modality {name!r}, column {column!r} is empty in every row",
                "leave the modality out, or fill in paths",
            )


def carve_splits(
    rows: list[Row], shares: Mapping[str, float], split_by: str | None, seed: int
) -> list[Row]:
    """As `carve_out` for each split that no row is in yet; all shares are of the rows that are in train at first (raises InputError)."""
    num = sum(row.split == "train" for row in rows)
    for split, share in shares.items():
        if share and not any(row.split == split for row in rows):
            left = sum(row.split == "train" for row in rows)
            rows = carve_out(rows, split, share * num / max(left, 1), split_by, seed)
    return rows


def carve_out(
    rows: list[Row], split: str, share: float, split_by: str | None, seed: int
) -> list[Row]:
    """The rows with about this share of train in a split of its own: whole groups of column `split_by`, else of every label its part (raises InputError)."""
    train = [row for row in rows if row.split == "train"]
    if not train:
        raise InputError(
            f"there is no train row to carve a {split} split out of",
            f"leave the {split} share out, or add train rows",
        )
    if any(row.split == split for row in rows):
        raise InputError(
            f"a {split} share of {share:g} is asked for, but there are {split} rows already",
            "leave the share out, or drop those rows",
        )
    if split_by is None:
        carved = carve(
            [row.sample_id for row in train], [row.label for row in train], share, seed, split
        )
    else:
        chosen = carve_groups([row.cells[split_by] for row in train], share, seed, split)
        carved = {row.sample_id for row in train if row.cells[split_by] in chosen}
    if not carved:
        raise InputError(
            f"a {split} share of {share:g} of {len(train)} train rows is less than half of one {split_by or 'sample'}",
            "give a larger share",
        )
    if lost := sorted(
        {row.label for row in train} - {row.label for row in train if row.sample_id not in carved}
    ):
        raise InputError(
            f"a {split} share of {share:g} leaves no train row of label {lost[0]!r}",
            "give another seed, a smaller share, or another column to split by",
        )
    return [replace(row, split=split) if row.sample_id in carved else row for row in rows]
