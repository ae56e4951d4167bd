"""Histograms of ability and difficulty, in two passes over the scores: the range, then the counts.

Scores are read in blocks of a fixed size, whether from memory or from a file, so that sums are
rounded alike and the results are equal to the bit.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.arrays import Array, Int8Array
from pipeline.errors import ConfigError, DataError
from pipeline.scores.difficulty import difficulty
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import TABLE_ROWS, column
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.schemas import check_columns

Json = dict[str, Any]
Block = tuple[Array, Array | None]
"""Abilities (n,) in bits, NaN if missing, and whether each row trains the modality, or None."""
NUM_BINS = 20
MAX_BINS = 1000


def score_histograms(
    scores: Scores,
    num_classes: int | None = None,
    *,
    num_bins: int = NUM_BINS,
    assignment: Int8Array | None = None,
    names: Sequence[str] | None = None,
) -> Json:
    """Histograms of ability (`kl`, bits) and difficulty for each modality.

    Args:
        num_classes: By default from the metadata of the scores; if unknown, difficulty is null.
        assignment: (N,) indices into `names`: count also the rows that train each modality.
    Raises:
        ConfigError: `num_bins` is out of range.
        DataError: the number of classes is not a positive integer.
    """

    def blocks(name: str) -> Iterator[Block]:
        index = (
            None if assignment is None or names is None or name not in names else names.index(name)
        )
        for number, block in enumerate(scores.blocks()):
            active = (
                None
                if assignment is None or index is None
                else assignment[number * TABLE_ROWS : (number + 1) * TABLE_ROWS] == index
            )
            yield column(block, f"kl_{name}"), active

    return _histograms(blocks, scores.modalities, num_classes or scores.num_classes, num_bins)


def file_histograms(
    file: BatchFile, num_classes: int | None = None, *, num_bins: int = NUM_BINS
) -> Json:
    """score_histograms of a file, with the memory of one record batch of one column.

    Raises ConfigError, DataError.
    """
    names = [name.removeprefix("kl_") for name in file.schema.names if name.startswith("kl_")]
    check_columns(
        file.schema, pa.schema([(f"kl_{name}", pa.float32()) for name in names]), file.what
    )

    def blocks(name: str) -> Iterator[Block]:
        for kl in _rechunk(
            batch.column(0).to_numpy(zero_copy_only=False) for batch in file.batches([f"kl_{name}"])
        ):
            if np.isinf(kl).any():
                raise DataError(
                    f"{file.what}: column 'kl_{name}' has an infinite value",
                    "score again; a missing modality is NaN",
                )
            yield kl, None

    return _histograms(blocks, names, num_classes or file.metadata.get("num_classes"), num_bins)


def _histograms(
    blocks: Callable[[str], Iterator[Block]],
    names: Sequence[str],
    num_classes: int | None,
    num_bins: int,
) -> Json:
    if not 1 <= num_bins <= MAX_BINS:
        raise ConfigError(f"num_bins is {num_bins}", f"choose a number from 1 to {MAX_BINS}")
    if num_classes is not None and not (isinstance(num_classes, int) and num_classes >= 1):
        raise DataError(f"num_classes is {num_classes!r}", "it must be a positive integer")
    lowest, highest = dict.fromkeys(names, 0.0), math.log2(num_classes) if num_classes else 0.0
    for name in names:
        for kl, _ in blocks(name):
            lowest[name] = min(lowest[name], float(np.nanmin(kl, initial=0.0)))
            highest = max(highest, float(np.nanmax(kl, initial=0.0)))
    histograms: Json = {}
    for name in names:
        abilities, difficulties, num_missing = (
            _Histogram(lowest[name], highest or 1.0, num_bins),
            _Histogram(0.0, 1.0, num_bins),
            0,
        )
        for kl, active in blocks(name):
            num_missing += int(np.isnan(kl).sum())
            abilities.add(kl, active)
            if num_classes and num_classes > 1:
                difficulties.add(difficulty(kl, num_classes), active)
        histograms[name] = {
            "num_missing": num_missing,
            "kl": abilities.json(),
            "difficulty": difficulties.json() if num_classes and num_classes > 1 else None,
        }
    return histograms


class _Histogram:
    """Counts in bins of equal width, and the mean, of values added block by block."""

    def __init__(self, low: float, high: float, num_bins: int) -> None:
        self._range = (low, high)
        self._counts = np.zeros(num_bins, np.int64)
        self._assigned: Array | None = None
        self._sums: list[float] = []

    def add(self, values: Array, active: Array | None) -> None:
        """Count a block without its NaN."""
        present = ~np.isnan(values)
        known = values[present].astype(np.float64)
        self._sums.append(float(known.sum()))
        if active is None:
            self._counts += self._count(known)
            return
        is_active = active[present]
        assigned = self._count(known[is_active])
        self._assigned = assigned if self._assigned is None else self._assigned + assigned
        self._counts += assigned + self._count(known[~is_active])

    def json(self) -> Json:
        """The histogram; `assigned` is null if no block had an assignment."""
        num = int(self._counts.sum())
        return {
            "edges": np.linspace(*self._range, len(self._counts) + 1).tolist(),
            "counts": self._counts.tolist(),
            "assigned": None if self._assigned is None else self._assigned.tolist(),
            "mean": math.fsum(self._sums) / num if num else None,
        }

    def _count(self, values: Array) -> Array:
        return np.histogram(values, len(self._counts), self._range)[0]


def _rechunk(arrays: Iterable[Array]) -> Iterator[Array]:
    """Yield the values in blocks of TABLE_ROWS; the last may be smaller."""
    rest = np.empty(0, np.float32)
    for array in arrays:
        values = np.concatenate([rest, array]) if len(rest) else array
        full = len(values) // TABLE_ROWS * TABLE_ROWS
        for start in range(0, full, TABLE_ROWS):
            yield values[start : start + TABLE_ROWS]
        rest = values[full:]
    if len(rest):
        yield rest
