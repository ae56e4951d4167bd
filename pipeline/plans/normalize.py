"""The unit of each modality's abilities, which makes those of different modalities comparable."""

import numpy as np

from pipeline.errors import DataError
from pipeline.portable_log import LN2, log
from pipeline.scores.table import Scores

MIN_ABILITY = 0.01
"""Bits; the ability implied by an accuracy at chance or below."""


def implied_abilities(scores: Scores) -> tuple[float, ...]:
    """The ability that the validation accuracy of each modality implies.

    Raises DataError if the scores lack the metadata.
    """
    if scores.num_classes is None:
        raise DataError(
            f"{scores.what}: metadata 'remix.num_classes' is missing",
            "add it, or set relative to none",
        )
    accuracy = scores.metadata.get("validation_accuracy", {})
    for name in scores.modalities:
        if name not in accuracy:
            raise DataError(
                f"{scores.what}: metadata 'remix.validation_accuracy' lacks {name!r} (it has "
                f"{', '.join(accuracy) or 'none'}); relative 'validation' reads it",
                "use scores that training wrote after an epoch, or set relative to none",
            )
    return tuple(implied_ability(accuracy[name], scores.num_classes) for name in scores.modalities)


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
