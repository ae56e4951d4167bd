"""Scores tables for tests of plans."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.storage.metadata import encode_metadata


def scores_table(
    costs: npt.NDArray[np.floating],
    rows: Sequence[int] | npt.NDArray[np.int64] | None = None,
    num_classes: int = 5,
    names: Sequence[str] = (),
    **metadata: Any,
) -> pa.Table:
    """Scores with the (N, K) costs as kl_ columns, NaN = missing, and half of them as p_label_.

    Labels cycle through the classes.
    """
    num, names = len(costs), names or [f"m{k}" for k in range(costs.shape[1])]
    rows = np.arange(num) if rows is None else np.asarray(rows)
    columns = {
        "row": rows.astype(np.int64),
        "sample_id": pa.array([f"s{row}" for row in rows.tolist()]),
        "label": (rows * 7 % num_classes).astype(np.int32),
    }
    for k, name in enumerate(names):
        columns |= {
            f"kl_{name}": costs[:, k].astype(np.float32),
            f"p_label_{name}": costs[:, k].astype(np.float32) / 2,
        }
    return pa.table(columns).replace_schema_metadata(encode_metadata(metadata))


def arithmetic_costs(
    num: int, num_modalities: int, *, missing: bool = False, levels: int = 997
) -> npt.NDArray[np.float32]:
    """(N, K) deterministic costs with ties; with `missing`, some are NaN, never all of a row."""
    row, k = np.arange(num)[:, None], np.arange(num_modalities)
    costs = ((row * (7919 + 104 * k) + 31 * k) % levels / levels * (1 + 0.2 * k)).astype(np.float32)
    if missing:
        costs[(row + k) % 4 == 0] = np.nan
        costs[:, 0] = np.where(np.isnan(costs).all(axis=1), 0.5, costs[:, 0])
    return costs
