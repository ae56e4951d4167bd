"""Class probabilities of rows by heads that have not seen them: linear discriminants on features, one for each fold of the rows, fitted to the others.

Features are first rounded to whole numbers. Sums and products of those stay below 2^53, where float64 is exact, so that statistics
do not depend on how rows are cut into batches and shared among processes. Memory is that of F (D^2 + C D) numbers and of a batch.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.arrays import FloatArray, Int64Array
from pipeline.counter_rng import Purpose, hashes, key_of
from pipeline.portable_log import log

FOLDS = 5
BITS = 11
"""Whole features lie within +-2**BITS: MAX_ROWS products of two are below 2**53."""
HEADROOM = 1
"""Bits by which a feature may be beyond the sample that its grid was made of before it is cut."""


def folds_of(rows: Int64Array, seed: int) -> Int64Array:
    """(n,): the fold of each row, a hash of it, the same in every epoch."""
    return (hashes(key_of(seed, Purpose.FOLDS), rows) % np.uint64(FOLDS)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Grid:
    """How a modality's features become whole numbers: by a power of two for each of the (D,)."""

    exponents: Int64Array

    @classmethod
    def of(cls, sample: npt.NDArray[np.floating]) -> "Grid":
        """The grid on which a sample (n, D) of the features has 2**(BITS - HEADROOM) steps; those that are 0 in all of it count as the largest."""
        largest = np.abs(sample.astype(np.float64)).max(axis=0, initial=0.0)
        largest = np.where(largest > 0, largest, largest.max() or 1.0)
        return cls(BITS - HEADROOM - np.frexp(largest)[1].astype(np.int64))

    def __call__(self, features: npt.NDArray[np.floating]) -> FloatArray:
        """(n, D) whole numbers."""
        whole: FloatArray = np.rint(np.ldexp(features.astype(np.float64), self.exponents)).clip(
            -(2**BITS), 2**BITS
        )
        return whole


class Statistics:
    """What fitting needs of a modality's rows, by fold: `counts` (F, C), `sums` of features by class (F, C, D), and `products` (F, D, D)."""

    def __init__(self, num_classes: int, dim: int, values: FloatArray | None = None) -> None:
        """Nothing yet, or what `values` had."""
        sizes = [FOLDS * num_classes, FOLDS * num_classes * dim, FOLDS * dim * dim]
        self.values: FloatArray = np.zeros(sum(sizes)) if values is None else values
        """All of it in one array: those of two sets of rows add up."""
        counts, sums, products = np.split(self.values, np.cumsum(sizes)[:-1])
        self.counts = counts.reshape(FOLDS, num_classes)
        self.sums = sums.reshape(FOLDS, num_classes, dim)
        self.products = products.reshape(FOLDS, dim, dim)

    def add(self, whole: FloatArray, labels: npt.NDArray[np.integer], folds: Int64Array) -> None:
        """Adds rows: whole features (n, D), labels (n,) and folds (n,)."""
        np.add.at(self.counts, (folds, labels), 1)
        np.add.at(self.sums, (folds, labels), whole)
        for fold in range(FOLDS):
            x = whole[folds == fold]
            self.products[fold] += x.T @ x


@dataclass(frozen=True, slots=True)
class Heads:
    """A head for each fold: logits are whole @ weights * unit + bias, with whole weights, so that the product is exact."""

    weights: FloatArray  # (F, D, C)
    units: FloatArray  # (F,)
    bias: FloatArray  # (F, C)

    def __call__(self, whole: FloatArray, folds: Int64Array) -> npt.NDArray[np.float32]:
        """(n, C) class probabilities of rows with these whole features, each by the head of its fold."""
        logits = np.empty((len(whole), self.bias.shape[1]))
        for fold in range(FOLDS):
            mine = folds == fold
            logits[mine] = (whole[mine] @ self.weights[fold]) * self.units[fold] + self.bias[fold]
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: FloatArray = odds / odds.sum(axis=1, keepdims=True)
        return probabilities.astype(np.float32)


def fit(statistics: Statistics) -> Heads:
    """The heads of all folds, each of all rows but those of its fold.

    Linear discriminant analysis: classes are Gaussian with one covariance, which is shrunk to a multiple of the identity by the Oracle
    Approximating Shrinkage (Chen et al., IEEE Trans. Signal Processing 58, 2010). Where no covariance can be had, priors alone decide.
    """
    parts = (statistics.counts, statistics.sums, statistics.products)
    heads = [_fit(*(part.sum(axis=0) - part[fold] for part in parts)) for fold in range(FOLDS)]
    weights, units, bias = zip(*heads, strict=True)
    return Heads(np.stack(weights), np.stack(units), np.stack(bias))


def _fit(
    counts: FloatArray, sums: FloatArray, products: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(C,), (C, D) and (D, D) -> whole weights (D, C), their unit and bias (C,)."""
    num, (num_classes, dim), seen = float(counts.sum()), sums.shape, counts > 0
    prior = np.full(num_classes, -math.inf if num else 0.0)
    prior[seen] = log(counts[seen] / num)
    freedom = num - int(seen.sum())
    scatter = products.copy()
    for total, count in zip(sums[seen], counts[seen], strict=True):
        scatter -= total[:, None] * total / count
    if freedom <= 0 or np.trace(scatter) <= 0:
        return np.zeros((dim, num_classes)), np.ones(()), prior
    centre = sums.sum(axis=0) / num
    means = np.where(seen[:, None], sums / np.maximum(counts, 1)[:, None] - centre, 0.0)  # (C, D)
    weights = _solve(_shrunk(scatter / freedom, freedom), means.T)
    bias = prior - ((centre + means / 2) * weights.T).sum(axis=1)
    # as many bits as keep the sum of D products below 2^53
    exponent = 52 - BITS - dim.bit_length() - int(np.frexp(np.abs(weights).max())[1])
    return np.rint(np.ldexp(weights, exponent)), np.ldexp(np.ones(()), -exponent), bias


def _shrunk(covariance: FloatArray, num: float) -> FloatArray:
    """A covariance (D, D) of `num` samples, shrunk (Chen et al. 2010, equation 23)."""
    dim, trace = len(covariance), float(np.trace(covariance))
    squares = float((covariance * covariance).sum())
    above = (1 - 2 / dim) * squares + trace**2
    below = (num + 1 - 2 / dim) * (squares - trace**2 / dim)
    share = min(1.0, above / below) if below > 0 else 1.0
    return (1 - share) * covariance + share * trace / dim * np.eye(dim)


def _solve(matrix: FloatArray, right: FloatArray) -> FloatArray:
    """X (D, C) of matrix X = right for a positive definite (D, D): by elimination row by row, whose bits, unlike LAPACK's, no number of threads changes."""
    matrix, solution = matrix.copy(), right.copy()
    for k in range(len(matrix)):
        factors = matrix[k + 1 :, k, None] / matrix[k, k]
        matrix[k + 1 :, k + 1 :] -= factors * matrix[k, k + 1 :]
        solution[k + 1 :] -= factors * solution[k]
    for k in range(len(matrix) - 1, -1, -1):
        solution[k] /= matrix[k, k]
        solution[:k] -= matrix[:k, k, None] * solution[k]
    return solution
