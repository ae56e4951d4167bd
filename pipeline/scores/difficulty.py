"""Ability (KL divergence from uniform) and difficulty (normalised entropy) of predictions."""

import math

import numpy as np

from pipeline.arrays import Float32Array, Float64Array, FloatArray

SMALLEST = 1e-9
"""Probabilities are clipped to [SMALLEST, 1] before the logarithm."""


def ability(probabilities: FloatArray) -> Float32Array:
    """KL divergence from uniform in bits, (N, C) -> (N,). Low means difficult (arXiv 2506.11550).

    It is the sum of p log2(C p), which equals log2 C - H(p).
    """
    clipped = np.clip(probabilities.astype(np.float64), SMALLEST, 1.0)
    bits: Float64Array = (clipped * np.log2(clipped * probabilities.shape[1])).sum(axis=1)
    return bits.astype(np.float32)


def difficulty(kl: FloatArray, num_classes: int) -> Float64Array:
    """Difficulty in [0, 1]: the normalised entropy H(p) / log2 C = 1 - kl / log2 C. Keeps NaN."""
    return np.clip(1.0 - kl.astype(np.float64) / math.log2(num_classes), 0.0, 1.0)
