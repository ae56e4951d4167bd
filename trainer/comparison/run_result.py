"""What one finished run came to, and the tests between two methods over seeds and over samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import stats

from trainer.comparison.cost import Meter, cost_of
from trainer.comparison.methods import trains_heads
from trainer.config import RunConfig
from trainer.models.model import FUSED
from trainer.run_directory import Run

Accuracy = dict[str, float | None]
TINY = 1e-9
"""Below what one sample can change in an accuracy, above what rounding does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """What one finished run came to."""

    method: str
    seed: int
    accuracy: Accuracy  # head -> test accuracy, None where no test sample has the modality or its head was not trained
    zero_mask: Accuracy  # modality -> that of the fused head when it shows alone; empty without diagnostics
    correct: npt.NDArray[np.bool_]  # (n,) the fused head on each test sample
    cost: dict[str, Any]  # as cost_of
    epochs: pa.Table


def run_result_of(run: Run, config: RunConfig, method: str, meter: Meter, since: int) -> RunResult:
    """Reads a finished run of a method; `since` as for cost_of."""
    test, result = run.test(), run.facts["result"]
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
    """Mean, SD (n - 1; null of one value) and the values themselves."""
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "each": list(values),
    }


def paired_tests(outcomes: Sequence[RunResult], methods: Sequence[str]) -> list[dict[str, Any]]:
    """Per pair of methods: the difference of fused test accuracy, Student's paired t-test over seeds, and the exact McNemar test over samples for each seed."""
    by = {(outcome.method, outcome.seed): outcome for outcome in outcomes}
    seeds = sorted({outcome.seed for outcome in outcomes})
    tests = []
    for first, second in combinations(methods, 2):
        pairs = [(by[first, seed], by[second, seed]) for seed in seeds]
        found = spread([(b.accuracy[FUSED] or 0.0) - (a.accuracy[FUSED] or 0.0) for a, b in pairs])
        differs = np.ptp(found["each"]) > TINY
        tests.append(
            {
                "pair": f"{second} - {first}",
                "difference": found["mean"],
                "sd": found["sd"],
                "paired_t_p": float(stats.ttest_1samp(found["each"], 0.0).pvalue)
                if differs
                else None,
                "mcnemar_p": [mcnemar_p(a.correct, b.correct) for a, b in pairs],
            }
        )
    return tests


def mcnemar_p(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """The exact two-sided McNemar test on two methods' right answers over the same samples."""
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)
