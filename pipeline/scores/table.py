"""Scores: a validated table with one row per eligible sample and columns per modality."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.arrays import Array, BoolArray, Int64Array
from pipeline.errors import DataError, MismatchError
from pipeline.features.feature_set import FeatureSet
from pipeline.scores.generated_table import GeneratedTable
from pipeline.storage.arrow_files import TABLE_ROWS, blocks, column, read_table
from pipeline.storage.metadata import read_metadata
from pipeline.storage.schemas import scores_schema
from pipeline.storage.store_path import StorePath
from pipeline.storage.table_checks import (
    MAX_CLASSES,
    MAX_MODALITIES,
    MAX_ROWS,
    check_fingerprint,
    check_metadata,
    check_parent,
)

if TYPE_CHECKING:
    import pandas

MISSING = -1
"""Predicted class of a sample that lacks the modality."""
TOLERANCE = 0.01
"""How far a value may be out of range, for models that predict in low precision."""


class Scores:
    """A scores table, sorted by row.

    A file that Remix did not write needs only row, sample_id, label and a kl_ column per modality.

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
            raise DataError(f"{what}: the table is empty", "score a split that has samples")
        last = -1
        for block in self.blocks():
            last = self._check(block, last)

    def take(self, rows: Int64Array) -> "Scores":
        """The scores of some of the rows (n,)."""
        return Scores(self.table.take(np.searchsorted(self.rows, rows)), self.what)

    @classmethod
    def generated(
        cls,
        num_rows: int,
        modalities: list[str],
        columns: Mapping[str, Callable[[int, int], Array]],
    ) -> "Scores":
        """Scores that functions compute slice by slice; they are not checked.

        Args:
            columns: By name, a function of two positions that returns the values between them: row,
                ascending, and a kl_ column per modality; also label, to stratify.
        """
        scores = cls.__new__(cls)
        scores.what, scores.metadata, scores.modalities = "generated scores", {}, modalities
        scores.table = GeneratedTable(num_rows, columns)
        return scores

    @classmethod
    def open(cls, path: "str | os.PathLike[str] | StorePath", *, hashed: bool = True) -> "Scores":
        """Memory-map a scores file and check it.

        Args:
            path: A local path or a pyarrow.fs URI.
            hashed: Also compare the content with the fingerprint in the metadata.
        Raises:
            MissingError: the file does not exist.
            DataError: the file is damaged, or a value is invalid.
            StoreError: the store cannot be read.
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
        """Hash of the content and metadata; None if the file does not record it."""
        return self.metadata.get("fingerprint")

    @property
    def features_fingerprint(self) -> str | None:
        """Fingerprint of the scored features; None if the file does not record it."""
        return (self.metadata.get("parents") or {}).get("features")

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None if the file does not record it."""
        return self.metadata.get("num_classes")

    @cached_property
    def rows(self) -> Array:
        """(N,) int64 row numbers, ascending."""
        return column(self.table, "row")

    @cached_property
    def labels(self) -> Array:
        """(N,) int32 labels."""
        return column(self.table, "label")

    def kl(self, modality: str) -> Array:
        """(N,) float32 abilities (KL from uniform, bits), NaN if the sample lacks the modality."""
        return column(self.table, f"kl_{modality}")

    def to_pandas(self) -> "pandas.DataFrame":
        """The scores as a data frame."""
        return self.table.to_pandas()

    def blocks(self, num_rows: int = TABLE_ROWS) -> Iterator[pa.Table]:
        """Yield the table in slices of at most `num_rows` rows."""
        return blocks(self.table, num_rows)

    def check_features(self, features: FeatureSet) -> None:
        """Check that these are scores of `features`: fingerprint, modalities, rows, labels and ids.

        Raises MismatchError.
        """
        check_parent(self.what, self.features_fingerprint, "features", features.fingerprint)
        if self.modalities != features.modalities:
            raise MismatchError(
                f"{self.what} has kl_ columns for {', '.join(self.modalities)}, "
                f"but the features have {', '.join(features.modalities)}",
                "write one kl_ column for each modality of the features, in their order",
            )
        self.check_has(features.has)
        for name, expected in {
            "label": pa.array(features.labels[self.rows]),
            "sample_id": features.ids_of(self.rows),
        }.items():
            wrong = pc.index(
                pc.fill_null(pc.not_equal(self.table[name], expected), True), True
            ).as_py()
            if wrong >= 0:
                own, other = self.table[name][wrong].as_py(), expected[wrong].as_py()
                raise MismatchError(
                    f"{self.what}, row {self.rows[wrong]}: {name} is {own!r}, "
                    f"but {other!r} in the features",
                    "score these features again",
                )

    def check_has(self, has: BoolArray) -> None:
        """Check that a modality has a score if and only if the sample has it.

        Args:
            has: (number of feature rows, K), in the order of `modalities`.
        Raises:
            MismatchError: the first row and modality that differ.
        """
        if len(has) <= self.rows[-1] or self.rows[0] < 0:
            raise MismatchError(
                f"{self.what}: row {self.rows[-1]} is out of range of the features, "
                f"which have {len(has)} rows",
                "use the scores of these features",
            )
        for k, name in enumerate(self.modalities):
            wrong = np.flatnonzero(has[self.rows, k] == np.isnan(self.kl(name)))
            if len(wrong):
                row, missing = self.rows[wrong[0]], bool(np.isnan(self.kl(name)[wrong[0]]))
                conflict = (
                    "NaN, but the sample has" if missing else "a number, but the sample lacks"
                )
                raise MismatchError(
                    f"{self.what}, row {row}: kl_{name} is {conflict} {name!r}",
                    "score these features again",
                )

    def _check(self, block: pa.Table, last: int) -> int:
        """Check rows that follow row `last`, and return the last of them."""
        rows, kl = column(block, "row"), [column(block, f"kl_{name}") for name in self.modalities]
        if rows[0] < 0 or rows[-1] >= MAX_ROWS:
            wrong = (
                f"row {rows[0]} is negative"
                if rows[0] < 0
                else f"row {rows[-1]} is not below {MAX_ROWS}"
            )
            raise DataError(f"{self.what}: {wrong}", "rows are indices of rows of the features")
        labels = column(block, "label")
        outside = np.flatnonzero((labels < 0) | (labels >= (self.num_classes or MAX_CLASSES)))
        if len(outside):
            limit = self.num_classes or MAX_CLASSES
            raise DataError(
                f"{self.what}, row {rows[outside[0]]}: label {labels[outside[0]]} is out of range "
                f"for {limit} classes",
                "labels are integers from 0 up, below the number of classes",
            )
        repeated = np.flatnonzero(np.diff(rows, prepend=last) == 0)
        if len(repeated):
            raise DataError(
                f"{self.what}: row {rows[repeated[0]]} occurs more than once",
                "keep one score per row",
            )
        for name, values in zip(self.modalities, kl, strict=True):
            infinite = np.flatnonzero(np.isinf(values))
            if len(infinite):
                raise DataError(
                    f"{self.what}, row {rows[infinite[0]]}: kl_{name} is {values[infinite[0]]}",
                    "score the sample again; a missing modality is NaN",
                )
        empty = np.flatnonzero(np.logical_and.reduce([np.isnan(values) for values in kl]))
        if len(empty):
            raise DataError(
                f"{self.what}: row {rows[empty[0]]} has no modality: "
                f"{', '.join('kl_' + n for n in self.modalities)} are all NaN",
                "remove the row",
            )
        return int(rows[-1])


