"""Method `auto` is joint_heads until a race is won; a budget ends a run where it is spent."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.features.feature_set import FeatureSet
from tests.support.stores import interrupt, make_features, run_config, same_weights
from trainer.config import RunConfig
from trainer.cost import Meter
from trainer.launch import launch
from trainer.run_directory import Run
from trainer.verification.verify import verify

EPOCHS = 9
SHAPES = {"touch": ((6,), "float32"), "pulse": ((4,), "float32")}
MODEL = {"encoder": {"kind": "mlp", "hidden": 16}, "encoders": {}}
LOST, WON = 5, 9
"""Seeds of runs whose race is lost and won."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    make_features(store / "features" / "made", SHAPES, num_rows=240)
    return store


def config_of(store: Path, method: str, seed: int, name: str = "run", **train: Any) -> RunConfig:
    changes = {"epochs": EPOCHS, "warmup_epochs": 1, **train}
    return run_config(
        store,
        name=f"{name}-{method}-{seed}",
        method=method,
        seed=seed,
        model=MODEL,
        optimizer={"lr": 0.03},
        train=changes,
    )


def races_of(run: Run) -> list[dict[str, Any]]:
    return [(path / "result.json").read_json() for path in (run.path / "races").list()]


def test_a_run_without_a_won_race_is_joint_heads_to_the_bit(store: Path) -> None:
    auto = launch(config_of(store, "auto", LOST))
    assert [race["won"] for race in races_of(auto)] == [False]
    assert set(auto.epochs()["schedule"].to_pylist()) == {"joint"}
    joint = launch(config_of(store, "joint_heads", LOST))
    assert same_weights(auto, joint)
    meter = Meter(config_of(store, "auto", LOST), FeatureSet.open(store / "features" / "made"))
    [race] = auto.races()
    assert race.planned() == [start := races_of(auto)[0]["epoch"], start + 1]
    assert meter.training(auto) == meter.training(joint) + meter.training(race)


def test_a_race_that_is_won_takes_over(store: Path) -> None:
    auto = launch(config_of(store, "auto", WON))
    last = races_of(auto)[-1]
    assert last["won"] and last["loss"] - last["loss_of_race"] > last["standard_error"]
    start = last["epoch"]
    assert auto.epochs()["epoch"].to_pylist() == [*range(EPOCHS)]
    schedules = ["joint"] * start + ["handover"] * (EPOCHS - start)
    assert auto.epochs()["schedule"].to_pylist() == schedules
    features = FeatureSet.open(store / "features" / "made")
    meter = Meter(config_of(store, "auto", WON), features)
    own = sum(meter.train(auto.open_plan(epoch)) for epoch in range(EPOCHS))
    replaced = [meter.train(auto.open_plan(start - 1))] * 2
    validation = meter.predict(features.rows_of("validation"))
    assert meter.training(auto) == own + sum(replaced) + (EPOCHS + 2) * validation
    assert verify(auto)["problems"] == []


@pytest.mark.parametrize("epoch", [6, 7, 8])
def test_a_run_that_stops_around_a_race_resumes_to_the_same_bits(store: Path, epoch: int) -> None:
    straight = launch(config_of(store, "auto", WON), resume=True)
    config = config_of(store, "auto", WON, name=f"stopped-{epoch}")
    interrupt(config, epoch, 1)
    assert same_weights(straight, launch(config, resume=True))


@pytest.mark.parametrize(
    ("method", "seed"),
    [("remix", WON), ("alternate", WON), ("handover", WON), ("auto", WON), ("auto", LOST)],
)
def test_a_budget_of_operations_is_spent_to_a_percent(store: Path, method: str, seed: int) -> None:
    features, joint = FeatureSet.open(store / "features" / "made"), "joint_heads"
    reference = config_of(store, joint, WON)
    spent = 2 * Meter(reference, features).training(launch(reference, resume=True))
    config = config_of(store, method, seed, name="budget", epochs=100, budget={"flops": spent})
    run = launch(config)
    assert method != "auto" or [race["won"] for race in races_of(run)][-1] == (seed == WON)
    assert Meter(config, features).training(run) == pytest.approx(spent, rel=0.01)
    progress = run.epochs()["progress"].to_pylist()
    assert progress == sorted(progress) and progress[-1] == 1.0 > progress[-2]
    assert verify(run)["problems"] == []
