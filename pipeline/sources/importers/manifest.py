"""Reading of CSV manifests into checked rows, and splitting of rows."""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath

from pipeline.errors import DataError, MissingError
from pipeline.sources.checks import one_of, require
from pipeline.sources.importers.content import Content, Source
from pipeline.sources.splits import carve, carve_groups

SPLIT_NAMES = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "validate": "validation",
    "test": "test",
}
TEXT_COLUMN = "text:"
"""Prefix of a column that contains texts, not paths."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_DRIVE = re.compile(r"[A-Za-z]:(?=[\\/])")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A sample to import.

    Attributes:
        line: line of the manifest, if there is one; it replaces the id as the sample's key if an id
            is not a valid key.
        files: file or content by modality, for the modalities that the sample has.
        cells: other metadata, by column.
    """

    line: int = 0
    sample_id: str
    label: str
    split: str
    files: Mapping[str, Source]
    cells: Mapping[str, str]

    @property
    def place(self) -> str:
        """Where the row is, for messages."""
        return f"line {self.line}" if self.line else f"sample {self.sample_id!r}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Names of a manifest's columns.

    Attributes:
        modalities: column of file paths, by modality; `text:COLUMN` contains the text itself.
        split_by: column whose groups go to the same split.
        where: columns and the values that a row must have to be imported.
    """

    modalities: Mapping[str, str]
    sample_id: str = "sample_id"
    label: str = "label"
    split: str = "split"
    split_by: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)

    def purposes(self) -> dict[str, str]:
        """Purpose of each column that the manifest must have."""
        return {
            self.sample_id: "sample id",
            self.label: "label",
            self.split: "split",
            **dict.fromkeys(self.where, "where"),
            **{
                column.removeprefix(TEXT_COLUMN): f"modality {name!r}"
                for name, column in self.modalities.items()
            },
            **({self.split_by: "split by"} if self.split_by else {}),
        }


def read_manifest(manifest: Path, root: Path, columns: Columns) -> list[Row]:
    """Read the rows that meet the `where` conditions, in their order.

    Raises DataError, InputError or MissingError.
    """
    rows = [
        _row(f"{manifest}, line {line}", line, cells, root, columns)
        for line, cells in read_cells(manifest, columns.purposes())
        if all(cells[name] == value for name, value in columns.where.items())
    ]
    _check_rows(manifest, rows, columns)
    return rows


def read_cells(path: Path, purposes: Mapping[str, str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and cells by column of each line after the header.

    Args:
        path: CSV file with a header.
        purposes: required columns, with their purpose for error messages.
    Raises:
        DataError: a column is missing or duplicated, or a line is malformed.
        MissingError: the file does not exist.
    """
    lines = read_lines(path)
    _, header = next(lines, (0, []))
    for column, purpose in purposes.items():
        if column not in header:
            raise DataError(
                f"Column {column!r} ({purpose}) not found in {path}", one_of(column, header)
            )
    if repeated := [name for name, num in Counter(header).items() if num > 1]:
        raise DataError(f"Duplicate column {repeated[0]!r} in {path}", "Rename one of them.")
    for line, cells in lines:
        if len(cells) != len(header):
            raise DataError(
                f"{path}, line {line}: {len(cells)} cells, but the header has {len(header)}",
                "Fix the line.",
            )
        yield line, dict(zip(header, cells, strict=True))


def read_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each line of a CSV file that is not empty.

    Cells are separated by commas, semicolons or tabs: by the one that gives the first line most
    cells. Raises DataError or MissingError.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(
                file,
                delimiter=max(
                    ",;\t", key=lambda mark: len(next(csv.reader([first], delimiter=mark), []))
                ),
                strict=True,
            )
            yield from ((reader.line_num, cells) for cells in reader if cells)
    except FileNotFoundError as error:
        raise MissingError(
            f"CSV file not found: {path}", "Pass the path of an existing file."
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"Not a readable CSV file in UTF-8: {path} ({error})",
            "Fix the line, or save the file as CSV in UTF-8.",
        ) from error


def split_of(value: str, where: str) -> str:
    """Return the split that a value or one of its synonyms names. Raises DataError."""
    if value.strip().lower() not in SPLIT_NAMES:
        raise DataError(
            f"{where}: unknown split {value!r}",
            f"Use one of {', '.join(SPLIT_NAMES)}.",
        )
    return SPLIT_NAMES[value.strip().lower()]


