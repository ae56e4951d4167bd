"""A logarithm that gives the same bits on every machine, which NumPy's does not promise.

It uses additions, products and quotients only, which IEEE 754 rounds alike everywhere.
"""

import numpy as np

from pipeline.arrays import Float64Array

LN2 = 0.6931471805599453
NUM_TERMS = 12
"""Terms of the series. Each is smaller than the one before by a factor of at least 34."""


def log(values: Float64Array) -> Float64Array:
    """Natural logarithm of positive numbers.

    For x = m 2^e with m in [sqrt(1/2), sqrt(2)): log x = 2 artanh((m - 1) / (m + 1)) + e ln 2.
    """
    mantissa, exponent = np.frexp(values)
    small = mantissa < 0.7071067811865476
    mantissa, exponent = np.where(small, 2 * mantissa, mantissa), exponent - small
    ratio = (mantissa - 1) / (mantissa + 1)
    square, series = ratio * ratio, np.zeros_like(ratio)
    for power in range(2 * NUM_TERMS - 1, 0, -2):
        series = series * square + 1 / power
    result: Float64Array = 2 * ratio * series + exponent * LN2
    return result
