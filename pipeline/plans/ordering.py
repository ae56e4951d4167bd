"""Sort rows by counter hashes, and merge several sequences into one.

The leading bits of a hash and the position are packed into one integer, since np.sort of integers
is about eight times as fast as np.argsort.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.arrays import Int64Array, IntArray, UInt64Array
from pipeline.counter_rng import BLOCK, hashes, key_of, uniform


def leading_bits(num_groups: int, num_positions: int) -> int:
    """Number of leading bits of a key that count if `num_positions` keys in groups are sorted."""
    return 64 - (num_groups - 1).bit_length() - max(num_positions - 1, 1).bit_length()


def sort_values(
    keys: UInt64Array,
    key_bits: int,
    values: Int64Array | None = None,
    groups: IntArray | None = None,
    num_groups: int = 1,
) -> Int64Array:
    """Values (n,) ordered by group in [0, num_groups), then by key, then by value.

    Overwrites `keys`. The group and the value take the place of the last bits of a key.

    Args:
        key_bits: Number of leading bits of each key that count.
        values: Below 2**(64 - key_bits - the bits of a group); by default the positions of the
            keys.
    """
    group_bits = (num_groups - 1).bit_length()
    low = np.uint64((1 << (64 - group_bits - key_bits)) - 1)
    for start in range(0, len(keys), BLOCK):
        x = keys[start : start + BLOCK]
        if groups is not None and group_bits:
            x >>= np.uint64(group_bits)
            x |= groups[start : start + BLOCK].astype(np.uint64) << np.uint64(64 - group_bits)
        x &= ~low
        x |= (
            np.arange(start, start + len(x), dtype=np.uint64)
            if values is None
            else values[start : start + BLOCK].view(np.uint64)
        )
    keys.sort()
    keys &= low
    return keys.view(np.int64)


def spread_positions(
    subsets: Int64Array,
    num_classes: int,
    keys: UInt64Array,
    rows: Int64Array,
    class_key: int,
    *,
    first: int,
    key_bits: tuple[int, int],
) -> Int64Array:
    """Positions (n,) ordered by group, such that any run in a group has about its class mix.

    Row j of the n rows of a class, in the order of their keys, is placed at (j + u) / n, where u in
    [0, 1) is a hash of the class within the group, so that classes do not all start at 0.

    Args:
        subsets: (n,) group * num_classes + class of each row.
        first: Number of rows that are sorted elsewhere and come before these: part of the rounding.
        key_bits: Number of leading bits that count, of a key and of a place.
    """
    num_groups = int(subsets.max()) // num_classes + 1
    by_subset = sort_values(keys, key_bits[0], None, subsets, num_groups * num_classes)
    subsets = subsets[by_subset]
    starts = np.flatnonzero(np.diff(subsets, prepend=-1))
    sizes = np.diff(starts, append=len(subsets))
    offset = uniform(hashes(class_key, rows[by_subset[starts]]))
    positions = np.arange(first, first + len(subsets))
    path = (positions - np.repeat(first + starts - offset, sizes)) / np.repeat(sizes, sizes)
    spread = np.minimum(path * 2.0**53, 2.0**53 - 1).astype(np.uint64) << np.uint64(11)
    groups = subsets // num_classes
    order: Int64Array = by_subset[sort_values(spread, key_bits[1], None, groups, num_groups)]
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
