"""Policies other than the paper's, compared with independent computations and used in a run."""

import math
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError, DataError
from pipeline.plans.assign import assign
from pipeline.plans.config import PlanConfig
from pipeline.plans.normalize import implied_ability
from pipeline.portable_log import log
from pipeline.scores.table import Scores
from pipeline.storage.metadata import encode_metadata
from tests.support.plan_tables import arithmetic_costs, scores_table
from tests.support.refusals import refused
from tests.support.stores import make_features, run_config, same_weights
from trainer.launch import check, launch
from trainer.run_directory import Run
from trainer.verification.verify import verify

METADATA = {"num_classes": 5, "validation_accuracy": {"m0": 0.9, "m1": 0.4, "m2": 0.1}}


def scores_of(costs: np.ndarray, **metadata: object) -> Scores:
    return Scores(scores_table(costs).replace_schema_metadata(encode_metadata(metadata)))


def last_argmin(costs: np.ndarray) -> np.ndarray:
    return costs.shape[1] - 1 - np.argmin(np.nan_to_num(costs, nan=np.inf)[:, ::-1], axis=1)


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


def test_portable_log_is_accurate() -> None:
    wide, near = np.geomspace(1e-300, 1e300, 10_001), 1 + np.linspace(-0.3, 0.4, 10_001)
    values = np.concatenate([wide, near, [5e-324, 1.0, 1 - 2.0**-53]])
    np.testing.assert_allclose(log(values), np.log(values), rtol=7e-16, atol=0)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"num_classes": 5}, "m0 remix.validation_accuracy"),
        ({"num_classes": 5, "validation_accuracy": {"m0": 0.5}}, "m1 remix.validation_accuracy"),
        ({"validation_accuracy": {"m0": 0.5, "m1": 0.5}}, "remix.num_classes"),
    ],
)
def test_scores_without_the_metadata_of_relative_validation(
    metadata: dict[str, object], words: str
) -> None:
    scores = scores_of(arithmetic_costs(10, 2), **metadata)
    with refused(DataError, *words.split()):
        assign(scores, PlanConfig(relative="validation"), 0, 0)


def test_normalisation_does_not_change_the_random_policy() -> None:
    scores = scores_of(arithmetic_costs(500, 3))
    plain = assign(scores, PlanConfig(policy="random"), 1, 2)
    relative = PlanConfig(policy="random", relative="validation")
    np.testing.assert_array_equal(assign(scores, relative, 1, 2), plain)


def test_a_run_with_many_options_verifies_and_resumes_exactly(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", missing=0.1)
    options = {"relative": "validation", "shares": "equal", "joint_share": 0.2, "stratify": True}
    plain = run_config(tmp_path, plan=options, train={"epochs": 5})
    launch(plain)
    run = Run.open(plain.run_path)
    assert verify(run)["problems"] == []

    scores, rows = Scores.open(run.scores(3)), run.epochs().to_pylist()
    for name in scores.modalities:
        accuracy = scores.metadata["validation_accuracy"][name]
        assert accuracy == rows[2][f"validation_accuracy_{name}"]

    def stop(event: dict[str, object]) -> None:
        if (event["event"], event["epoch"], event.get("step")) == ("step", 3, 4):
            raise KeyboardInterrupt

    broken = run_config(tmp_path, plan=options, train={"epochs": 5}, name="broken")
    with pytest.raises(KeyboardInterrupt):
        launch(broken, progress=stop)
    launch(broken, resume=True)
    assert same_weights(run, Run.open(broken.run_path))


def test_relative_validation_without_warm_up_is_refused_before_training(tmp_path: Path) -> None:
    features = make_features(tmp_path / "features" / "made")
    config = run_config(tmp_path, plan={"relative": "validation"}, train={"warmup_epochs": 0})
    with refused(ConfigError, "plan.relative", "validation", "train.warmup_epochs", 0):
        check(config, features)
