"""Time to plan 10 million rows of two modalities, relative to NumPy's permutation of as many."""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from _report import report

from pipeline.plans.config import PlanConfig
from pipeline.plans.planner import build, remix_plan_builder
from pipeline.scores.table import Scores


def main() -> None:
    """Measure both sides in alternation and print the ratio of their medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    scores = Scores(_table(arguments.rows))

    def plan() -> list[pa.RecordBatch]:
        return list(remix_plan_builder(scores, PlanConfig(), 64, 0, 10).batches())

    sides: dict[str, Callable[[], object]] = {
        "plan": plan,
        "plan_with_fingerprint": lambda: build(remix_plan_builder(scores, PlanConfig(), 64, 0, 10)),
        "permutation": lambda: np.random.default_rng(0).permutation(arguments.rows),
    }
    before = _peak_gib()
    plan()
    peak = _peak_gib()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.repeats):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    report(
        "plan",
        median["plan"] / median["permutation"],
        goal="at most 3",
        numerator={
            "what": "remix_plan_builder(...).batches(), seconds",
            "median": median["plan"],
            "all": seconds["plan"],
        },
        denominator={
            "what": "default_rng().permutation, seconds",
            "median": median["permutation"],
            "all": seconds["permutation"],
        },
        ratio_with_fingerprint=median["plan_with_fingerprint"] / median["permutation"],
        rows=arguments.rows,
        peak_gib={"before": before, "with_plan": peak},
    )


def _table(num_rows: int) -> pa.Table:
    draw = np.random.default_rng(0)
    sample_id = pa.array(["sample"]).take(pa.array(np.zeros(num_rows, np.int8)))
    table = {
        "row": np.arange(num_rows),
        "sample_id": sample_id,
        "label": draw.integers(0, 10, num_rows, np.int32),
    }
    for name, strength in (("audio", 3.0), ("video", 2.0)):
        table[f"kl_{name}"] = draw.random(num_rows, np.float32) * np.float32(strength)
    return pa.table(table)


def _peak_gib() -> float:
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1024 if sys.platform == "darwin" else 1
    )
    return round(kib / 2**20, 3)


if __name__ == "__main__":
    main()
