"""Training on a GPU agrees with training on CPUs. Skipped where there is no GPU."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.arrays import FloatArray
from pipeline.features.feature_set import FeatureSet
from pipeline.storage.arrow_files import read_table
from tests.support.ranks import on_two_ranks
from tests.support.stores import interrupt, make_features, run_config, weights
from trainer import loop
from trainer.config import RunConfig
from trainer.launch import launch
from trainer.process_group import World
from trainer.run_directory import Run
from trainer.verification.verify import verify

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
# with Adam, differences of the last bits in the first steps grow into differences of the weights
SGD: dict[str, Any] = {"kind": "sgd", "lr": 0.01}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    make_features(folder / "features" / "made", missing=0.2, num_rows=400)
    return folder


def on_gpu(store: Path, name: str, **changes: Any) -> RunConfig:
    return run_config(
        store, name=name, **{"optimizer": SGD, "resources": {"use_gpu": True}} | changes
    )


def on_cpu(store: Path, **changes: Any) -> RunConfig:
    return run_config(store, name="cpu", optimizer=SGD, resources={"use_gpu": False}, **changes)


def scores(run: Run, epoch: int) -> dict[str, FloatArray]:
    table = read_table(run.scores(epoch))
    return {name: table[name].to_numpy() for name in table.column_names if name.startswith("kl_")}


def check_equal(first: Run, second: Run) -> None:
    """The runs have the same scores before the first plan, and the same losses while joint."""
    before, after = scores(first, 2), scores(second, 2)
    assert before.keys() == after.keys()
    for name, values in before.items():
        # on GPUs, convolutions have the 10-bit mantissas of TF32
        np.testing.assert_allclose(values, after[name], rtol=0.1, atol=0.01)
    losses = [run.epochs()["train_loss"].to_numpy()[:2] for run in (first, second)]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    for run in (first, second):
        assert verify(run)["ok"]


def test_a_gpu_trains_what_a_cpu_trains(store: Path) -> None:
    check_equal(launch(on_cpu(store)), launch(on_gpu(store, "gpu", train={"assemble": True})))


def train_on_gpu(world: World, config: RunConfig) -> None:
    features = FeatureSet.open(config.features_path)
    loop.train(config, Run.open(config.run_path), features, replace(world, device=torch.device(0)))


def test_two_ranks_on_one_gpu_train_what_one_trains(store: Path, tmp_path: Path) -> None:
    config = on_gpu(store, "ranks")
    Run.create(config, FeatureSet.open(config.features_path))
    on_two_ranks(tmp_path, train_on_gpu, config)
    alone = launch(on_gpu(store, "alone"))
    check_equal(alone, Run.open(config.run_path))
    first, second = weights(alone), weights(Run.open(config.run_path))
    assert all(torch.allclose(first[key].cpu(), second[key].cpu(), atol=0.05) for key in first)


@pytest.mark.parametrize("train", [{"amp": "bf16"}, {"compile": True}])
def test_mixed_precision_and_compilation_learn_alike(store: Path, train: dict[str, Any]) -> None:
    name = next(iter(train))
    plain = launch(on_gpu(store, f"without-{name}"))
    run = launch(on_gpu(store, f"with-{name}", train=train))
    losses = [each.epochs()["train_loss"].to_numpy()[:2] for each in (plain, run)]
    np.testing.assert_allclose(*losses, rtol=0.05)
    assert verify(run)["ok"]


def test_a_run_continues_on_a_cpu(store: Path) -> None:
    straight = launch(on_gpu(store, "straight"))
    interrupt(on_gpu(store, "moved"), epoch=2, step=2)
    moved = launch(on_gpu(store, "moved", resources={"use_gpu": False}), resume=True)
    np.testing.assert_allclose(
        straight.epochs()["train_loss"].to_numpy(),
        moved.epochs()["train_loss"].to_numpy(),
        rtol=1e-2,
    )
    assert verify(moved)["ok"]


@pytest.mark.usefixtures("ray_cluster")
def test_a_ray_worker_trains_on_a_gpu(store: Path) -> None:
    config = on_gpu(store, "ray", resources={"use_gpu": True, "workers": 1})
    check_equal(launch(on_gpu(store, "here")), launch(config))
