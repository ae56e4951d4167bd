"""Validation of a plan from an untrusted source: metadata, fingerprint, steps and rows.

Memory is bounded by one record batch, and one byte per feature row, at most WINDOW_ROWS at a time.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.arrays import BoolArray, Int64Array, IntArray
from pipeline.errors import DataError
from pipeline.storage.metadata import Fingerprinter
from pipeline.storage.schemas import ALL, MIXED_PLAN
from pipeline.storage.table_checks import (
    CURE,
    MAX_MODALITIES,
    MAX_ROWS,
    add_content,
    check_metadata,
    compare_fingerprint,
    shorten,
)

WINDOW_ROWS = 2**27
"""Feature rows in memory during the search for repeated ones; a plan with more rows is read once
more for every further window."""

Read = Callable[[], Iterable[pa.RecordBatch]]


def check_plan(
    read: Read,
    schema: pa.Schema,
    metadata: Mapping[str, Any],
    what: str,
    num_rows: int | None = None,
) -> list[int]:
    """Check a complete plan.

    Steps are numbered from 0. Each trains a modality of the metadata, or all of them, on 1 to
    `batch_size` rows. Each row is one of the `num_rows` of the features, if those are known, and is
    planned once, unless the metadata allow copies.

    Args:
        read: Returns the plan's record batches; called several times.
        what: Name of the plan in error messages.
    Returns:
        The number of steps up to the end of each record batch.
    Raises:
        DataError: the first rule that the plan breaks, with the step.
    """
    check_metadata(metadata, what)
    rules, content, marks, ends = (
        _Rules(metadata, what, num_rows),
        Fingerprinter(schema),
        _Marks(0),
        [0],
    )
    for batch in read():
        rows = rules.check(batch, ends[-1])
        add_content(content, [batch], what)
        marks.add(rows)
        ends.append(ends[-1] + batch.num_rows)
    if metadata and "fingerprint" not in metadata:
        raise DataError(
            f"{what}: metadata 'remix.fingerprint' is missing",
            f"{CURE} without 'remix.*' metadata, or let Remix write it",
        )
    if metadata:
        compare_fingerprint(content, metadata, what)
    if metadata.get("copies", "none") != "none":
        return ends[1:]
    for start in range(0, rules.last_row + 1, WINDOW_ROWS):
        if start:
            marks = _Marks(start)
            for batch in read():
                marks.add(batch.column("rows").flatten().to_numpy())
        if marks.repeated:
            _name_repeated(read, start, what)
    return ends[1:]


class _Rules:
    """The rules that each step of a plan must obey by itself."""

    def __init__(self, metadata: Mapping[str, Any], what: str, num_rows: int | None) -> None:
        self._what, self._num_rows, self._batch_size = what, num_rows, metadata.get("batch_size")
        self._allowed = {*metadata["modalities"], ALL} if "modalities" in metadata else None
        self._names: set[str] = set()
        self.last_row = -1

    def check(self, batch: pa.RecordBatch, start: int) -> Int64Array:
        """Check the steps of a record batch, numbered from `start`, and return all their rows."""
        for name in ("step", "modality", "rows"):
            column = batch.column(name)
            if column.null_count or (name == "rows" and column.flatten().null_count):
                raise DataError(
                    f"{self._what}: column {name!r} has nulls "
                    f"in steps {start} to {start + batch.num_rows - 1}",
                    CURE,
                )
        steps, rows = batch.column("step").to_numpy(), batch.column("rows")
        wrong = np.flatnonzero(steps != np.arange(start, start + len(steps)))
        if len(wrong):
            raise DataError(
                f"{self._what} has step {steps[wrong[0]]} instead of step {start + wrong[0]}",
                CURE,
            )
        self._check_modalities(batch.column("modality"), start)
        sizes = np.diff(rows.offsets.to_numpy())
        largest = max(self._batch_size, 1) if self._batch_size else np.iinfo(np.int32).max
        wrong = np.flatnonzero((sizes < 1) | (sizes > largest))
        if len(wrong):
            limit = f", but its batch_size is {self._batch_size}" if sizes[wrong[0]] else ""
            raise DataError(
                f"{self._what}: step {start + wrong[0]} has {sizes[wrong[0]]} rows{limit}",
                "plan again",
            )
        values: Int64Array = rows.flatten().to_numpy()
        self._check_rows(values, sizes, start)
        if "assigned" in batch.schema.names:
            self._check_assigned(batch.column("assigned"), rows, start)
        return values

    def _check_assigned(self, assigned: pa.Array, rows: pa.Array, start: int) -> None:
        column = f"{self._what}: column 'assigned'"
        if (
            assigned.type != MIXED_PLAN.field("assigned").type
            or assigned.null_count
            or assigned.flatten().null_count
        ):
            raise DataError(
                f"{column} is {assigned.type}, or has nulls; "
                f"it must be {MIXED_PLAN.field('assigned').type} without nulls",
                CURE,
            )
        sizes, num_rows = (np.diff(lists.offsets.to_numpy()) for lists in (assigned, rows))
        wrong = np.flatnonzero(sizes != num_rows)
        if len(wrong):
            raise DataError(
                f"{column}: step {start + wrong[0]} has {sizes[wrong[0]]} values "
                f"for {num_rows[wrong[0]]} rows",
                "plan again",
            )
        values = assigned.flatten().to_numpy()
        num = MAX_MODALITIES if self._allowed is None else len(self._allowed) - 1
        wrong = np.flatnonzero((values < -1) | (values >= num))
        if len(wrong):
            step = start + int(np.searchsorted(np.cumsum(sizes), wrong[0], side="right"))
            raise DataError(
                f"{column}: step {step} has {values[wrong[0]]}, which is neither -1 "
                f"nor the index of one of {num} modalities",
                "plan again",
            )

    def _check_modalities(self, column: pa.Array, start: int) -> None:
        for name in pc.unique(column).to_pylist():
            if self._allowed is not None and name not in self._allowed:
                step = start + pc.index(column, name).as_py()
                raise DataError(
                    f"{self._what}: column 'modality': step {step} trains {shorten(name)}, "
                    f"which is not one of {', '.join(sorted(self._allowed))}",
                    "plan again",
                )
            self._names.add(name)
        if len(self._names) > MAX_MODALITIES + 1:
            raise DataError(
                f"{self._what}: column 'modality' names more than {MAX_MODALITIES} modalities",
                "plan again",
            )

    def _check_rows(self, values: Int64Array, sizes: IntArray, start: int) -> None:
        if not len(values):
            return
        self.last_row = max(self.last_row, int(values.max()))
        num_rows = MAX_ROWS if self._num_rows is None else self._num_rows
        if values.min() < 0 or self.last_row >= num_rows:
            at = int(np.flatnonzero((values < 0) | (values >= num_rows))[0])
            step = start + int(np.searchsorted(np.cumsum(sizes), at, side="right"))
            limit = (
                f"the features have {num_rows} rows"
                if self._num_rows is not None
                else f"features have at most {MAX_ROWS} rows"
            )
            reason = "which is negative" if values[at] < 0 else f"but {limit}"
            raise DataError(
                f"{self._what}: column 'rows': step {step} has row {values[at]}, {reason}",
                "plan again, from scores of these features",
            )


class _Marks:
    """Marks of the rows seen, within a window of WINDOW_ROWS rows from `start` on."""

    def __init__(self, start: int) -> None:
        self._start, self._num = start, 0
        self._seen = np.zeros(0, np.bool_)

    def inside(self, rows: Int64Array) -> Int64Array:
        """The rows inside the window, relative to its start."""
        if not len(rows) or (not self._start and rows.max() < WINDOW_ROWS):
            return rows
        return rows[(rows >= self._start) & (rows < self._start + WINDOW_ROWS)] - self._start

    def add(self, rows: Int64Array) -> BoolArray:
        """Mark rows, and return for each one inside the window whether it was marked before."""
        inside = self.inside(rows)
        needed = int(inside.max(initial=-1)) + 1
        if needed > len(self._seen):
            seen = np.zeros(min(max(needed, len(self._seen) * 5 // 4), WINDOW_ROWS), np.bool_)
            seen[: len(self._seen)] = self._seen
            self._seen = seen
        before: BoolArray = self._seen[inside]
        self._seen[inside] = True
        self._num += len(inside)
        return before

    @property
    def repeated(self) -> bool:
        """Whether any row was added more than once."""
        return int(np.count_nonzero(self._seen)) < self._num


def _name_repeated(read: Read, start: int, what: str) -> None:
    """Raise DataError with a row of the window that occurs twice, and both its steps."""
    marks = _Marks(start)
    for batch in read():
        rows = batch.column("rows").flatten().to_numpy()
        before, inside = marks.add(rows), marks.inside(rows)
        values, counts = np.unique(inside, return_counts=True)
        twice = [*inside[before][:1], *values[counts > 1][:1]]
        if twice:
            row = int(twice[0]) + start
            steps = _steps_of(read, row)
            raise DataError(
                f"{what}: column 'rows': row {row} is in step {steps[0]} and in step {steps[1]}",
                "plan again, with each row once",
            )


def _steps_of(read: Read, row: int) -> list[int]:
    """Numbers of the steps that have a row, repeated if a step has it more than once."""
    numbers: list[int] = []
    for batch in read():
        rows = batch.column("rows")
        hits = np.flatnonzero(rows.flatten().to_numpy() == row)
        steps = np.searchsorted(np.cumsum(np.diff(rows.offsets.to_numpy())), hits, side="right")
        numbers += batch.column("step").to_numpy()[steps].tolist()
    return numbers
