"""Two ranks, in processes of their own: a run that began on one, and batch normalisation."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.features.feature_set import FeatureSet
from tests.support.ranks import on_two_ranks
from tests.support.stores import check_coverage, interrupt, make_features, run_config
from trainer import loop
from trainer.config import RunConfig
from trainer.data.part_prefetcher import open_features
from trainer.launch import launch
from trainer.process_group import World
from trainer.run_directory import Run
from trainer.scoring.offline import load
from trainer.scoring.predictor import evaluate


def train(world: World, config: RunConfig) -> None:
    loop.train(config, Run.open(config.run_path), open_features(config), world)


def test_a_run_that_stops_in_mid_epoch_goes_on_with_two_ranks(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", missing=0.2, num_rows=150)
    sgd = {"kind": "sgd", "lr": 0.01}
    one = launch(run_config(tmp_path, name="one", optimizer=sgd))
    config = run_config(tmp_path, name="elastic", optimizer=sgd)
    run = interrupt(config, epoch=1, step=3)
    on_two_ranks(tmp_path, train, config)
    check_coverage(run, 4)
    assert run.steps(1)["world_size"].to_pylist()[:4] == [1, 1, 1, 2]
    assert set(run.steps(2)["world_size"].to_pylist()) == {2}
    assert run.plan(1).read_bytes() == one.plan(1).read_bytes()
    np.testing.assert_allclose(
        run.steps(1)["loss"].to_numpy(), one.steps(1)["loss"].to_numpy(), rtol=1e-4
    )


def test_ranks_with_batch_norm_validate_the_model_that_is_saved(tmp_path: Path) -> None:
    features = make_features(tmp_path / "features" / "made", missing=0.2, num_rows=150)
    small = {"kind": "cnn", "width": 4, "norm": "batch"}
    config = run_config(
        tmp_path,
        name="norm",
        model={"encoder": small, "encoders": {}},
        train={"epochs": 2, "warmup_epochs": 1},
    )
    run = Run.create(config, features)
    on_two_ranks(tmp_path, train, config)
    predict = load(run.checkpoint("last"), FeatureSet.open(config.features_path))
    expected = evaluate(predict, features, "validation", 32, World())
    assert run.epochs()["validation_loss"][-1].as_py() == pytest.approx(expected.loss, rel=1e-5)
