"""Ability (KL divergence from uniform) and difficulty (normalised entropy) of predictions."""

import math

import numpy as np
import numpy.typing as npt

SMALLEST = 1e-9
"""Probabilities are clipped to [SMALLEST, 1] before the logarithm."""


def ability(probabilities: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """KL divergence from uniform in bits, (N, C) -> (N,). Low means difficult (arXiv 2506.11550).

    It is the sum of p log2(C p), which equals log2 C - H(p).
    """
    clipped = np.clip(probabilities.astype(np.float64), SMALLEST, 1.0)
    bits: npt.NDArray[np.float64] = (clipped * np.log2(clipped * probabilities.shape[1])).sum(
        axis=1
    )
    return bits.astype(np.float32)


def difficulty(kl: npt.NDArray[np.floating], num_classes: int) -> npt.NDArray[np.float64]:
    """Difficulty in [0, 1]: the normalised entropy H(p) / log2 C = 1 - kl / log2 C. Keeps NaN."""
    return np.clip(1.0 - kl.astype(np.float64) / math.log2(num_classes), 0.0, 1.0)
