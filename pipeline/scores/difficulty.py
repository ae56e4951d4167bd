"""Probabilities to ability (bits from uniform) and difficulty (normalised entropy)."""

import math

import numpy as np
import numpy.typing as npt

SMALLEST = 1e-9
"""Probabilities are clipped to [SMALLEST, 1] before the logarithm."""


def ability(probabilities: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """(N, C) class probabilities to (N,) KL divergences from uniform in bits: sum p log2(C p) = log2 C - H(p) (arXiv 2506.11550)."""
    clipped = np.clip(probabilities.astype(np.float64), SMALLEST, 1.0)
    bits: npt.NDArray[np.float64] = (clipped * np.log2(clipped * probabilities.shape[1])).sum(
        axis=1
    )
    return bits.astype(np.float32)


def difficulty(kl: npt.NDArray[np.floating], num_classes: int) -> npt.NDArray[np.float64]:
    """Abilities in bits to difficulties in [0, 1]: 1 - kl / log2 C = H / log2 C; NaN (modality missing) stays NaN."""
    return np.clip(1.0 - kl.astype(np.float64) / math.log2(num_classes), 0.0, 1.0)
