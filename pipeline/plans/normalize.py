"""What a modality's costs are measured against, since bits of two modalities need not be worth the same: a few numbers, found beforehand."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from pipeline.errors import DataError
from pipeline.plans.config import PlanConfig
from pipeline.portable_log import LN2, log
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import column

SMALLEST_WORTH = 0.01
"""Bits: of a modality whose accuracy is chance or below."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CostScale:
    """Where the costs of a modality have their zero, and their unit."""

    zero: float = 0.0
    unit: float = 1.0

    def __call__(self, costs: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """(n,) costs, NaN where the sample lacks the modality, in this measure."""
        measured: npt.NDArray[np.float64] = (costs.astype(np.float64) - self.zero) / self.unit
        return measured


def cost_scales(scores: Scores, config: PlanConfig, source: str) -> tuple[CostScale, ...]:
    """The measure of each modality's column `<source>_<m>` that `relative` asks for, none where it asks for none (raises DataError)."""
    if config.relative == "none" or config.policy == "random":
        return ()
    if config.relative == "validation":
        num_classes = num_classes_of(scores)
        return tuple(
            CostScale(unit=worth(accuracy, num_classes)) for accuracy in accuracies_of(scores)
        )
    return tuple(_spread(scores, f"{source}_{name}") for name in scores.modalities)


def _spread(scores: Scores, name: str) -> CostScale:
    """Mean and population SD of the rows that have the modality, both sums rounded once, so that no order of the rows matters; an SD of 0 counts as 1."""

    def values() -> Iterator[npt.NDArray[np.float64]]:
        for block in scores.blocks():
            found = column(block, name).astype(np.float64)
            yield found[~np.isnan(found)]

    num = sum(len(each) for each in values())
    if not num:
        return CostScale()
    mean = math.fsum(chain.from_iterable(each.tolist() for each in values())) / num
    variance = (
        math.fsum(chain.from_iterable(((each - mean) ** 2).tolist() for each in values())) / num
    )
    return CostScale(zero=mean, unit=math.sqrt(variance) or 1.0)


def worth(accuracy: float, num_classes: int) -> float:
    """Bits of ability of a prediction that gives one class this probability and spreads the rest evenly: what an honest one of that accuracy has."""
    if accuracy <= 1 / num_classes:
        return SMALLEST_WORTH
    terms = [(accuracy, accuracy), (1 - accuracy, (1 - accuracy) / (num_classes - 1))]
    logs = log(np.array([num_classes, *(p for share, p in terms if share)])).tolist()
    bits = (
        logs[0] + sum(share * each for (share, _), each in zip(terms, logs[1:], strict=False))
    ) / LN2
    return max(float(bits), SMALLEST_WORTH)


def above_chance(scores: Scores) -> list[float]:
    """By how much each modality's validation accuracy is above chance, 0 where it is not (raises DataError)."""
    num_classes = num_classes_of(scores)
    return [max(accuracy - 1 / num_classes, 0.0) for accuracy in accuracies_of(scores)]


def num_classes_of(scores: Scores) -> int:
    """The number of classes (raises DataError where the file does not say it)."""
    if scores.num_classes is None:
        raise DataError(
            f"{scores.what} does not say how many classes there are",
            "write metadata 'remix.num_classes', or plan without validation accuracy",
        )
    return scores.num_classes


def accuracies_of(scores: Scores) -> Sequence[float]:
    """The validation accuracy of each modality (raises DataError where the file does not say it)."""
    told = scores.metadata.get("validation_accuracy", {})
    for name in scores.modalities:
        if name not in told:
            raise DataError(
                f"{scores.what} does not say the validation accuracy of {name!r}, which relative or shares 'validation' need (metadata "
                f"'remix.validation_accuracy' has {', '.join(told) or 'none'})",
                "give scores that training wrote after an epoch, or choose other shares and another relative",
            )
    return [float(told[name]) for name in scores.modalities]
