"""How often a sample comes again in a modality that contributes little to its prediction: the bands of Resample.

Wei et al., "Enhancing Multimodal Cooperation via Sample-level Modality Valuation", CVPR 2024, arXiv 2309.06255: one, two or three more times
where a Shapley value is about 0.5, 0 or -0.5, the values that two modalities can have below 1. The edges are those of its public code.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import DataError
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import column

EDGES = (-0.1, 0.4, 0.9)
"""A value beyond i of these edges gives len(EDGES) - i copies."""


def copies(values: npt.NDArray[np.floating]) -> npt.NDArray[np.int8]:
    """Shapley values of a modality, of any shape, NaN where a sample lacks it, to the number of copies in that modality alone."""
    found = sum((values <= edge).astype(np.int8) for edge in EDGES)
    return np.asarray(found, np.int8)


def with_copies(scores: Scores, choice: npt.NDArray[np.int8]) -> pa.Table:
    """Each row by the modality of `choice` (N,), then its copies: row, label, `copy` from 0 up and `choice`, 15 bytes a row of the epoch (raises DataError)."""
    each = np.stack([copies(_values(scores, name)) for name in scores.modalities], axis=1)  # (N, K)
    each = np.concatenate([np.ones((len(scores), 1), np.int8), each], axis=1)
    num = each.sum(axis=1, dtype=np.int64)
    owners = np.tile(np.arange(-1, len(scores.modalities), dtype=np.int8), len(scores)).repeat(
        each.ravel()
    )
    first = np.cumsum(num) - num
    owners[first] = choice
    copy = np.arange(num.sum()) - np.repeat(first, num)
    return pa.table(
        {
            "row": np.repeat(scores.rows, num),
            "label": np.repeat(scores.labels, num),
            "copy": copy.astype(np.int16),
            "choice": owners,
        }
    )


def _values(scores: Scores, name: str) -> npt.NDArray[np.floating]:
    wanted = f"shapley_{name}"
    if wanted not in scores.table.column_names:
        raise DataError(
            f"{scores.what}: column {wanted!r} is missing, which copies 'resample' need",
            "give scores of a run with plan.copies: resample",
        )
    values = column(scores.table, wanted)
    bad = np.flatnonzero(~np.isfinite(values) & ~np.isnan(scores.kl(name)))
    if len(bad):
        raise DataError(
            f"{scores.what}: row {scores.rows[bad[0]]}: {wanted} is {values[bad[0]]} but kl_{name} is a number",
            "score that sample again",
        )
    return values