def check_values(
    block: pa.Table, modalities: list[str], num_classes: int | None, what: str
) -> None:
    """Check values against what a model can predict.

    Raises DataError for a value out of range, or one that a missing modality should not have.
    """
    rows = column(block, "row")
    for name in modalities:
        for source, wrong, rule in _wrong_values(block, name, num_classes):
            at = np.flatnonzero(wrong)
            if len(at):
                raise DataError(
                    f"{what}, row {rows[at[0]]}: "
                    f"{source} is {column(block, source)[at[0]]}, {rule}",
                    "score these features again",
                )


def _wrong_values(
    block: pa.Table, name: str, num_classes: int | None
) -> Iterator[tuple[str, BoolArray, str]]:
    """Yield for each rule the column, which of its rows (n,) break it, and the rule in words."""
    largest = math.inf if num_classes is None else math.log2(num_classes) + TOLERANCE
    kl = column(block, f"kl_{name}")
    missing, outside = np.isnan(kl), (kl < -TOLERANCE) | (kl > largest)
    yield f"kl_{name}", outside, f"not in the range from 0 to {largest:.4g} bits"
    if (source := f"p_label_{name}") in block.column_names:
        p = column(block, source)
        yield source, (p < -TOLERANCE) | (p > 1 + TOLERANCE), "not a probability"
        yield source, np.isnan(p) & ~missing, f"but kl_{name} is a number"
        yield source, ~np.isnan(p) & missing, f"but kl_{name} is NaN"
    if (source := f"predicted_{name}") in block.column_names:
        predicted, num = column(block, source), num_classes or MAX_CLASSES
        outside = ~missing & ((predicted < 0) | (predicted >= num))
        yield source, outside, f"not one of the {num} classes"
        yield source, missing & (predicted != MISSING), f"but kl_{name} is NaN"


