"""A scores table, checked once: which rows are eligible and how able the model is on each modality of each."""

import math
import os
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.arrays import Array
from pipeline.errors import DataError, MismatchError
from pipeline.features.feature_set import FeatureSet
from pipeline.storage.arrow_files import TABLE_ROWS, blocks, column, read_table
from pipeline.storage.metadata import read_metadata
from pipeline.storage.schemas import scores_schema, smooth_schema
from pipeline.storage.store_path import StorePath
from pipeline.storage.table_checks import (
    MAX_CLASSES,
    MAX_MODALITIES,
    MAX_ROWS,
    check_fingerprint,
    check_metadata,
    check_parent,
)

MISSING = -1
"""What is predicted where the modality is missing."""
TOLERANCE = 0.01
"""By how much a number from low precision may be outside of its range."""


class Scores:
    """A scores table in ascending order of rows.

    A file from elsewhere needs only row, sample_id, label and a kl_ column per modality.

    Example:
        scores = remix.Scores.open("store/runs/demo/scores/epoch-0010.arrow")
        print(scores.modalities, scores.kl("video").mean())
    """

    def __init__(self, table: pa.Table, what: str = "scores") -> None:
        self.what = what
        self.metadata = read_metadata(table.schema, what)
        self.modalities = _modalities(table, self.metadata, what)
        self.table = _in_order(_with_types(table, self.modalities, what))
        if not self.table.num_rows:
            raise DataError(f"{what}: there is no row", "score a split that has samples")
        last = -1
        for block in self.blocks():
            last = self._check(block, last)

    @classmethod
    def open(cls, path: "str | os.PathLike[str] | StorePath", *, hashed: bool = True) -> "Scores":
        """Memory-maps and checks a scores file.

        `hashed`: its fingerprint too, unless the caller has done that.
        Raises MissingError, DataError, StoreError.
        """
        store_path = StorePath.at(path)
        table, what = read_table(store_path, trusted=False), str(store_path)
        check_metadata(read_metadata(table.schema, what), what)
        scores = cls(table, what)
        for block in scores.blocks():
            check_values(block, scores.modalities, scores.num_classes, what)
        if hashed:
            check_fingerprint(table.to_batches(), table.schema, scores.metadata, what)
        return scores

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def fingerprint(self) -> str | None:
        """The hash of the scores, where the file says it."""
        return self.metadata.get("fingerprint")

    @property
    def features_fingerprint(self) -> str | None:
        """The hash of the features that were scored, where the file says it."""
        return (self.metadata.get("parents") or {}).get("features")

    @property
    def num_classes(self) -> int | None:
        """The number of classes, where the file says it."""
        return self.metadata.get("num_classes")

    @cached_property
    def rows(self) -> Array:
        """(N,) int64, ascending"""
        return column(self.table, "row")

    @cached_property
    def labels(self) -> Array:
        """(N,) int32"""
        return column(self.table, "label")

    def kl(self, modality: str) -> Array:
        """(N,) float32: abilities in bits, NaN where the sample lacks the modality."""
        return column(self.table, f"kl_{modality}")

    def blocks(self, num_rows: int = TABLE_ROWS) -> Iterator[pa.Table]:
        """The table in slices of at most so many rows."""
        return blocks(self.table, num_rows)

    def check_features(self, features: FeatureSet) -> None:
        """Compares with the features that were scored: their fingerprint, modalities, rows, missing modalities, labels and ids (raises MismatchError)."""
        check_parent(self.what, self.features_fingerprint, "features", features.fingerprint)
        if self.modalities != features.modalities:
            message = f"{self.what} has kl_ columns of {', '.join(self.modalities)}, but the features have {', '.join(features.modalities)}"
            raise MismatchError(
                message, "give one kl_ column for each modality of the features, in their order"
            )
        self.check_has(features.has)
        for name in ("label", "sample_id"):
            theirs = features.samples[name].take(pa.array(self.rows))
            wrong = pc.index(
                pc.fill_null(pc.not_equal(self.table[name], theirs), True), True
            ).as_py()
            if wrong >= 0:
                own, other = self.table[name][wrong].as_py(), theirs[wrong].as_py()
                raise MismatchError(
                    f"{self.what}: row {self.rows[wrong]} has the {name} {own!r}, but the features have {other!r}",
                    "score these features again",
                )

    def check_has(self, has: npt.NDArray[np.bool_]) -> None:
        """Compares with (number of feature rows, K) `has`, in the order of `modalities`: scored is what the sample has (raises MismatchError)."""
        if len(has) <= self.rows[-1] or self.rows[0] < 0:
            raise MismatchError(
                f"{self.what}: row {self.rows[-1]} is not among the {len(has)} rows of the features",
                "give the scores of these features",
            )
        for k, name in enumerate(self.modalities):
            wrong = np.flatnonzero(has[self.rows, k] == np.isnan(self.kl(name)))
            if len(wrong):
                row, missing = self.rows[wrong[0]], bool(np.isnan(self.kl(name)[wrong[0]]))
                raise MismatchError(
                    f"{self.what}: row {row}: kl_{name} is {'NaN but the sample has' if missing else 'a number but the sample lacks'} {name!r}",
                    "score these features again",
                )

    def _check(self, block: pa.Table, last: int) -> int:
        """Checks rows that follow row `last` and returns the last of them."""
        rows, kl = column(block, "row"), [column(block, f"kl_{name}") for name in self.modalities]
        if rows[0] < 0 or rows[-1] >= MAX_ROWS:
            wrong = (
                f"row {rows[0]} is negative"
                if rows[0] < 0
                else f"row {rows[-1]} is not below {MAX_ROWS}"
            )
            raise DataError(f"{self.what}: {wrong}", "give the index of a row of the features")
        labels = column(block, "label")
        outside = np.flatnonzero((labels < 0) | (labels >= (self.num_classes or MAX_CLASSES)))
        if len(outside):
            among = (
                f"the {self.num_classes} classes"
                if self.num_classes
                else f"any classes, of which there are at most {MAX_CLASSES}"
            )
            raise DataError(
                f"{self.what}: row {rows[outside[0]]}: label {labels[outside[0]]} is not among {among}",
                "give labels from 0 up, below the number of classes",
            )
        repeated = np.flatnonzero(np.diff(rows, prepend=last) == 0)
        if len(repeated):
            raise DataError(
                f"{self.what}: row {rows[repeated[0]]} occurs more than once",
                "keep one score a row",
            )
        for name, values in zip(self.modalities, kl, strict=True):
            infinite = np.flatnonzero(np.isinf(values))
            if len(infinite):
                raise DataError(
                    f"{self.what}: row {rows[infinite[0]]}: kl_{name} is {values[infinite[0]]}",
                    "score that sample again; NaN stands for a missing modality",
                )
        empty = np.flatnonzero(np.logical_and.reduce([np.isnan(values) for values in kl]))
        if len(empty):
            raise DataError(
                f"{self.what}: row {rows[empty[0]]} has no modality: {', '.join('kl_' + n for n in self.modalities)} are all NaN",
                "leave that row out",
            )
        return int(rows[-1])


