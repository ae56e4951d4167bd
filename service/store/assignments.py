"""Assignments of all rows by a plan, and what changed between plans.

Memory: 1 byte per row of the features for each plan, 4 while changes are counted.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.arrays import Array, Int8Array, Int64Array
from pipeline.errors import DataError
from pipeline.storage.arrow_files import TABLE_ROWS
from pipeline.storage.schemas import ALL
from service.store.paging import Steps
from service.store.reader import StoreReader

EVERY, UNPLANNED = -1, -2
"""Assignment of rows that train all modalities, and of rows that the plan lacks."""


def assignment_of(
    reader: StoreReader, steps: Steps, modalities: Sequence[str], num_rows: int
) -> Int8Array:
    """(num_rows,): index of each row's modality, EVERY or UNPLANNED; the last step of a row counts.

    Cached for the version of the plan's file. Raises DataError.
    """

    def read() -> Int8Array:
        out = np.full(num_rows, UNPLANNED, np.int8)
        for batch in steps.batches(0):
            rows = batch.column("rows").flatten().to_numpy()
            if len(rows) and not 0 <= rows.min() <= rows.max() < num_rows:
                raise DataError(
                    f"Damaged plan {steps.artifact.path}: it has rows from {rows.min()} to"
                    f" {rows.max()}, but the features have {num_rows}",
                    "Plan the epoch again",
                )
            out[rows] = _per_row(batch, steps, modalities)
        return out

    what = f"assignment of {num_rows} rows to {list(modalities)}"
    return reader.cached(steps.artifact, what, read, lambda array: array.nbytes)


def _per_row(batch: pa.RecordBatch, steps: Steps, modalities: Sequence[str]) -> Int8Array:
    """(n,): assignment of the rows of all steps of a record batch."""
    sizes = pc.list_value_length(batch.column("rows")).to_numpy()
    codes = np.repeat(_codes(batch.column("modality"), modalities), sizes)
    if "assigned" in batch.schema.names:
        own = batch.column("assigned").flatten().to_numpy()
        named = _codes(pa.array(steps.header.metadata["modalities"], pa.string()), modalities)
        codes = np.where(own < 0, codes, named[np.maximum(own, 0)])
    return codes


def _codes(names: pa.Array, modalities: Sequence[str]) -> Int8Array:
    """Assignments by the names of modalities. Raises ValueError for unknown names."""
    found = pc.index_in(names, pa.array([*modalities, ALL], pa.string()))
    if found.null_count:
        raise ValueError(f"a modality is none of {', '.join(modalities)}")
    codes: Int8Array = found.to_numpy().astype(np.int8)
    codes[codes == len(modalities)] = EVERY
    return codes


def count_changes(assignments: Iterable[Int8Array], num_rows: int) -> tuple[Array, Int8Array]:
    """How often each row (num_rows,) changed its modality, and the last modality that it trained.

    Compares each plan that assigns the row to one modality with the one of them before. The last
    modality of rows without one is UNPLANNED.
    """
    changes = np.zeros(num_rows, np.uint16)
    last = np.full(num_rows, UNPLANNED, np.int8)
    for own in assignments:
        known = own >= 0
        changes += known & (last >= 0) & (own != last)
        last[known] = own[known]
    return changes, last


def names_of(modalities: Sequence[str]) -> list[str | None]:
    """What each assignment is called, as an index into this list: EVERY and UNPLANNED are last."""
    return [*modalities, None, ALL]


def count_moves(before: Int8Array, after: Int8Array, num: int) -> Int64Array:
    """(num, num): number of rows by both assignments, as indices into the `num` names."""
    counts = np.zeros(num * num, np.int64)
    for start in range(0, len(before), TABLE_ROWS):
        first, second = (
            array[start : start + TABLE_ROWS].astype(np.int64) % num for array in (before, after)
        )
        counts += np.bincount(first * num + second, minlength=len(counts))
    return counts.reshape(num, num)
