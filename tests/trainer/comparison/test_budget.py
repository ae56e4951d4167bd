"""Equal budgets: what the reference spends with a seed, the others may spend with that seed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.storage.store_path import StorePath
from tests.support.stores import make_features, run_config
from trainer.comparison.budget import budget_values
from trainer.comparison.compare import compare
from trainer.comparison.parallel import train_at_once
from trainer.config import RunConfig
from trainer.launch import launch
from trainer.run_directory import Run


def test_a_budget_ends_training_before_20_times_the_epochs() -> None:
    assert budget_values("epochs", 30.0, 30) == {}
    assert budget_values("flops", 1e9, 30) == {"train.epochs": 600, "train.budget.flops": 1e9}
    assert budget_values("seconds", 7.5, 4) == {"train.epochs": 80, "train.budget.seconds": 7.5}


def test_every_method_spends_the_flops_of_the_reference(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", num_rows=200)
    config = run_config(tmp_path, name="c", train={"epochs": 4, "warmup_epochs": 1})
    trained: list[RunConfig] = []

    def train(each: RunConfig) -> Run:
        trained.append(each)
        return launch(each, resume=True)

    result = compare(config, ["remix", "joint_heads"], [0], train, budget="flops")
    joint, remix, unimodal = trained
    assert joint.train.model_dump() == config.train.model_dump()
    [base] = [row for row in result["methods"] if row["method"] == "joint_heads"]
    for each in (remix, unimodal):
        dumped = each.train.model_dump()
        assert dumped["epochs"] == 80
        assert dumped["budget"] == {"flops": base["cost"]["flops"], "seconds": None}
    for row in result["methods"]:
        assert row["budget_ratio"]["each"] == pytest.approx([1.0], abs=0.05)
    assert compare(config, ["remix", "joint_heads"], [0], budget="flops") == result


def test_equal_epochs_are_the_default_and_runs_can_train_at_the_same_time(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", num_rows=60)
    config = run_config(tmp_path, name="c", train={"epochs": 1, "warmup_epochs": 0})
    finished: list[tuple[int, int]] = []

    def train_ahead(configs: Sequence[RunConfig]) -> None:
        train_at_once(configs, 2, lambda done, total: finished.append((done, total)))

    result = compare(config, ["remix"], [0, 1], train_ahead=train_ahead)
    assert finished == [(1, 2), (2, 2)] * 2
    assert result["budget"] == "epochs"
    for row in result["methods"]:
        assert row["budget_ratio"] == {"median": 1.0, "each": [1.0, 1.0]}
        for run in row["runs"]:
            epochs = Run.open(StorePath.at(tmp_path / "runs" / run)).epochs()
            assert np.array_equal(epochs["epoch"], [0])
