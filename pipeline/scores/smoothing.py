"""Abilities as a moving average over the epochs that were scored: a few more columns of a scores table."""

import numpy as np
import pyarrow as pa

from pipeline.errors import MismatchError
from pipeline.scores.table import Scores, column


def with_smoothing(
    table: pa.Table, modalities: list[str], smoothing: float, previous: Scores | None
) -> pa.Table:
    """The scores with smooth_<m> float32: smoothing * that of `previous` + (1 - smoothing) * kl_<m>, the first ones kl_<m> itself (raises MismatchError)."""
    if previous and not np.array_equal(previous.rows, column(table, "row")):
        raise MismatchError(
            f"{previous.what} has other rows than the scores of this epoch, so they have no average",
            "restore the file, or start a new run",
        )
    for name in modalities:
        values = column(table, f"kl_{name}")
        if previous:
            before = column(previous.table, f"smooth_{name}").astype(np.float64)
            values = (smoothing * before + (1 - smoothing) * values.astype(np.float64)).astype(
                np.float32
            )
        table = table.append_column(f"smooth_{name}", pa.array(values))
    return table
