"""Resample: repeat a sample in the modalities that contribute little to its prediction.

Wei et al., "Enhancing Multimodal Cooperation via Sample-level Modality Valuation", CVPR 2024,
arXiv 2309.06255: one, two or three copies for a Shapley value near 0.5, 0 or -0.5, the values below
1 that two modalities can have. The thresholds are those of the authors' public code.
"""

import numpy as np
import pyarrow as pa

from pipeline.arrays import FloatArray, Int8Array
from pipeline.errors import DataError
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import column

EDGES = (-0.1, 0.4, 0.9)
"""Thresholds of Shapley values; a value has one copy per threshold that it does not exceed."""


def copies(values: FloatArray) -> Int8Array:
    """Number of copies that train a modality, from its Shapley values of any shape; NaN gives 0."""
    num = sum((values <= edge).astype(np.int8) for edge in EDGES)
    return np.asarray(num, np.int8)


def with_copies(scores: Scores, assignment: Int8Array) -> pa.Table:
    """All rows with `assignment` (N,), each followed by its copies. Raises DataError.

    Columns: row, label, `copy` (0 for the row itself) and `assignment`; 15 bytes per row.
    """
    counts = np.stack([copies(_values(scores, name)) for name in scores.modalities], axis=1)
    counts = np.concatenate([np.ones((len(scores), 1), np.int8), counts], axis=1)  # (N, 1 + K)
    num = counts.sum(axis=1, dtype=np.int64)
    repeated = np.tile(np.arange(-1, len(scores.modalities), dtype=np.int8), len(scores)).repeat(
        counts.ravel()
    )
    first = np.cumsum(num) - num
    repeated[first] = assignment
    copy = np.arange(num.sum()) - np.repeat(first, num)
    return pa.table(
        {
            "row": np.repeat(scores.rows, num),
            "label": np.repeat(scores.labels, num),
            "copy": copy.astype(np.int16),
            "assignment": repeated,
        }
    )


def _values(scores: Scores, name: str) -> FloatArray:
    source = f"shapley_{name}"
    if source not in scores.table.column_names:
        raise DataError(
            f"{scores.what}: column {source!r} is missing; copies 'resample' read it",
            "use scores of a run with plan.copies: resample",
        )
    values = column(scores.table, source)
    bad = np.flatnonzero(~np.isfinite(values) & ~np.isnan(scores.kl(name)))
    if len(bad):
        raise DataError(
            f"{scores.what}, row {scores.rows[bad[0]]}: {source} is {values[bad[0]]}, "
            f"but kl_{name} is a number",
            "score the sample again",
        )
    return values
