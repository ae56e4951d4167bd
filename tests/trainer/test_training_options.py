"""Options of the training loop: schedules, averages of weights, accumulation and early stopping."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from pipeline.features.feature_set import FeatureSet
from tests.support.ranks import on_two_ranks
from tests.support.stores import (
    check_coverage,
    interrupt,
    make_features,
    run_config,
    same_weights,
    weights,
)
from trainer import loop
from trainer.config import RunConfig
from trainer.cost import Meter
from trainer.data.part_prefetcher import open_features
from trainer.launch import launch
from trainer.models import checkpoint as checkpoints
from trainer.optimizer_config import OptimizerConfig
from trainer.process_group import World
from trainer.run_directory import Run
from trainer.schedule import is_converged
from trainer.scoring.metrics import ClassMetrics
from trainer.scoring.offline import load
from trainer.scoring.predictor import evaluate
from trainer.verification.verify import verify

STILL: dict[str, Any] = {"kind": "sgd", "lr": 1e-30}
"""An optimizer that changes no weight, so that no epoch is better than the first."""
ALL_OPTIONS: dict[str, Any] = {
    "optimizer": {"kind": "adam", "lr": 0.01, "schedule": "one_cycle", "lr_warmup_epochs": 1.5},
    "train": {
        "accumulate": 2,
        "ema": 0.9,
        "label_smoothing": 0.1,
        "class_weights": "balanced",
        "auroc": True,
    },
    "model": {
        "encoders": {
            "sound": {
                "kind": "cnn",
                "width": 4,
                "norm": "group",
                "frequency_mask": 0.3,
                "time_mask": 0.3,
                "time_shift": 0.2,
            }
        }
    },
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    make_features(store / "features" / "made", missing=0.2)
    return store


# schedules


def rates_of(config: OptimizerConfig, plans: list[int]) -> list[float]:
    """The learning rates of epochs of so many steps."""
    num = len(plans)
    return [
        config.learning_rate(epoch, step, steps, (epoch / num, (epoch + 1) / num))
        for epoch, steps in enumerate(plans)
        for step in range(steps)
    ]


@pytest.mark.parametrize(
    ("schedule", "tolerance"),
    [("cosine", 1e-9), ("one_cycle", 0.01)],  # torch's cycle has its peak a step earlier
)
def test_equal_epochs_have_the_rates_of_torch(schedule: Any, tolerance: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler: LRScheduler = (
        CosineAnnealingLR(optimizer, T_max=1000)
        if schedule == "cosine"
        else OneCycleLR(optimizer, max_lr=0.1, total_steps=1000)
    )
    expected = []
    for _ in range(1000):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        if len(expected) < 1000:
            scheduler.step()
    rates = rates_of(OptimizerConfig(lr=0.1, schedule=schedule), [100] * 10)
    assert rates == pytest.approx(expected, abs=0.1 * tolerance)


def test_a_schedule_ends_with_the_run_whatever_the_plans() -> None:
    config = OptimizerConfig(lr=1.0, schedule="cosine", lr_warmup_epochs=1.5)
    rates = rates_of(config, [4, 2, 8])
    assert rates[:4] == pytest.approx([1 / 6, 1 / 3 * 0.983, 0.5 * 0.933, 2 / 3 * 0.854], rel=1e-3)
    assert rates[5] == pytest.approx(0.5)  # half of the run, after the warm-up
    assert rates[6:] == sorted(rates[6:], reverse=True)
    assert rates[-1] < 0.02


def test_a_budget_ends_the_schedule(store: Path) -> None:
    base = {"optimizer": {"schedule": "cosine"}}
    config = run_config(store, name="long", train={"epochs": 3}, **base)
    launch(config)
    flops = Meter(config, FeatureSet.open(config.features_path)).training(Run(config.run_path))
    train = {"epochs": 50, "budget": {"flops": float(flops)}}
    run = launch(run_config(store, name="budget", train=train, **base))
    rates = run.epochs()["learning_rate"].to_pylist()
    assert len(rates) == 3
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.03 * rates[0]


# averages of weights


def test_the_average_is_validated_and_written(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", num_rows=60)
    common: dict[str, Any] = {"resources": {"checkpoint_every": 1}}
    train: dict[str, Any] = {"epochs": 1, "warmup_epochs": 1, "batch_size": 24}
    plain = launch(run_config(tmp_path, name="plain", train=train, **common))
    config = run_config(tmp_path, name="ema", train={**train, "ema": 0.75}, **common)
    run = launch(config)
    steps = run.epochs()["num_steps"][0].as_py()
    assert steps == 2
    first = interrupt(run_config(tmp_path, name="first", train=train, **common), epoch=0, step=1)
    last = checkpoints.load(run.checkpoint("last"))
    for key, value in weights(plain).items():
        torch.testing.assert_close(last["trained"][key], value, rtol=0, atol=0)
        average = 0.75 * weights(first)[key] + 0.25 * value
        torch.testing.assert_close(last["model"][key], average)
    predict = load(run.checkpoint("best"), features := FeatureSet.open(config.features_path))
    expected = evaluate(predict, features, "validation", 32, World())
    assert run.epochs()["validation_loss"][0].as_py() == pytest.approx(expected.loss, rel=1e-6)


# all of them at once


@pytest.mark.parametrize(("epoch", "step"), [(0, 3), (2, 4), (3, 1)])
def test_a_run_with_all_options_resumes_to_the_same_bits(
    store: Path, epoch: int, step: int
) -> None:
    name = "complete"
    complete = run_config(store, name=name, **ALL_OPTIONS)
    one = launch(complete, resume=True)
    config = run_config(store, name=f"stopped-{epoch}", **ALL_OPTIONS)
    interrupt(config, epoch, step)
    run = launch(config, resume=True)
    assert same_weights(one, run)
    states = [checkpoints.load(each.checkpoint("last"))["trained"] for each in (one, run)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    check_coverage(run, 4)
    assert run.metadata["result"] == one.metadata["result"]
    assert verify(run)["ok"]


def test_an_epoch_of_small_steps_is_one_large_step(store: Path) -> None:
    base: dict[str, Any] = {"method": "joint_heads", "optimizer": {"kind": "sgd", "lr": 0.05}}
    one = launch(run_config(store, name="large", train={"batch_size": 500}, **base))
    assert one.epochs()["num_steps"].to_pylist() == [1] * 4
    train = {"batch_size": 8, "accumulate": 500}
    small = launch(run_config(store, name="small", train=train, **base))
    assert small.epochs()["num_steps"][0].as_py() > 10
    for key, value in weights(one).items():
        torch.testing.assert_close(weights(small)[key], value, rtol=1e-3, atol=1e-4)


def work(world: World, config: RunConfig, tested: Run, path: Path) -> None:
    loop.train(config, Run.open(config.run_path), open_features(config), world)
    features = open_features(config)
    metrics = ClassMetrics(features, world, auroc=True)
    predict = load(tested.checkpoint("best"), features)
    evaluate(predict, features, "test", 16, world, None, metrics)
    result = metrics.result()
    if world.is_rank_zero:
        path.write_text(json.dumps(result))


def test_two_ranks_train_and_measure_as_one(tmp_path: Path) -> None:
    features = make_features(tmp_path / "features" / "made", missing=0.2, num_rows=150)
    options = {**ALL_OPTIONS, "optimizer": {"kind": "sgd", "lr": 0.05, "schedule": "cosine"}}
    plan = {"order": "mixed"}
    one = launch(run_config(tmp_path, name="one", plan=plan, **options))
    config = run_config(tmp_path, name="two", plan=plan, **options)
    run = Run.create(config, features)
    path = tmp_path / "metrics.json"
    on_two_ranks(tmp_path, work, config, one, path)
    check_coverage(run, 4)
    for key, value in weights(one).items():
        torch.testing.assert_close(weights(run)[key], value, rtol=1e-3, atol=1e-4)
    expected = {key: one.metadata["result"][key] for key in ("metrics", "confusion")}
    assert json.loads(path.read_text()) == expected


# early stopping


def test_a_run_ends_after_epochs_without_a_better_one(store: Path) -> None:
    train = {"epochs": 9, "patience": 2}
    config = run_config(store, name="patient", optimizer=STILL, train=train)
    run = interrupt(config, epoch=4, step=3)
    assert launch(config, resume=True) == run
    result = run.metadata["result"]
    assert run.metadata["status"] == "finished"
    # the warm-up's epochs 0 and 1 cannot be tested; 3 and 4 are no better than 2
    assert (result["best_epoch"], result["stopped_epoch"]) == (2, 4)
    assert len(run.epochs()) == 5
    assert verify(run)["ok"]


def test_a_race_is_decided_before_a_run_ends(store: Path) -> None:
    # every modality stops with epoch 4, as the run itself does, and the race takes two epochs
    train = {"epochs": 12, "patience": 2}
    run = launch(run_config(store, name="raced", method="auto", optimizer=STILL, train=train))
    assert [(race.path / "result.json").exists() for race in run.races()] == [True]
    assert run.metadata["result"]["stopped_epoch"] == 6
    assert verify(run)["ok"]


def test_epochs_in_which_handover_trains_modalities_alone_do_not_count() -> None:
    config = run_config(
        Path("store"), method="handover", train={"epochs": 20, "warmup_epochs": 1, "patience": 3}
    )
    names = ["sound", "sight"]

    def history_of(policies: list[str], sight: list[float]) -> list[dict[str, Any]]:
        return [
            {
                "epoch": epoch,
                "policy": policy,
                "progress": (epoch + 1) / 20,
                "best_epoch": 1,
                "calibrated_loss_sound": 1.0,
                "calibrated_loss_sight": loss,
            }
            for epoch, (policy, loss) in enumerate(zip(policies, sight, strict=True))
        ]

    falling = [2.0 - 0.1 * epoch for epoch in range(10)]
    joint, pure = ["joint"] * 4, ["pure"] * 4

    def converged(policies: list[str], sight: list[float]) -> bool:
        return is_converged(config, names, history_of(policies, sight), "handover")

    assert not converged(joint + pure, falling[:8])  # the next epoch trains sight alone
    still = [*falling[:4], *[1.7] * 8]
    assert not converged([*joint, *pure, *["joint"] * 2], still[:10])
    assert converged([*joint, *pure, *["joint"] * 3], still[:11])