def check_values(
    block: pa.Table, modalities: list[str], num_classes: int | None, what: str
) -> None:
    """Raises DataError for a value that no model can have given.

    It is out of its range, or is there where the modality is missing.
    """
    rows = column(block, "row")
    for name in modalities:
        for of, wrong, rule in _wrong_values(block, name, num_classes):
            at = np.flatnonzero(wrong)
            if len(at):
                raise DataError(
                    f"{what}: row {rows[at[0]]}: {of} is {column(block, of)[at[0]]}, {rule}",
                    "score these features again",
                )


def _wrong_values(
    block: pa.Table, name: str, num_classes: int | None
) -> Iterator[tuple[str, npt.NDArray[np.bool_], str]]:
    """Per rule the column, which of its rows (n,) break it, and why that is wrong."""
    most = math.inf if num_classes is None else math.log2(num_classes) + TOLERANCE
    kl = column(block, f"kl_{name}")
    missing, bits = np.isnan(kl), f"which is not from 0 to {most:.4g} bits"
    yield f"kl_{name}", (kl < -TOLERANCE) | (kl > most), bits
    if (of := f"p_label_{name}") in block.column_names:
        p = column(block, of)
        yield of, (p < -TOLERANCE) | (p > 1 + TOLERANCE), "which is no probability"
        yield of, np.isnan(p) & ~missing, f"but kl_{name} is a number"
        yield of, ~np.isnan(p) & missing, f"but kl_{name} is NaN"
    if (of := f"predicted_{name}") in block.column_names:
        predicted, num = column(block, of), num_classes or MAX_CLASSES
        outside = ~missing & ((predicted < 0) | (predicted >= num))
        yield of, outside, f"which is not among the {num} classes"
        yield of, missing & (predicted != MISSING), f"but kl_{name} is NaN"
    if (of := f"smooth_{name}") in block.column_names:
        smooth = column(block, of)
        yield of, (smooth < -TOLERANCE) | (smooth > most), bits
        yield of, np.isnan(smooth) & ~missing, f"but kl_{name} is a number"
        yield of, ~np.isnan(smooth) & missing, f"but kl_{name} is NaN"


