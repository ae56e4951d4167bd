"""An equal training budget for every method: what the reference spends with the same seed."""

from typing import Literal

import numpy as np

from trainer.comparison.run_result import RunResult
from trainer.comparison.tuning import Values, with_values
from trainer.config import RunConfig

BudgetKind = Literal["epochs", "flops", "seconds"]
UNITS = {"epochs": "epochs", "flops": "FLOPs", "seconds": "seconds"}
"""Names of the budgets in tables."""
MAX_EPOCHS = 20
"""Maximum number of epochs within a budget, as a multiple of the configured number."""
TOLERANCE = 0.01
"""Budgets that differ by less than this share are called equal."""


def budget_values(kind: BudgetKind, spent: float, epochs: int) -> Values:
    """The fields of a run that ends when it has spent as much; none for the kind `epochs`.

    Args:
        spent: FLOPs or seconds.
        epochs: The configured number of epochs.
    """
    if kind == "epochs":
        return {}
    return {"train.epochs": MAX_EPOCHS * epochs, f"train.budget.{kind}": spent}


def within_budget(config: RunConfig, kind: BudgetKind, reference: RunResult) -> RunConfig:
    """The configuration of a run that spends what the reference's run has spent."""
    return with_values(config, budget_values(kind, spent(kind, reference), config.train.epochs))


def spent(kind: BudgetKind, result: RunResult) -> float:
    """What the training loop of a run has spent: FLOPs, seconds or epochs, with validation."""
    if kind == "flops":
        return float(result.cost["flops"])
    if kind == "seconds":
        return float(np.sum(result.epochs["epoch_seconds"].to_numpy()))
    return float(len(result.epochs))
