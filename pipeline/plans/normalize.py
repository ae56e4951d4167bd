"""Per-modality normalisation constants that make costs of different modalities comparable."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from pipeline.arrays import Float64Array, FloatArray
from pipeline.errors import DataError
from pipeline.plans.config import PlanConfig
from pipeline.portable_log import LN2, log
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import column

MIN_ABILITY = 0.01
"""Bits; the ability implied by an accuracy at chance or below."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CostScale:
    """Offset and unit of one modality's costs."""

    zero: float = 0.0
    unit: float = 1.0

    def __call__(self, costs: FloatArray) -> Float64Array:
        """Normalise costs (n,); NaN, a missing modality, stays NaN."""
        normalised: Float64Array = (costs.astype(np.float64) - self.zero) / self.unit
        return normalised


def cost_scales(scores: Scores, config: PlanConfig, source: str) -> tuple[CostScale, ...]:
    """The normalisation of each column `<source>_<m>` by `relative`; empty if there is none.

    Raises DataError if the scores lack the metadata that it needs.
    """
    if config.relative == "none" or config.policy == "random":
        return ()
    if config.relative == "validation":
        num_classes = num_classes_of(scores)
        return tuple(
            CostScale(unit=implied_ability(accuracy, num_classes))
            for accuracy in validation_accuracies(scores)
        )
    return tuple(_spread(scores, f"{source}_{name}") for name in scores.modalities)


def _spread(scores: Scores, name: str) -> CostScale:
    """Mean and population SD over the rows that have the modality; an SD of 0 counts as 1."""

    def blocks() -> Iterator[Float64Array]:
        for block in scores.blocks():
            values = column(block, name).astype(np.float64)
            yield values[~np.isnan(values)]

    num = sum(len(block) for block in blocks())
    if not num:
        return CostScale()
    # fsum rounds once, so the result does not depend on the order of the rows
    mean = math.fsum(chain.from_iterable(block.tolist() for block in blocks())) / num
    variance = (
        math.fsum(chain.from_iterable(((block - mean) ** 2).tolist() for block in blocks())) / num
    )
    return CostScale(zero=mean, unit=math.sqrt(variance) or 1.0)


def implied_ability(accuracy: float, num_classes: int) -> float:
    """KL from uniform, in bits, of a calibrated predictor with this accuracy.

    It gives one class the probability `accuracy` and divides the rest evenly among the others.
    """
    if accuracy <= 1 / num_classes:
        return MIN_ABILITY
    terms = [(accuracy, accuracy), (1 - accuracy, (1 - accuracy) / (num_classes - 1))]
    logs = log(np.array([num_classes, *(p for share, p in terms if share)])).tolist()
    bits = (
        logs[0] + sum(share * value for (share, _), value in zip(terms, logs[1:], strict=False))
    ) / LN2
    return max(float(bits), MIN_ABILITY)


def above_chance(scores: Scores) -> list[float]:
    """Validation accuracy above chance of each modality, at least 0. Raises DataError."""
    num_classes = num_classes_of(scores)
    return [max(accuracy - 1 / num_classes, 0.0) for accuracy in validation_accuracies(scores)]


def num_classes_of(scores: Scores) -> int:
    """Number of classes. Raises DataError if it is not in the metadata."""
    if scores.num_classes is None:
        raise DataError(
            f"{scores.what}: metadata 'remix.num_classes' is missing",
            "add it, or plan without validation accuracy",
        )
    return scores.num_classes


def validation_accuracies(scores: Scores) -> Sequence[float]:
    """Validation accuracy of each modality. Raises DataError if it is not in the metadata."""
    accuracy = scores.metadata.get("validation_accuracy", {})
    for name in scores.modalities:
        if name not in accuracy:
            raise DataError(
                f"{scores.what}: metadata 'remix.validation_accuracy' lacks {name!r} (it has "
                f"{', '.join(accuracy) or 'none'}); relative and shares 'validation' read it",
                "use scores that training wrote after an epoch, "
                "or choose other values of relative and shares",
            )
    return [float(accuracy[name]) for name in scores.modalities]
