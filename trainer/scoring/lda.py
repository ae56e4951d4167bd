"""Out-of-fold class probabilities: a linear discriminant head per fold, fitted to other folds.

Features are first rounded to integers, whose sums of products stay below 2^53, where float64 is
exact. The statistics therefore do not depend on how rows are divided into batches and among
processes. Memory: F (D^2 + C D) numbers for F folds, D features and C classes, and one batch.
"""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Float32Array, Float64Array, FloatArray, Int64Array, IntArray
from pipeline.counter_rng import Purpose, hashes, key_of
from pipeline.portable_log import log

FOLDS = 5
BITS = 11
"""Integer features are from -2**BITS to 2**BITS: MAX_ROWS products of two sum to at most 2**53."""
HEADROOM = 1
"""A feature is clipped only beyond 2**HEADROOM times the largest value in the grid's sample."""


def folds_of(rows: Int64Array, seed: int) -> Int64Array:
    """Fold (n,) of each row: a hash of its number, the same in every epoch."""
    return (hashes(key_of(seed, Purpose.FOLDS), rows) % np.uint64(FOLDS)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Grid:
    """Fixed-point format of a modality's features: a power of two for each of the (D,)."""

    exponents: Int64Array

    @classmethod
    def of(cls, sample: FloatArray) -> "Grid":
        """Fit the grid to a sample (n, D): its values become at most 2**(BITS - HEADROOM).

        A feature that is 0 throughout the sample gets the exponent of the largest feature.
        """
        largest = np.abs(sample.astype(np.float64)).max(axis=0, initial=0.0)
        largest = np.where(largest > 0, largest, largest.max() or 1.0)
        return cls(BITS - HEADROOM - np.frexp(largest)[1].astype(np.int64))

    def __call__(self, features: FloatArray) -> Float64Array:
        """Round features (n, D) to integers, as float64."""
        integers: Float64Array = np.rint(
            np.ldexp(features.astype(np.float64), self.exponents)
        ).clip(-(2**BITS), 2**BITS)
        return integers


class Statistics:
    """Sufficient statistics of a modality's rows per fold.

    counts (F, C) of rows, sums (F, C, D) of features by class, products (F, D, D) of features.
    """

    def __init__(self, num_classes: int, dim: int, values: Float64Array | None = None) -> None:
        """All zeros, or views of `values`, the `values` attribute of other statistics."""
        sizes = [FOLDS * num_classes, FOLDS * num_classes * dim, FOLDS * dim * dim]
        self.values: Float64Array = np.zeros(sum(sizes)) if values is None else values
        """All statistics in one array, so that one sum joins those of several ranks."""
        counts, sums, products = np.split(self.values, np.cumsum(sizes)[:-1])
        self.counts = counts.reshape(FOLDS, num_classes)
        self.sums = sums.reshape(FOLDS, num_classes, dim)
        self.products = products.reshape(FOLDS, dim, dim)

    def add(self, integers: Float64Array, labels: IntArray, folds: Int64Array) -> None:
        """Add rows: integer features (n, D), labels (n,) and folds (n,)."""
        np.add.at(self.counts, (folds, labels), 1)
        np.add.at(self.sums, (folds, labels), integers)
        for fold in range(FOLDS):
            x = integers[folds == fold]
            self.products[fold] += x.T @ x


@dataclass(frozen=True, slots=True)
class Heads:
    """One linear head per fold: logits = (integers @ weights) * unit + bias.

    Weights are integers too, so that the product is exact.
    """

    weights: Float64Array  # (F, D, C)
    units: Float64Array  # (F,)
    bias: Float64Array  # (F, C)

    def __call__(self, integers: Float64Array, folds: Int64Array) -> Float32Array:
        """Class probabilities (n, C) of integer features (n, D), each by the head of its fold."""
        logits = np.empty((len(integers), self.bias.shape[1]))
        for fold in range(FOLDS):
            inside = folds == fold
            logits[inside] = (integers[inside] @ self.weights[fold]) * self.units[fold] + self.bias[
                fold
            ]
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: Float64Array = odds / odds.sum(axis=1, keepdims=True)
        return probabilities.astype(np.float32)


def fit(statistics: Statistics) -> Heads:
    """Fit the head of each fold to the rows of all other folds.

    Linear discriminant analysis with a shared covariance, shrunk towards a multiple of the identity
    by the Oracle Approximating Shrinkage (Chen et al., IEEE Trans. Signal Processing 58, 2010). If
    the covariance cannot be estimated, the head predicts the class frequencies.
    """
    parts = (statistics.counts, statistics.sums, statistics.products)
    heads = [_fit(*(part.sum(axis=0) - part[fold] for part in parts)) for fold in range(FOLDS)]
    weights, units, bias = zip(*heads, strict=True)
    return Heads(np.stack(weights), np.stack(units), np.stack(bias))


def _fit(
    counts: Float64Array, sums: Float64Array, products: Float64Array
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Fit one head to statistics (C,), (C, D), (D, D): integer weights (D, C), unit, bias (C,)."""
    num, (num_classes, dim), occurring = float(counts.sum()), sums.shape, counts > 0
    prior = np.full(num_classes, -math.inf if num else 0.0)
    prior[occurring] = log(counts[occurring] / num)
    freedom = num - int(occurring.sum())
    scatter = products.copy()
    for total, count in zip(sums[occurring], counts[occurring], strict=True):
        scatter -= total[:, None] * total / count
    if freedom <= 0 or np.trace(scatter) <= 0:
        return np.zeros((dim, num_classes)), np.ones(()), prior
    centre = sums.sum(axis=0) / num
    means = np.where(
        occurring[:, None], sums / np.maximum(counts, 1)[:, None] - centre, 0.0
    )  # (C, D)
    weights = _solve(_shrunk(scatter / freedom, freedom), means.T)
    bias = prior - ((centre + means / 2) * weights.T).sum(axis=1)
    # the largest scale that keeps the sum of D products below 2^53
    exponent = 52 - BITS - dim.bit_length() - int(np.frexp(np.abs(weights).max())[1])
    return np.rint(np.ldexp(weights, exponent)), np.ldexp(np.ones(()), -exponent), bias


def _shrunk(covariance: Float64Array, num: float) -> Float64Array:
    """Shrink a covariance (D, D) of `num` samples (Chen et al. 2010, equation 23)."""
    dim, trace = len(covariance), float(np.trace(covariance))
    squares = float((covariance * covariance).sum())
    numerator = (1 - 2 / dim) * squares + trace**2
    denominator = (num + 1 - 2 / dim) * (squares - trace**2 / dim)
    shrinkage = min(1.0, numerator / denominator) if denominator > 0 else 1.0
    return (1 - shrinkage) * covariance + shrinkage * trace / dim * np.eye(dim)


def _solve(matrix: Float64Array, right: Float64Array) -> Float64Array:
    """Solve matrix X = right for X (D, C), with a positive definite matrix (D, D).

    Plain Gaussian elimination: the bits of LAPACK's result depend on the number of threads.
    """
    matrix, solution = matrix.copy(), right.copy()
    for k in range(len(matrix)):
        factors = matrix[k + 1 :, k, None] / matrix[k, k]
        matrix[k + 1 :, k + 1 :] -= factors * matrix[k, k + 1 :]
        solution[k + 1 :] -= factors * solution[k]
    for k in range(len(matrix) - 1, -1, -1):
        solution[k] /= matrix[k, k]
        solution[:k] -= matrix[:k, k, None] * solution[k]
    return solution