def _row(where: str, line: int, cells: dict[str, str], root: Path, columns: Columns) -> Row:
    for column in (columns.sample_id, columns.label, columns.split_by):
        if column and not cells[column].strip():
            raise DataError(
                f"{where}: column {column!r} is empty",
                "Add a value, or exclude the row with a where condition.",
            )
    files: dict[str, Source] = {}
    for name, column in columns.modalities.items():
        text_column = column.removeprefix(TEXT_COLUMN)
        if not cells[text_column].strip():
            continue
        files[name] = (
            _path(where, cells[column], root)
            if text_column == column
            else Content(f"{where}, column {text_column!r}", ".txt", cells[text_column].encode)
        )
    return Row(
        line=line,
        sample_id=cells[columns.sample_id],
        label=cells[columns.label],
        split=split_of(cells[columns.split], where),
        files=files,
        cells=cells,
    )


def _path(where: str, value: str, root: Path) -> Path:
    """Return the local path that a cell names; `~` is the home folder. Raises DataError."""
    if _URL.match(value):
        raise DataError(
            f"{where}: not a local file: {value!r}",
            "Download the files, and pass their folder with --root and paths relative to it.",
        )
    path = root / (Path(value).expanduser() if value.startswith("~/") else value)
    if (_DRIVE.match(value) or "\\" in value) and not path.exists():
        relative = _DRIVE.sub("", value).lstrip("\\/")
        raise DataError(
            f"{where}: path of Windows: {value}",
            f"Pass the folder of the files with --root, and write paths relative to it with /, such"
            f" as {'/'.join(PureWindowsPath(relative).parts[-2:])}.",
        )
    return path


def _check_rows(manifest: Path, rows: list[Row], columns: Columns) -> None:
    conditions = " and ".join(f"{name}={value}" for name, value in columns.where.items())
    require(
        len(rows) > 0,
        f"{manifest} has no row{f' with {conditions}' if conditions else ''}",
        "Change the conditions, or pass a manifest with rows.",
    )
    first_lines: dict[str, int] = {}
    for row in rows:
        first_line = first_lines.setdefault(row.sample_id, row.line)
        if first_line != row.line:
            raise DataError(
                f"{manifest}: duplicate sample id {row.sample_id!r} in line {first_line}"
                f" and line {row.line}",
                "Give each row its own id.",
            )


def carve_splits(
    rows: list[Row], shares: Mapping[str, float], split_by: str | None, seed: int
) -> list[Row]:
    """Apply `carve_out` for each split that has no rows yet. Raises InputError.

    All shares refer to the number of train rows before the first split.
    """
    num = sum(row.split == "train" for row in rows)
    for split, share in shares.items():
        if share and not any(row.split == split for row in rows):
            left = sum(row.split == "train" for row in rows)
            rows = carve_out(rows, split, share * num / max(left, 1), split_by, seed)
    return rows


def carve_out(
    rows: list[Row], split: str, share: float, split_by: str | None, seed: int
) -> list[Row]:
    """Move about a share of the train rows to another split.

    Args:
        rows: all rows.
        split: the new split, which must not have rows yet.
        share: fraction of the train rows to move.
        split_by: column whose groups are moved as a unit; by default rows are stratified by label.
        seed: seed of the selection.
    Returns:
        All rows, in their order, with the new splits.
    Raises:
        InputError: the share selects no row, or leaves a label without train rows.
    """
    train = [row for row in rows if row.split == "train"]
    require(
        len(train) > 0,
        f"No train rows to create the {split} split from",
        f"Remove the {split} share or add train rows.",
    )
    require(
        all(row.split != split for row in rows),
        f"A {split} share of {share:g} is given, but the data already has {split} rows",
        "Remove the share or exclude those rows.",
    )
    if split_by is None:
        carved = carve(
            [row.sample_id for row in train], [row.label for row in train], share, seed, split
        )
    else:
        groups = carve_groups([row.cells[split_by] for row in train], share, seed, split)
        carved = {row.sample_id for row in train if row.cells[split_by] in groups}
    require(
        len(carved) > 0,
        f"A {split} share of {share:g} of {len(train)} train rows is less than half of one"
        f" {split_by or 'sample'}",
        "Pass a larger share.",
    )
    left = {row.label for row in train if row.sample_id not in carved}
    for label in sorted({row.label for row in train}):
        require(
            label in left,
            f"A {split} share of {share:g} leaves no train row of label {label!r}",
            "Pass another seed, a smaller share, or another column to split by.",
        )
    return [replace(row, split=split) if row.sample_id in carved else row for row in rows]
