"""Statistics over seeds: intervals, paired tests between methods, and their correction."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from pipeline.arrays import BoolArray
from trainer.comparison.methods import CONTROL
from trainer.comparison.run_result import KINDS, RunResult

TINY = 1e-9
"""Smaller than the change of an accuracy by one sample, larger than rounding errors."""


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation, 95% interval of the mean (Student's t), and the values.

    sd, low and high are None for a single value.
    """
    mean, several = float(np.mean(values)), len(values) > 1
    sd = float(np.std(values, ddof=1)) if several else None
    half = (
        float(stats.t.ppf(0.975, len(values) - 1)) * sd / len(values) ** 0.5
        if sd is not None
        else None
    )
    return {
        "mean": mean,
        "sd": sd,
        "low": None if half is None else mean - half,
        "high": None if half is None else mean + half,
        "each": list(values),
    }


def paired_tests(
    results: Sequence[RunResult], methods: Sequence[str], reference: str
) -> list[dict[str, Any]]:
    """Compare every method with the reference, and every other one with CONTROL.

    Student's paired t-test over seeds of the fused and of the assembled accuracy. p and the
    interval are None for a single seed, and if the difference is the same for all seeds. p_holm is
    corrected for all tests of the comparison (Holm 1979). mcnemar_p, one value per seed, is the
    exact McNemar test over test samples, without correction.
    """
    by = {(result.method, result.seed): result for result in results}
    seeds = sorted({result.seed for result in results})
    baselines = [name for name in dict.fromkeys((reference, CONTROL)) if name in methods]
    tests = [
        _test(kind, [(by[method, seed], by[against, seed]) for seed in seeds])
        for k, against in enumerate(baselines)
        for method in methods
        if method not in baselines[: k + 1]
        for kind in KINDS
        if all(result.accuracy.get(kind) is not None for result in results)
    ]
    tested = [test for test in tests if test["p"] is not None]
    for test, p in zip(tested, holm([test["p"] for test in tested]), strict=True):
        test["p_holm"] = p
    return tests


def _test(kind: str, pairs: Sequence[tuple[RunResult, RunResult]]) -> dict[str, Any]:
    """One entry of paired_tests; pairs are the runs of both methods with the same seed."""
    each = [float((own.accuracy[kind] or 0) - (base.accuracy[kind] or 0)) for own, base in pairs]
    difference, varies = spread(each), np.ptp(each) > TINY
    if not varies:
        difference |= {"low": None, "high": None}
    return {
        "method": pairs[0][0].method,
        "against": pairs[0][1].method,
        "accuracy": kind,
        "difference": difference,
        "p": float(stats.ttest_1samp(each, 0.0).pvalue) if varies else None,
        "p_holm": None,
        "mcnemar_p": [mcnemar_p(base.correct[kind], own.correct[kind]) for own, base in pairs],
    }


def holm(p: Sequence[float]) -> list[float]:
    """Holm's corrected p values: the k-th smallest of m is multiplied by m - k + 1, in order."""
    order, m = np.argsort(p, kind="stable"), len(p)
    corrected = np.empty(m)
    corrected[order] = np.maximum.accumulate(np.asarray(p)[order] * np.arange(m, 0, -1))
    return [float(value) for value in np.minimum(corrected, 1.0)]


def mcnemar_p(first: BoolArray, second: BoolArray) -> float:
    """p of the exact two-sided McNemar test, from which samples (n,) each method gets right."""
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)
