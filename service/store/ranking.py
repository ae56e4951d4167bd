"""The highest values of a table, with the memory of one record batch and of the result."""

from collections.abc import Iterable

import numpy as np

from pipeline.arrays import Float64Array, Int64Array
from pipeline.counter_rng import Purpose, hashes, key_of, uniform

DISPLAY_KEY = key_of(Purpose.DISPLAY)


def highest(blocks: Iterable[Float64Array], num: int) -> tuple[int, Int64Array]:
    """How many values of consecutive blocks are numbers, and the positions of the `num` highest.

    Descending; of equal values, the first ones.
    """
    total = start = 0
    values, positions = np.empty(0), np.empty(0, np.int64)
    for block in blocks:
        known = np.flatnonzero(~np.isnan(block))
        total += len(known)
        values = np.concatenate([values, block[known]])
        positions = np.concatenate([positions, known + start])
        chosen = np.argsort(-values, kind="stable")[:num]
        values, positions = values[chosen], positions[chosen]
        start += len(block)
    return total, positions


def lottery(rows: Int64Array) -> Float64Array:
    """(n,): a hash of each row in [0, 1), by which samples are chosen: the same in every epoch."""
    return uniform(hashes(DISPLAY_KEY, rows))
