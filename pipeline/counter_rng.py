"""Counter-based random numbers: element i of the SplitMix64 sequence of a key.

NumPy does not promise the streams of its generators across versions, so random choices are hashes
of (seed, epoch, purpose, row): the same on every machine, and computable for any row alone.
SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from enum import IntEnum

import numpy as np

from pipeline.arrays import Float64Array, Int64Array, UInt64Array

GOLDEN = 0x9E3779B97F4A7C15
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
MASK = 2**64 - 1
BLOCK = 2**15
"""Values processed together; their arrays fit the processor's cache."""


class Purpose(IntEnum):
    """What a hash is used for. Each purpose has an independent sequence.

    The values are part of every key: changing one changes plans, folds or augmentation.
    """

    ROWS = 0
    RANDOM_POLICY = 1
    TIES = 2
    WINDOWS = 3
    CLASSES = 4
    STEPS = 5
    JOINT_SHARE = 6
    BUDGET = 7
    RESCORE = 8
    FOLDS = 17
    DIAGNOSTICS = 24
    ASSEMBLY = 25
    REFIT = 26
    DISPLAY = 27
    CROP = 100
    FLIP = 101
    FRAMES = 102
    FREQUENCY_MASK = 103
    TIME_MASK = 104
    TIME_SHIFT = 105


def key_of(*numbers: int) -> int:
    """Combine numbers such as (seed, epoch, purpose) into the 64-bit key of a sequence."""
    key = 0
    for number in numbers:
        key = ((key ^ (number & MASK)) + GOLDEN) & MASK
        for shift, multiplier in zip((30, 27), MULTIPLIERS, strict=True):
            key = ((key ^ (key >> shift)) * multiplier) & MASK
        key ^= key >> 31
    return key


def hashes(key: int, counters: Int64Array) -> UInt64Array:
    """Elements (n,) of the sequence of `key` at the positions (n,) `counters`.

    Different counters have different hashes.
    """
    out = np.empty(len(counters), np.uint64)
    for start in range(0, len(out), BLOCK):
        x = out[start : start + BLOCK]
        np.multiply(counters[start : start + BLOCK].astype(np.uint64), np.uint64(GOLDEN), out=x)
        x += np.uint64(key)
        for shift, multiplier in zip((30, 27), MULTIPLIERS, strict=True):
            x ^= x >> np.uint64(shift)
            x *= np.uint64(multiplier)
        x ^= x >> np.uint64(31)
    return out


def uniform(values: UInt64Array) -> Float64Array:
    """Map hashes to uniform numbers in [0, 1) with 53 random bits."""
    return (values >> np.uint64(11)).astype(np.float64) * 2.0**-53
