"""Calibration: the loss of predictions whose logits are divided by a temperature.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599. An overfitted
model is overconfident, so that its loss rises while its accuracy does not fall; at the best
temperature the loss measures what the predictions are worth.
"""

import numpy as np

from pipeline.arrays import Array, Float64Array, FloatArray, IntArray

TEMPERATURES: Float64Array = np.logspace(-1.5, 1.5, 25)
"""The grid of temperatures: 25 steps from 0.03 to 32."""
SMALLEST = 1e-30
"""Probabilities are clipped to [SMALLEST, 1] before the logarithm."""


def log_probabilities(probabilities: FloatArray) -> Array:
    """Logarithms of clipped probabilities, float64."""
    return np.log(np.clip(probabilities.astype(np.float64), SMALLEST, 1.0))


def losses(log_p: FloatArray, labels: IntArray) -> Float64Array:
    """Cross-entropy of each row at each temperature, (n, 25).

    Args:
        log_p: (n, C) log-probabilities, or logits.
        labels: (n,) classes.
    """
    rows, result = np.arange(len(labels)), np.empty((len(labels), len(TEMPERATURES)))
    for number, temperature in enumerate(TEMPERATURES):
        scaled = (log_p - log_p.max(axis=1, keepdims=True)) / temperature
        result[:, number] = np.log(np.exp(scaled).sum(axis=1)) - scaled[rows, labels]
    return result


def best_temperature(mean_losses: Float64Array) -> tuple[float, float]:
    """The temperature of the lowest mean loss (25,), and that loss."""
    best = int(np.argmin(mean_losses))
    return float(TEMPERATURES[best]), float(mean_losses[best])
