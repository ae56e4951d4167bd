"""Sorts by counter hashes, and the merge of several sequences into one.

Sorting packs a hash's leading bits and the position into one integer: np.sort of those is eight times faster than argsort.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Int64Array, UInt64Array
from pipeline.counter_rng import BLOCK, MASK, hashes, key_of, uniform


def sort_positions(
    keys: UInt64Array, groups: npt.NDArray[np.integer] | None, num_groups: int
) -> Int64Array:
    """The positions (n,) ordered by group in [0, num_groups), then by key, then by position; `keys` is used up.

    A key loses its last bits to the group and the position, 64 - log2(num_groups) - log2(n) of them count.
    """
    group_bits, position_bits = (num_groups - 1).bit_length(), max(len(keys) - 1, 1).bit_length()
    clear = np.uint64(MASK ^ ((1 << position_bits) - 1))
    for start in range(0, len(keys), BLOCK):
        x = keys[start : start + BLOCK]
        if groups is not None and group_bits:
            x >>= np.uint64(group_bits)
            x |= groups[start : start + BLOCK].astype(np.uint64) << np.uint64(64 - group_bits)
        x &= clear
        x |= np.arange(start, start + len(x), dtype=np.uint64)
    keys.sort()
    keys &= ~clear
    return keys.view(np.int64)


def spread_positions(
    groups: Int64Array,
    num_groups: int,
    classes: Int64Array,
    keys: UInt64Array,
    rows: Int64Array,
    class_key: int,
) -> Int64Array:
    """Like sort_positions, but every stretch of a group has the group's class mix: row j of class c comes at (j + u) / n_c."""
    num_classes = int(classes.max()) + 1
    cells = groups * num_classes + classes
    by_cell = sort_positions(keys, cells, num_groups * num_classes)
    cells = cells[by_cell]
    starts = np.flatnonzero(np.diff(cells, prepend=-1))
    sizes = np.diff(starts, append=len(cells))
    offset = uniform(hashes(class_key, rows[by_cell[starts]]))
    path = (np.arange(len(cells)) - np.repeat(starts - offset, sizes)) / np.repeat(sizes, sizes)
    spread = np.minimum(path * 2.0**53, 2.0**53 - 1).astype(np.uint64) << np.uint64(11)
    order: Int64Array = by_cell[sort_positions(spread, groups[by_cell], num_groups)]
    return order


def merge(lengths: Sequence[int], key: int, num_per_block: int) -> Iterator[npt.NDArray[np.int64]]:
    """Merges sequences in proportion to their lengths: blocks that name, item by item, the sequence whose next item comes.

    Item j of a sequence of n stands at (j + u) / n with its own hashed u, so that any stretch holds the sequences in proportion.
    """
    num_blocks = max(1, -(-sum(lengths) // num_per_block))
    for block in range(num_blocks):
        low, high = (
            block / num_blocks,
            (block + 1) / num_blocks if block + 1 < num_blocks else np.inf,
        )
        places, names = [], []
        for name, length in enumerate(lengths):
            first, last = (
                max(0, int(low * length) - 2),
                min(length, int(min(high, 1.0) * length) + 2),
            )
            items = np.arange(first, last)
            path = (items + uniform(hashes(key_of(key, name), items))) / max(length, 1)
            path = path[(path >= low) & (path < high)]
            places.append(path)
            names.append(np.full(len(path), name))
        yield np.concatenate(names)[np.argsort(np.concatenate(places), kind="stable")]
