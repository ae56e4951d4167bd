"""Policies other than the paper's, compared with independent computations and used in a run."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import parse
from pipeline.errors import ConfigError, DataError, MismatchError
from pipeline.plans.assign import assign
from pipeline.plans.config import PlanConfig
from pipeline.plans.normalize import implied_ability
from pipeline.portable_log import log
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import write_table
from pipeline.storage.metadata import encode_metadata
from pipeline.storage.store_path import StorePath
from tests.support.plan_tables import arithmetic_costs, scores_table
from tests.support.refusals import refused
from tests.support.stores import make_features, run_config, same_weights
from trainer.launch import check, launch
from trainer.run_directory import Run
from trainer.verification.verify import verify

METADATA = {"num_classes": 5, "validation_accuracy": {"m0": 0.9, "m1": 0.4, "m2": 0.1}}


def scores_of(costs: np.ndarray, **metadata: object) -> Scores:
    return Scores(scores_table(costs).replace_schema_metadata(encode_metadata(metadata)))


def with_smooth(costs: np.ndarray, smooth: np.ndarray, **metadata: object) -> pa.Table:
    table = scores_table(costs).replace_schema_metadata(encode_metadata(metadata))
    for k in range(costs.shape[1]):
        table = table.append_column(f"smooth_m{k}", pa.array(smooth[:, k].astype(np.float32)))
    return table


def last_argmin(costs: np.ndarray) -> np.ndarray:
    return costs.shape[1] - 1 - np.argmin(np.nan_to_num(costs, nan=np.inf)[:, ::-1], axis=1)


@pytest.mark.parametrize("policy", ["kl", "easy", "loss"])
def test_spread_standardises_each_modality_over_the_rows_that_have_it(policy: str) -> None:
    costs = arithmetic_costs(4001, 3, missing=True) * np.array([1, 3, 0.1], np.float32)
    costs[:, 2] += 1
    expected = (costs / 2 if policy == "loss" else costs).astype(np.float64)
    expected = (expected - np.nanmean(expected, axis=0)) / np.nanstd(expected, axis=0)
    sign = -1 if policy == "easy" else 1
    chosen = assign(scores_of(costs), PlanConfig(policy=policy, relative="spread"), 0, 0)
    best = np.nanmin(sign * expected, axis=1)
    np.testing.assert_allclose(sign * expected[np.arange(len(costs)), chosen], best, atol=1e-6)
    assert (chosen != assign(scores_of(costs), PlanConfig(policy=policy), 0, 0)).mean() > 0.1


def test_spread_of_constant_scores() -> None:
    costs = np.stack([np.full(50, 0.3), np.linspace(0, 1, 50)], axis=1).astype(np.float32)
    chosen = assign(scores_of(costs), PlanConfig(relative="spread"), 0, 0)
    np.testing.assert_array_equal(chosen, np.linspace(0, 1, 50) <= 0.5)


@pytest.mark.parametrize("num_classes", [2, 6, 1000])
def test_implied_ability_is_the_ability_of_a_calibrated_prediction(num_classes: int) -> None:
    for accuracy in (1 / num_classes + 0.3, 0.99, 1.0):
        p = np.full(num_classes, (1 - accuracy) / (num_classes - 1))
        p[0] = accuracy
        bits = math.log2(num_classes) + (p[p > 0] * np.log2(p[p > 0])).sum()
        assert implied_ability(accuracy, num_classes) == pytest.approx(bits, rel=1e-12)
    assert (
        implied_ability(1 / num_classes, num_classes) == implied_ability(0.0, num_classes) == 0.01
    )


def test_relative_validation_divides_by_the_implied_ability() -> None:
    costs = arithmetic_costs(3000, 3, missing=True)
    units = [implied_ability(accuracy, 5) for accuracy in METADATA["validation_accuracy"].values()]
    chosen = assign(scores_of(costs, **METADATA), PlanConfig(relative="validation"), 0, 0)
    np.testing.assert_array_equal(chosen, last_argmin(costs.astype(np.float64) / units))
    assert np.bincount(chosen, minlength=3)[2] < np.bincount(last_argmin(costs), minlength=3)[2]


@pytest.mark.parametrize(
    ("options", "target"),
    [({}, [0.7 / 0.9, 0.2 / 0.9, 0]), ({"min_share": 0.25}, [0.5, 0.25, 0.25])],
)
def test_shares_by_validation(options: dict[str, object], target: list[float]) -> None:
    config = parse(PlanConfig, {"shares": "validation", **options}, "test")
    chosen = assign(scores_of(arithmetic_costs(9000, 3), **METADATA), config, 0, 0)
    counts = np.bincount(chosen, minlength=3)
    assert (np.abs(counts - 9000 * np.array(target)) < 1).all()


def test_shares_by_validation_are_equal_if_no_modality_is_above_chance() -> None:
    chance = {"num_classes": 5, "validation_accuracy": dict.fromkeys(["m0", "m1", "m2"], 0.2)}
    scores = scores_of(arithmetic_costs(900, 3), **chance)
    counts = np.bincount(assign(scores, PlanConfig(shares="validation"), 0, 0))
    assert counts.tolist() == [300] * 3


def test_portable_log_is_accurate() -> None:
    wide, near = np.geomspace(1e-300, 1e300, 10_001), 1 + np.linspace(-0.3, 0.4, 10_001)
    values = np.concatenate([wide, near, [5e-324, 1.0, 1 - 2.0**-53]])
    np.testing.assert_allclose(log(values), np.log(values), rtol=7e-16, atol=0)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 30.0])
def test_soft_assignment_has_the_frequencies_of_the_gibbs_distribution(temperature: float) -> None:
    num = 20_000
    patterns = np.array([[0.3, 0.5, 1.1], [2.0, np.nan, 1.8], [0.7, 0.7, 0.7]], np.float32)
    scores = scores_of(np.repeat(patterns, num, axis=0))
    config = PlanConfig(temperature=temperature)
    chosen = assign(scores, config, 3, 4)
    for i, costs in enumerate(patterns.astype(np.float64)):
        odds = np.nan_to_num(np.exp(-costs / temperature))
        p = odds / odds.sum()
        counts = np.bincount(chosen[i * num : (i + 1) * num], minlength=3)
        assert (np.abs(counts - num * p) <= 4 * np.sqrt(num * p * (1 - p)) + 1e-9).all()
    assert (chosen != assign(scores, config, 3, 5)).any()


def test_tiny_temperature_changes_nothing_and_shares_are_exact_at_any() -> None:
    costs = arithmetic_costs(6001, 3, missing=True)
    scores = scores_of(costs)
    cold = assign(scores, PlanConfig(temperature=1e-12), 0, 0)
    np.testing.assert_array_equal(cold, last_argmin(costs))
    for config in (
        PlanConfig(temperature=0.5, shares="equal"),
        PlanConfig(temperature=5, min_share=0.33, relative="spread"),
        PlanConfig(temperature=1e6, shares="equal"),
    ):
        chosen = assign(scores, config, 0, 0)
        assert np.bincount(chosen, minlength=3).min() >= 6001 * 0.33
        assert not np.isnan(costs[np.arange(6001), chosen]).any()


def test_easy_takes_the_highest_ability_and_smoothing_reads_smoothed_scores() -> None:
    costs = arithmetic_costs(2000, 2, missing=True)
    smooth = np.where(np.isnan(costs), np.nan, costs[::-1])
    smooth = np.where(np.isnan(smooth) & ~np.isnan(costs), 0.25, smooth)
    scores = Scores(with_smooth(costs, smooth, smoothing=0.5))
    for config, expected in (
        (PlanConfig(smoothing=0.5), smooth),
        (PlanConfig(policy="easy", smoothing=0.5), -smooth),
        (PlanConfig(policy="easy"), -costs),
        (PlanConfig(), costs),
    ):
        np.testing.assert_array_equal(assign(scores, config, 0, 0), last_argmin(expected))
    with refused(MismatchError, "smoothing", 0.5, 0.9):
        assign(scores, PlanConfig(smoothing=0.9), 0, 0)


KNOWN = {"num_classes": 5}
LACKING: list[tuple[dict[str, object], dict[str, object], str]] = [
    ({"smoothing": 0.5}, {}, "smooth_m0 smoothing 0.5"),
    ({"relative": "validation"}, KNOWN, "m0 remix.validation_accuracy"),
    ({"shares": "validation"}, KNOWN | {"validation_accuracy": {"m0": 0.5}}, "m1"),
    ({"shares": "validation"}, {"validation_accuracy": {"m0": 0.5}}, "remix.num_classes"),
]


@pytest.mark.parametrize(("config", "metadata", "words"), LACKING)
def test_missing_columns_and_metadata_of_a_policy(
    config: dict[str, object], metadata: dict[str, object], words: str
) -> None:
    scores = scores_of(arithmetic_costs(10, 2), **metadata)
    with refused(DataError, *words.split()):
        assign(scores, parse(PlanConfig, config, "test"), 0, 0)


@pytest.mark.parametrize("field", [{"relative": "validation"}, {"smoothing": 0.1}])
def test_policy_loss_refuses_options_that_need_abilities(field: dict[str, object]) -> None:
    with refused(ConfigError, "loss", *field):
        parse(PlanConfig, {"policy": "loss", **field}, "test")


def test_normalisation_does_not_change_the_random_policy() -> None:
    scores = scores_of(arithmetic_costs(500, 3))
    plain = assign(scores, PlanConfig(policy="random"), 1, 2)
    for field in ({"relative": "spread"}, {"smoothing": 0.1}, {"temperature": 2.0}):
        config = parse(PlanConfig, {"policy": "random", **field}, "test")
        np.testing.assert_array_equal(assign(scores, config, 1, 2), plain)


@pytest.mark.parametrize("value", [9.0, np.nan])
def test_smoothed_scores_are_checked_like_others(tmp_path: Path, value: float) -> None:
    costs = arithmetic_costs(20, 2)
    smooth = costs.copy()
    smooth[3, 1] = value
    path = StorePath.at(tmp_path) / "scores.arrow"
    write_table(path, with_smooth(costs, smooth, num_classes=5, smoothing=0.5))
    with refused(DataError, 3, "smooth_m1", value, file=path):
        Scores.open(path)


def test_a_run_with_all_options_verifies_and_resumes_exactly(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", missing=0.1)
    options = {"smoothing": 0.6, "temperature": 0.2, "min_share": 0.1}
    options |= {"relative": "validation", "shares": "validation"}
    train = {"epochs": 5, "scores": "cross_fitted"}
    plain = run_config(tmp_path, plan=options, train=train)
    launch(plain)
    run = Run.open(plain.run_path)
    assert verify(run)["problems"] == []

    first, second = (Scores.open(run.scores(epoch)) for epoch in (2, 3))
    rows = run.epochs().to_pylist()
    for name in first.modalities:
        accuracy = second.metadata["validation_accuracy"][name]
        assert accuracy == rows[2][f"validation_accuracy_{name}"]
        before, now = (each.table[f"smooth_{name}"].to_numpy() for each in (first, second))
        np.testing.assert_array_equal(before, first.kl(name))
        mean = 0.6 * before.astype(np.float64) + 0.4 * second.kl(name).astype(np.float64)
        np.testing.assert_allclose(now, mean, rtol=1e-7)

    def stop(event: dict[str, object]) -> None:
        if (event["event"], event["epoch"], event.get("step")) == ("step", 3, 4):
            raise KeyboardInterrupt

    broken = run_config(tmp_path, plan=options, train=train, name="broken")
    with pytest.raises(KeyboardInterrupt):
        launch(broken, progress=stop)
    launch(broken, resume=True)
    assert same_weights(run, Run.open(broken.run_path))


@pytest.mark.parametrize("field", [{"relative": "validation"}, {"shares": "validation"}])
def test_policy_that_needs_validation_is_refused_before_training(
    tmp_path: Path, field: dict[str, object]
) -> None:
    features = make_features(tmp_path / "features" / "made")
    named = (f"plan.{next(iter(field))}", "validation", "train.warmup_epochs", 0)
    with refused(ConfigError, *named):
        check(run_config(tmp_path, plan=field, train={"warmup_epochs": 0}), features)
