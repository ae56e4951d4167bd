"""Intervals, paired tests and Holm's correction, on literal numbers."""

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from trainer.comparison.run_result import RunResult
from trainer.comparison.statistics import holm, mcnemar_p, paired_tests, spread


def result(method: str, seed: int, fused: float, assembled: float) -> RunResult:
    return RunResult(
        run=f"{method}{seed}",
        method=method,
        seed=seed,
        accuracy={"fused": fused, "assembled": assembled},
        zero_mask={},
        correct={kind: np.array([True, False]) for kind in ("fused", "assembled")},
        tuned={},
        tested_epoch=3,
        in_warmup=False,
        readout="late",
        cost={},
        epochs=pa.table({}),
    )


def test_the_interval_is_students() -> None:
    # t of 2 degrees of freedom is 4.302653 at 97.5%; SD 0.02; 4.302653 * 0.02 / sqrt(3) = 0.049683
    interval = spread([0.70, 0.72, 0.74])
    assert interval["each"] == [0.70, 0.72, 0.74]
    del interval["each"]
    assert interval == pytest.approx(
        {"mean": 0.72, "sd": 0.02, "low": 0.670317, "high": 0.769683}, abs=1e-6
    )
    assert spread([0.7]) == {"mean": 0.7, "sd": None, "low": None, "high": None, "each": [0.7]}


def test_holm_multiplies_by_the_number_of_tests_left() -> None:
    # sorted: 0.005 * 4, 0.01 * 3, 0.03 * 2, then 0.04 * 1 < 0.06 before it
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_every_method_is_tested_against_the_reference_and_random() -> None:
    fused = {
        "joint_heads": [0.60, 0.62, 0.61],
        "random": [0.60, 0.64, 0.62],
        "remix": [0.70, 0.73, 0.69],
    }
    assembled = {
        "joint_heads": [0.80, 0.81, 0.82],
        "random": [0.81, 0.82, 0.83],  # the same difference for every seed
        "remix": [0.79, 0.83, 0.80],
    }
    results = [
        result(method, seed, fused[method][seed], assembled[method][seed])
        for seed in range(3)
        for method in fused
    ]
    tests = paired_tests(results, list(fused), "joint_heads")
    assert [(test["method"], test["against"], test["accuracy"]) for test in tests] == [
        ("random", "joint_heads", "fused"),
        ("random", "joint_heads", "assembled"),
        ("remix", "joint_heads", "fused"),
        ("remix", "joint_heads", "assembled"),
        ("remix", "random", "fused"),
        ("remix", "random", "assembled"),
    ]
    constant = tests.pop(1)
    assert [constant[key] for key in ("p", "p_holm")] == [None, None]
    assert constant["difference"]["mean"] == pytest.approx(0.01)
    assert constant["difference"]["low"] is constant["difference"]["high"] is None
    for test in tests:
        own, base = (
            (fused if test["accuracy"] == "fused" else assembled)[method]
            for method in (test["method"], test["against"])
        )
        expected = stats.ttest_rel(own, base)
        low, high = expected.confidence_interval()
        difference = test["difference"]
        assert difference["mean"] == pytest.approx(np.subtract(own, base).mean())
        assert (difference["low"], difference["high"]) == pytest.approx((low, high))
        assert test["p"] == pytest.approx(expected.pvalue)
    assert [test["p_holm"] for test in tests] == pytest.approx(
        stats_holm([test["p"] for test in tests])
    )


def stats_holm(p: list[float]) -> list[float]:
    """Holm's correction from its definition: the largest of the products up to each p."""
    return [
        min(1, max(each * sum(other >= each for other in p) for each in p if each <= own))
        for own in p
    ]


def test_one_seed_has_no_test_over_seeds() -> None:
    results = [result("joint_heads", 0, 0.6, 0.8), result("remix", 0, 0.7, 0.7)]
    fused, assembled = paired_tests(results, ["joint_heads", "remix"], "joint_heads")
    assert fused["difference"]["mean"] == pytest.approx(0.1)
    assert assembled["difference"]["mean"] == pytest.approx(-0.1)
    assert fused["p"] is fused["p_holm"] is fused["difference"]["low"] is None


def test_mcnemar_is_the_binomial_test_on_discordant_samples() -> None:
    first, second = (
        np.array([1, 1, 1, 1, 0, 0, 1, 0], bool),
        np.array([0, 0, 0, 1, 1, 0, 0, 0], bool),
    )
    assert mcnemar_p(first, second) == pytest.approx(
        2 * sum(stats.binom.pmf(k, 5, 0.5) for k in (4, 5))
    )
    assert mcnemar_p(first, first) == 1.0
