"""A policy of a user's own: a pure function from the columns of scores to costs."""

import numpy as np
import pyarrow as pa

from pipeline.arrays import Float64Array, FloatArray
from pipeline.errors import ConfigError, DataError
from pipeline.extensions import load_extension
from pipeline.storage.arrow_files import column

CHECKED_ROWS = 64
"""Rows on which a policy is run twice, to see that a row's costs do not depend on other rows."""


def own_costs(path: str, block: pa.Table, modalities: tuple[str, ...]) -> list[FloatArray]:
    """The cost (n,) of each modality, NaN if the sample lacks it.

    Args:
        path: import path of a function of the columns by name, each (n,), and the modalities' names
            that returns costs (n, K); the modality of lowest cost is trained.
    Raises:
        ConfigError: the module is missing, or the function fails or returns another shape.
        DataError: a cost of a modality that the sample has is NaN or infinite.
    """
    cost = load_extension(path)
    columns = {name: column(block, name) for name in block.column_names}
    try:
        costs: Float64Array = np.array(cost(columns, list(modalities)), np.float64)
    except Exception as error:  # whatever the user's function raises
        raise ConfigError(
            f"policy {path} failed ({type(error).__name__}: {error})", "correct the function"
        ) from error
    expected = (len(block), len(modalities))
    if costs.shape != expected:
        raise ConfigError(
            f"policy {path} returned costs of shape {costs.shape}, not {expected}",
            "return one cost for each row and modality",
        )
    for k, name in enumerate(modalities):
        missing = np.isnan(columns[f"kl_{name}"])
        wrong = np.flatnonzero(~missing & ~np.isfinite(costs[:, k]))
        if len(wrong):
            raise DataError(
                f"policy {path}, row {columns['row'][wrong[0]]}: the cost of {name!r} is "
                f"{costs[wrong[0], k]}",
                "return a number for each modality that the sample has",
            )
        costs[missing, k] = np.nan
    return list(costs.T)


def check_row_by_row(path: str, table: pa.Table, modalities: tuple[str, ...]) -> None:
    """Check on a few rows that costs do not depend on other rows, as scores are read in slices.

    Raises:
        ConfigError: they do; and as `own_costs`.
    """
    block = table.slice(0, CHECKED_ROWS)
    together = np.array(own_costs(path, block, modalities))
    alone = [own_costs(path, block.slice(row, 1), modalities) for row in range(block.num_rows)]
    if not np.allclose(together, np.concatenate(alone, axis=1), rtol=1e-9, equal_nan=True):
        raise ConfigError(
            f"policy {path}: the costs of a row depend on the other rows, or change from call to "
            "call",
            "compute the costs of each row from its own columns alone",
        )
