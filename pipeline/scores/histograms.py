"""How many samples lie in each bin of ability and of difficulty, in two passes over blocks of scores: the range, then the counts.

Blocks have one fixed size wherever they come from, so that a table in memory and a file read batch by batch give the same numbers to the bit.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.arrays import Array
from pipeline.errors import ConfigError, DataError
from pipeline.scores.difficulty import difficulty
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import TABLE_ROWS, column
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.schemas import check_columns

Json = dict[str, Any]
Block = tuple[Array, Array | None]
"""(n,) abilities in bits, NaN = missing, and whether each row trains the modality, None where that is not asked."""
NUM_BINS = 20
MAX_BINS = 1000


def score_histograms(
    scores: Scores,
    num_classes: int | None = None,
    *,
    num_bins: int = NUM_BINS,
    owners: npt.NDArray[np.int8] | None = None,
    names: Sequence[str] | None = None,
) -> Json:
    """Per modality, how many samples lie in each bin of KL (bits) and of difficulty; with `owners` (N,), indices into `names`, also how many of its own.

    Difficulty is null where the number of classes is unknown (raises ConfigError, DataError).
    """

    def blocks(name: str) -> Iterator[Block]:
        index = None if owners is None or names is None or name not in names else names.index(name)
        for number, block in enumerate(scores.blocks()):
            own = (
                None
                if owners is None or index is None
                else owners[number * TABLE_ROWS : (number + 1) * TABLE_ROWS] == index
            )
            yield column(block, f"kl_{name}"), own

    return _histograms(blocks, scores.modalities, num_classes or scores.num_classes, num_bins)


def file_histograms(
    file: BatchFile, num_classes: int | None = None, *, num_bins: int = NUM_BINS
) -> Json:
    """The same of a scores file of any length, with the memory of a record batch of one column (raises ConfigError, DataError)."""
    names = [name.removeprefix("kl_") for name in file.schema.names if name.startswith("kl_")]
    check_columns(
        file.schema, pa.schema([(f"kl_{name}", pa.float32()) for name in names]), file.what
    )

    def blocks(name: str) -> Iterator[Block]:
        for kl in _even(
            batch.column(0).to_numpy(zero_copy_only=False) for batch in file.batches([f"kl_{name}"])
        ):
            if np.isinf(kl).any():
                raise DataError(
                    f"{file.what}: column 'kl_{name}' has an infinite value",
                    "score again; NaN stands for a missing modality",
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
        raise ConfigError(f"num_bins is {num_bins}", f"give a number from 1 to {MAX_BINS}")
    if num_classes is not None and not (isinstance(num_classes, int) and num_classes >= 1):
        raise DataError(f"num_classes is {num_classes!r}", "give a positive integer")
    lowest, top = dict.fromkeys(names, 0.0), math.log2(num_classes) if num_classes else 0.0
    for name in names:
        for kl, _ in blocks(name):
            lowest[name] = min(lowest[name], float(np.nanmin(kl, initial=0.0)))
            top = max(top, float(np.nanmax(kl, initial=0.0)))
    found: Json = {}
    for name in names:
        bits, hard, num_missing = (
            _Histogram(lowest[name], top or 1.0, num_bins),
            _Histogram(0.0, 1.0, num_bins),
            0,
        )
        for kl, own in blocks(name):
            num_missing += int(np.isnan(kl).sum())
            bits.add(kl, own)
            if num_classes and num_classes > 1:
                hard.add(difficulty(kl, num_classes), own)
        found[name] = {
            "num_missing": num_missing,
            "kl": bits.json(),
            "difficulty": hard.json() if num_classes and num_classes > 1 else None,
        }
    return found


class _Histogram:
    """Counts between equal edges, and the mean, of values that come block by block."""

    def __init__(self, low: float, high: float, num_bins: int) -> None:
        self._range = (low, high)
        self._counts = np.zeros(num_bins, np.int64)
        self._assigned: Array | None = None
        self._sums: list[float] = []

    def add(self, values: Array, own: Array | None) -> None:
        """Counts a block, NaN left out."""
        present = ~np.isnan(values)
        known = values[present].astype(np.float64)
        self._counts += self._count(known)
        self._sums.append(float(known.sum()))
        if own is not None:
            self._assigned = (0 if self._assigned is None else self._assigned) + self._count(
                known[own[present]]
            )

    def json(self) -> Json:
        """`assigned` is null where no block said what is."""
        num = int(self._counts.sum())
        return {
            "edges": np.linspace(*self._range, len(self._counts) + 1).tolist(),
            "counts": self._counts.tolist(),
            "assigned": None if self._assigned is None else self._assigned.tolist(),
            "mean": math.fsum(self._sums) / num if num else None,
        }

    def _count(self, values: Array) -> Array:
        return np.histogram(values, len(self._counts), self._range)[0]


def _even(arrays: Iterable[Array]) -> Iterator[Array]:
    """The values in blocks of TABLE_ROWS, the last of them smaller."""
    left = np.empty(0, np.float32)
    for array in arrays:
        values = np.concatenate([left, array]) if len(left) else array
        whole = len(values) // TABLE_ROWS * TABLE_ROWS
        for start in range(0, whole, TABLE_ROWS):
            yield values[start : start + TABLE_ROWS]
        left = values[whole:]
    if len(left):
        yield left