def _modalities(table: pa.Table, metadata: dict[str, Any], what: str) -> list[str]:
    for name in table.column_names:
        if table.column_names.count(name) > 1:
            raise DataError(
                f"{what}: column {name!r} occurs {table.column_names.count(name)} times",
                "write the file again with one of them",
            )
    found = [name.removeprefix("kl_") for name in table.column_names if name.startswith("kl_")]
    named = metadata.get("modalities", found)
    for name in named:
        if name not in found:
            raise DataError(
                f"{what}: column 'kl_{name}' of modality {name!r} is missing (found {', '.join(table.column_names)})",
                "write the file again with that column",
            )
    if named != found:
        raise DataError(
            f"{what}: metadata names the modalities {named}, but the kl_ columns are of {found}",
            "write the file again with the columns in that order",
        )
    if len(found) > MAX_MODALITIES:
        raise DataError(
            f"{what}: there are kl_ columns of {len(found)} modalities",
            f"give at most {MAX_MODALITIES}",
        )
    if len(found) < 2:
        raise DataError(
            f"{what}: there are kl_ columns of {len(found)} modalities (found {', '.join(table.column_names)})",
            "give one kl_ column for each of two or more",
        )
    return found


def _with_types(table: pa.Table, modalities: list[str], what: str) -> pa.Table:
    """The table with the types of the schema; columns that it may lack are p_label_, predicted_ and smooth_."""
    required = {"row", "sample_id", "label", *(f"kl_{name}" for name in modalities)}
    for field in [*scores_schema(modalities), *smooth_schema(modalities)]:
        if field.name not in table.column_names:
            if field.name in required:
                raise DataError(
                    f"{what}: column {field.name!r} is missing (found {', '.join(table.column_names)})",
                    "write the file again with that column",
                )
            continue
        index, values = table.column_names.index(field.name), table[field.name]
        if values.type != field.type:
            try:
                table = table.set_column(index, field, values.cast(field.type))
            except (pa.ArrowException, ValueError) as error:
                raise DataError(
                    f"{what}: column {field.name!r} is {values.type}, not {field.type} ({error})",
                    "write the file again with that type",
                ) from error
        if not pa.types.is_floating(field.type) and values.null_count:
            raise DataError(
                f"{what}: column {field.name!r} has {values.null_count} nulls, the first in row {_first_null(values)}",
                "give every row its value",
            )
    return table


def _first_null(values: pa.ChunkedArray) -> int:
    """The place of the first null in the file."""
    return int(pc.index(pc.is_null(values), True).as_py())


def _in_order(table: pa.Table) -> pa.Table:
    """The table by ascending row; one that is in another order is sorted in memory."""
    last = -1
    for block in blocks(table):
        rows = column(block, "row")
        if rows[0] < last or (rows[1:] < rows[:-1]).any():
            return table.take(pc.sort_indices(table["row"]))
        last = rows[-1]
    return table
