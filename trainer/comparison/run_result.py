"""Results of one finished run, and statistical tests between two methods."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from pipeline.arrays import BoolArray
from trainer.comparison.methods import trains_heads
from trainer.config import RunConfig
from trainer.cost import Meter, cost_of
from trainer.models.model import FUSED
from trainer.run_directory import Run

Accuracy = dict[str, float | None]
TINY = 1e-9
"""Smaller than the change of an accuracy by one sample, larger than rounding errors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """Test results and cost of one finished run."""

    method: str
    seed: int
    accuracy: Accuracy
    """Test accuracy per head; None if no test sample has the modality, or it was not trained."""
    zero_mask: Accuracy
    """Test accuracy of the fused head with one modality only; empty without diagnostics."""
    correct: BoolArray
    """(n,) whether the fused head is right, per test sample."""
    cost: dict[str, Any]
    """As cost_of."""
    epochs: pa.Table
    """epochs.arrow of the run."""


def run_result_of(run: Run, config: RunConfig, method: str, meter: Meter, since: int) -> RunResult:
    """Read the result of a finished run; `since` as for cost_of."""
    test, result = run.test(), run.metadata["result"]
    trained = trains_heads(config)
    return RunResult(
        method=method,
        seed=config.seed,
        accuracy={
            head: value if trained or head == FUSED else None
            for head, value in result["test_accuracy"].items()
        },
        zero_mask=result.get("zero_mask_accuracy", {}),
        correct=test["predicted_fused"].to_numpy() == test["label"].to_numpy(),
        cost=cost_of(run, meter, since),
        epochs=run.epochs(),
    )


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None for a single value) and the values themselves."""
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "each": list(values),
    }


def paired_tests(results: Sequence[RunResult], methods: Sequence[str]) -> list[dict[str, Any]]:
    """Compare the fused test accuracy of every pair of methods.

    Student's paired t-test over seeds, and the exact McNemar test over samples for each seed.
    """
    by = {(result.method, result.seed): result for result in results}
    seeds = sorted({result.seed for result in results})
    tests = []
    for first, second in combinations(methods, 2):
        pairs = [(by[first, seed], by[second, seed]) for seed in seeds]
        differences = spread(
            [(b.accuracy[FUSED] or 0.0) - (a.accuracy[FUSED] or 0.0) for a, b in pairs]
        )
        differs = np.ptp(differences["each"]) > TINY
        tests.append(
            {
                "pair": f"{second} - {first}",
                "difference": differences["mean"],
                "sd": differences["sd"],
                "paired_t_p": float(stats.ttest_1samp(differences["each"], 0.0).pvalue)
                if differs
                else None,
                "mcnemar_p": [mcnemar_p(a.correct, b.correct) for a, b in pairs],
            }
        )
    return tests


def mcnemar_p(first: BoolArray, second: BoolArray) -> float:
    """p of the exact two-sided McNemar test, from which samples (n,) each method gets right."""
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)
