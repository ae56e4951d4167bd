"""Summaries over seeds of the methods of a comparison, and the baselines without training."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.features.feature_set import FeatureSet
from trainer.comparison.budget import BudgetKind, spent
from trainer.comparison.methods import TABLES
from trainer.comparison.run_result import RunResult
from trainer.comparison.statistics import spread


def summarise(
    results: Sequence[RunResult], methods: Sequence[str], reference: str, budget: BudgetKind
) -> list[dict[str, Any]]:
    """Summarise each method over seeds: test accuracies, tested epochs, and cost.

    Ratios to the reference are medians over seeds, each against its run of the same seed.
    """
    base = {result.seed: result for result in results if result.method == reference}
    return [
        _summary([result for result in results if result.method == method], base, budget)
        for method in methods
    ]


def _summary(
    own: Sequence[RunResult], base: dict[int, RunResult], budget: BudgetKind
) -> dict[str, Any]:
    mean = {key: float(np.mean([each.cost[key] for each in own])) for key in own[0].cost}
    ratio = {
        key: float(np.median([each.cost[key] / base[each.seed].cost[key] for each in own]))
        for key in ("seconds", "flops")
    }
    spending = [spent(budget, each) / spent(budget, base[each.seed]) for each in own]
    epochs = [each.tested_epoch for each in own]
    return {
        "method": own[0].method,
        "runs": [each.run for each in own],
        "tuned": own[0].tuned,
        "accuracy": _spreads([each.accuracy for each in own]),
        "zero_mask_accuracy": _spreads([each.zero_mask for each in own]),
        "tested_epoch": {
            "median": float(np.median(epochs)),
            "min": min(epochs),
            "max": max(epochs),
            "in_warmup": [each.run for each in own if each.in_warmup],
        },
        "num_steps": mean["num_steps"],
        "time_ratio": ratio["seconds"],
        "budget_ratio": {"median": float(np.median(spending)), "each": spending},
        "cost": {
            "expansion": mean["expansion"],
            "epoch_seconds": mean["epoch_seconds"],
            "flops": mean["flops"],
            "flops_ratio": ratio["flops"],
        },
    }


def _spreads(accuracies: Sequence[dict[str, float | None]]) -> dict[str, dict[str, Any]]:
    """The spread over seeds of each head's accuracy, without heads that a seed has none for."""
    by_head = {
        head: [value for by in accuracies if (value := by[head]) is not None]
        for head in accuracies[0]
    }
    return {
        head: spread(values) for head, values in by_head.items() if len(values) == len(accuracies)
    }


def baselines(features: FeatureSet) -> dict[str, Any]:
    """The size of the test split, and accuracies without a model: a random and the majority class.

    The majority class is the most frequent one of the train split, the first of several.
    """
    train, test = (features.labels[features.rows_of(split)] for split in ("train", "test"))
    majority = int(np.bincount(train).argmax())
    return {
        "num_test": len(test),
        "chance": 1 / len(features.classes),
        "majority": {
            "name": features.classes[majority],
            "accuracy": float(np.mean(test == majority)),
        },
    }


def tables_of(methods: Sequence[str]) -> dict[str, list[str]]:
    """The paper's tables to show and their rows, the methods that were trained.

    A table with fewer than two rows, or whose rows all appear in another table, is left out.
    """
    trained_rows = {
        name: [method for method in table if method in methods] for name, table in TABLES.items()
    }
    shown: dict[str, list[str]] = {}
    for name, rows in trained_rows.items():
        larger = any(set(rows) < set(other) for other in trained_rows.values())
        if len(rows) > 1 and not larger and set(rows) not in map(set, shown.values()):
            shown[name] = rows
    return shown
