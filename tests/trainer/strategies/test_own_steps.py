"""Policies and strategies by import path, in plans and in a run."""

from pathlib import Path

import numpy as np
import pytest

import remix
from pipeline.errors import ConfigError, MismatchError
from tests.support.own_modules import STEPS, write_module
from tests.support.plan_tables import scores_table
from tests.support.stores import make_features, run_config, same_weights
from trainer.config import RunConfig
from trainer.launch import launch
from trainer.verification.verify import verify

NAMES = ("sound", "sight")


@pytest.fixture(autouse=True)
def own_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_module(monkeypatch, tmp_path / "own", STEPS, "own_steps")


def scores(*costs: tuple[float, float]) -> remix.Scores:
    """Scores of two modalities, whose p_label is half of these costs."""
    return remix.Scores(scores_table(np.array(costs), names=NAMES))


def trained(plan: remix.BatchPlan) -> dict[str, list[int]]:
    return {
        name: sorted(
            row for step in plan.steps() if step.modality == name for row in step.rows.tolist()
        )
        for name in NAMES
    }


def test_a_row_trains_the_modality_of_lowest_own_cost() -> None:
    given = scores((0.2, 0.6), (0.8, 0.4), (np.nan, 0.9), (0.5, np.nan))
    plan = remix.plan(given, batch_size=2, policy="own_steps:cost")
    assert trained(plan) == {"sound": [0, 3], "sight": [1, 2]}
    assert plan.metadata["policy"] == "own_steps:cost"
    assert list(plan.metadata["extensions"]) == ["own_steps:cost"]
    equal = remix.plan(scores(*[(0.1, 0.9)] * 4), policy="own_steps:cost", shares="equal")
    assert [len(rows) for rows in trained(equal).values()] == [2, 2]


@pytest.mark.parametrize("name", ["centred", "one_cost", "absent", "HalfStep"])
def test_a_policy_that_is_no_function_of_each_row_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"own_steps:{name}"):
        remix.plan(scores((0.2, 0.6), (0.8, 0.4)), policy=f"own_steps:{name}")


@pytest.mark.parametrize("policy", ["kll", "own_steps", "own_steps:"])
def test_a_name_that_is_neither_known_nor_an_import_path_is_refused(policy: str) -> None:
    with pytest.raises(ConfigError, match="policy"):
        remix.plan(scores((0.2, 0.6)), policy=policy)


def test_a_run_with_both_is_verified_and_refuses_another_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_features(tmp_path / "features" / "made", num_rows=100)
    train = {"epochs": 2, "warmup_epochs": 1}
    run = launch(
        run_config(
            tmp_path,
            name="own",
            plan={"policy": "own_steps:cost"},
            train={**train, "strategy": "own_steps:HalfStep"},
        )
    )
    assert list(run.metadata["extensions"]) == ["own_steps:HalfStep", "own_steps:cost"]
    assert run.open_plan(1).metadata["policy"] == "own_steps:cost"
    assert verify(run)["ok"]
    assert not same_weights(run, launch(run_config(tmp_path, name="plain", train=train)))
    config = RunConfig.model_validate(run.metadata["config"])
    write_module(monkeypatch, tmp_path / "other", STEPS.replace("/ 2", "/ 3"), "own_steps")
    with pytest.raises(MismatchError, match="own_steps"):
        launch(config, resume=True)


def test_a_strategy_that_is_no_training_step_is_refused_before_work(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", num_rows=100)
    config = run_config(tmp_path, train={"strategy": "own_steps:cost"})
    with pytest.raises(ConfigError, match="own_steps:cost"):
        launch(config)
    assert not config.run_path.exists()
