"""A CSV file that names samples, their labels, their splits and their files -> checked rows."""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.errors import DataError, MissingError
from pipeline.sources.checks import one_of, require
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A sample: `files` holds the path of each modality that it has, `cells` what else is known of it; `line` is its key where an id cannot be one."""

    line: int = 0
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

    def purposes(self) -> dict[str, str]:
        """The columns that the manifest must have, with what each is for."""
        return {
            self.sample_id: "sample id",
            self.label: "label",
            self.split: "split",
            **dict.fromkeys(self.where, "where"),
            **{column: f"modality {name!r}" for name, column in self.modalities.items()},
            **({self.split_by: "split by"} if self.split_by else {}),
        }


def read_manifest(manifest: Path, root: Path, columns: Columns) -> list[Row]:
    """The rows to keep, in their order (raises DataError naming the line, InputError, MissingError)."""
    rows = [
        _row(f"{manifest}, line {line}", line, cells, root, columns)
        for line, cells in read_cells(manifest, columns.purposes())
        if all(cells[name] == value for name, value in columns.where.items())
    ]
    _check_rows(manifest, rows, columns)
    return rows


def read_cells(path: Path, purposes: Mapping[str, str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Number and cells of each line behind the header, which has to have columns for `purposes` (raises DataError naming the line, MissingError)."""
    lines = read_lines(path)
    _, header = next(lines, (0, []))
    for column, purpose in purposes.items():
        if column not in header:
            raise DataError(f"{path} has no column {column!r} ({purpose})", one_of(column, header))
    if repeated := [name for name, num in Counter(header).items() if num > 1]:
        raise DataError(f"{path} has two columns {repeated[0]!r}", "rename one")
    for line, cells in lines:
        if len(cells) != len(header):
            raise DataError(
                f"{path}, line {line}: it has not as many cells as the header, {len(header)}",
                "mend the line",
            )
        yield line, dict(zip(header, cells, strict=True))


def read_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line of a CSV file; empty lines are left out (raises DataError, MissingError)."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            yield from ((reader.line_num, cells) for cells in reader if cells)
    except FileNotFoundError as error:
        raise MissingError(f"{path} does not exist", "give the path of a CSV file") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} is not a readable CSV file in UTF-8 ({error})", "mend the file"
        ) from error


def split_of(written: str, where: str) -> str:
    """The split that a word stands for (raises DataError)."""
    if written.strip().lower() not in SPLIT_NAMES:
        raise DataError(
            f"{where}: split is {written!r}, which names no split",
            f"write one of {', '.join(SPLIT_NAMES)}",
        )
    return SPLIT_NAMES[written.strip().lower()]


def _row(where: str, line: int, cells: dict[str, str], root: Path, columns: Columns) -> Row:
    for column in (columns.sample_id, columns.label, columns.split_by):
        if column and not cells[column]:
            raise DataError(
                f"{where}: column {column!r} is empty",
                "fill it in, or leave the row out with a where condition",
            )
    files = {
        name: root / cells[column] for name, column in columns.modalities.items() if cells[column]
    }
    if not files:
        raise DataError(
            f"{where}: sample {cells[columns.sample_id]!r} has none of the modalities {', '.join(columns.modalities)}",
            "fill in a path, or remove the line",
        )
    return Row(
        line=line,
        sample_id=cells[columns.sample_id],
        label=cells[columns.label],
        split=split_of(cells[columns.split], where),
        files=files,
        cells=cells,
    )


def _check_rows(manifest: Path, rows: list[Row], columns: Columns) -> None:
    asked = " and ".join(f"{name}={value}" for name, value in columns.where.items())
    require(
        len(rows) > 0,
        f"{manifest} has no row{f' with {asked}' if asked else ''}",
        "give other conditions, or a manifest with rows",
    )
    first: dict[str, int] = {}
    for row in rows:
        if first.setdefault(row.sample_id, row.line) != row.line:
            raise DataError(
                f"{manifest}: sample id {row.sample_id!r} is in line {first[row.sample_id]} and in line {row.line}",
                "give every row its own",
            )
    if len({row.label for row in rows}) < 2:
        raise DataError(
            f"{manifest}: column {columns.label!r} has only one value, {rows[0].label!r}",
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
    require(
        len(train) > 0,
        f"there is no train row to carve a {split} split out of",
        f"leave the {split} share out, or add train rows",
    )
    require(
        all(row.split != split for row in rows),
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
    require(
        len(carved) > 0,
        f"a {split} share of {share:g} of {len(train)} train rows is less than half of one {split_by or 'sample'}",
        "give a larger share",
    )
    left = {row.label for row in train if row.sample_id not in carved}
    for label in sorted({row.label for row in train}):
        require(
            label in left,
            f"a {split} share of {share:g} leaves no train row of label {label!r}",
            "give another seed, a smaller share, or another column to split by",
        )
    return [replace(row, split=split) if row.sample_id in carved else row for row in rows]
