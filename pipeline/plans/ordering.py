"""Sort rows by counter hashes, and merge several sequences into one.

The leading bits of a hash and the position are packed into one integer, since np.sort of integers
is about eight times as fast as np.argsort.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.arrays import Int64Array, IntArray, UInt64Array
from pipeline.counter_rng import BLOCK, MASK, hashes, key_of, uniform


def sort_positions(keys: UInt64Array, groups: IntArray | None, num_groups: int) -> Int64Array:
    """Positions (n,) ordered by group in [0, num_groups), then by key, then by position.

    Overwrites `keys`. The group and the position take the place of the last bits of a key, so that
    64 - log2(num_groups) - log2(n) of its leading bits count.
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
    """Like sort_positions, but any run of rows within a group has about the group's class mix.

    Row j of the n rows of a class, in the order of their keys, is placed at (j + u) / n, where u in
    [0, 1) is a hash of the class within the group, so that classes do not all start at 0.
    """
    num_classes = int(classes.max()) + 1
    subsets = groups * num_classes + classes
    by_subset = sort_positions(keys, subsets, num_groups * num_classes)
    subsets = subsets[by_subset]
    starts = np.flatnonzero(np.diff(subsets, prepend=-1))
    sizes = np.diff(starts, append=len(subsets))
    offset = uniform(hashes(class_key, rows[by_subset[starts]]))
    path = (np.arange(len(subsets)) - np.repeat(starts - offset, sizes)) / np.repeat(sizes, sizes)
    spread = np.minimum(path * 2.0**53, 2.0**53 - 1).astype(np.uint64) << np.uint64(11)
    order: Int64Array = by_subset[sort_positions(spread, groups[by_subset], num_groups)]
    return order


def merge(lengths: Sequence[int], key: int, num_per_block: int) -> Iterator[Int64Array]:
    """Merge sequences in proportion to their lengths: yield the index of the sequence of each item.

    Item j of a sequence of n is placed at (j + u) / n, where u in [0, 1) is a hash of the item, so
    that any run of items has the sequences in proportion. Items of one block are those placed
    between its bounds, so a block is computed without the blocks before it.
    """
    num_blocks = max(1, -(-sum(lengths) // num_per_block))
    for block in range(num_blocks):
        low, high = (
            block / num_blocks,
            (block + 1) / num_blocks if block + 1 < num_blocks else np.inf,
        )
        positions, names = [], []
        for name, length in enumerate(lengths):
            first, last = (
                max(0, int(low * length) - 2),
                min(length, int(min(high, 1.0) * length) + 2),
            )
            # two more on either side, since u and rounding move items across the bounds
            items = np.arange(first, last)
            path = (items + uniform(hashes(key_of(key, name), items))) / max(length, 1)
            path = path[(path >= low) & (path < high)]
            positions.append(path)
            names.append(np.full(len(path), name))
        yield np.concatenate(names)[np.argsort(np.concatenate(positions), kind="stable")]