def _modalities(table: pa.Table, metadata: dict[str, Any], what: str) -> list[str]:
    for name in table.column_names:
        if table.column_names.count(name) > 1:
            raise DataError(
                f"{what}: column {name!r} occurs {table.column_names.count(name)} times",
                "write the file again with one of them",
            )
    scored = [name.removeprefix("kl_") for name in table.column_names if name.startswith("kl_")]
    recorded = metadata.get("modalities", scored)
    for name in recorded:
        if name not in scored:
            raise DataError(
                f"{what}: column 'kl_{name}' of modality {name!r} is missing "
                f"(columns: {', '.join(table.column_names)})",
                "write the file again with that column",
            )
    if recorded != scored:
        raise DataError(
            f"{what}: metadata 'remix.modalities' is {recorded}, "
            f"but the kl_ columns are for {scored}",
            "write the file again with the columns in that order",
        )
    if len(scored) > MAX_MODALITIES:
        raise DataError(
            f"{what} has kl_ columns for {len(scored)} modalities",
            f"use at most {MAX_MODALITIES}",
        )
    if len(scored) < 2:
        raise DataError(
            f"{what} has kl_ columns for {len(scored)} modalities "
            f"(columns: {', '.join(table.column_names)})",
            "write one kl_ column for each of at least two modalities",
        )
    return scored


def _with_types(table: pa.Table, modalities: list[str], what: str) -> pa.Table:
    """Cast columns to the types of the schema; p_label_ and predicted_ are optional."""
    required = {"row", "sample_id", "label", *(f"kl_{name}" for name in modalities)}
    for field in scores_schema(modalities):
        if field.name not in table.column_names:
            if field.name in required:
                raise DataError(
                    f"{what}: column {field.name!r} is missing "
                    f"(columns: {', '.join(table.column_names)})",
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
                f"{what}: column {field.name!r} has {values.null_count} nulls, "
                f"the first at position {_first_null(values)}",
                "write a value for every row",
            )
    return table


def _first_null(values: pa.ChunkedArray) -> int:
    """The position of the first null in the file."""
    return int(pc.index(pc.is_null(values), True).as_py())


def _in_order(table: pa.Table) -> pa.Table:
    """The table sorted by row; copied only if it is not yet sorted."""
    last = -1
    for block in blocks(table):
        rows = column(block, "row")
        if rows[0] < last or (rows[1:] < rows[:-1]).any():
            return table.take(pc.sort_indices(table["row"]))
        last = rows[-1]
    return table
