"""A logarithm of additions, products and quotients alone, which IEEE 754 rounds alike everywhere; NumPy's own differs in last bits between machines."""

import numpy as np

from pipeline.arrays import FloatArray

LN2 = 0.6931471805599453
NUM_TERMS = 12
"""Of the series, whose terms fall by a factor of 34 or more."""


def log(values: FloatArray) -> FloatArray:
    """Natural logarithms of positive numbers: 2 artanh((m - 1) / (m + 1)) + e ln 2 of m 2^e with m from sqrt(1/2) to sqrt(2)."""
    mantissa, exponent = np.frexp(values)
    small = mantissa < 0.7071067811865476
    mantissa, exponent = np.where(small, 2 * mantissa, mantissa), exponent - small
    ratio = (mantissa - 1) / (mantissa + 1)
    square, series = ratio * ratio, np.zeros_like(ratio)
    for power in range(2 * NUM_TERMS - 1, 0, -2):
        series = series * square + 1 / power
    result: FloatArray = 2 * ratio * series + exponent * LN2
    return result
