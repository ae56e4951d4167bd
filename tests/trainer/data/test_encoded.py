"""Frozen encoders run once: their features are stored, shared, resumed, and change no result."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.own_models import Counted
from tests.support.ranks import on_two_ranks
from tests.support.stores import interrupt, make_features, run_config, same_weights, weights
from trainer import loop
from trainer.config import RunConfig
from trainer.data.augment import is_augmented
from trainer.data.part_prefetcher import open_features
from trainer.launch import launch
from trainer.models.encoder_config import EncoderConfig
from trainer.process_group import World
from trainer.run_directory import Run

CNN = {"kind": "cnn", "width": 4, "norm": "group"}
SGD = {"kind": "sgd", "lr": 0.01, "weight_decay": 0}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make_features(tmp_path / "features" / "made", missing=0.2, num_rows=150)
    return tmp_path


def run_of(store: Path, name: str, sound: dict[str, Any], **changes: Any) -> RunConfig:
    """A run whose modality `sound` has this encoder."""
    model = {"encoders": {"sound": sound}, **changes.pop("model", {})}
    return run_config(store, name=name, model=model, optimizer=SGD, **changes)


def parts(store: Path) -> dict[str, bytes]:
    files = sorted((store / "encoded").rglob("*.arrow"))
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


def test_a_frozen_encoder_trains_what_one_that_hardly_learns_trains(store: Path) -> None:
    slow = launch(run_of(store, "slow", {**CNN, "lr_scale": 1e-30}, assemble=True))
    assert not parts(store)
    frozen = launch(run_of(store, "frozen", {**CNN, "freeze": True}, assemble=True))
    assert len(parts(store)) == 3
    for name in ("last", "best", "model"):
        torch.testing.assert_close(weights(frozen, name), weights(slow, name))
    for column in ("validation_loss", "validation_accuracy_sound"):
        np.testing.assert_allclose(
            frozen.epochs()[column].to_numpy(), slow.epochs()[column].to_numpy(), rtol=1e-4
        )


@pytest.mark.parametrize("freeze", [True, False])
def test_a_frozen_encoder_encodes_each_row_once(store: Path, freeze: bool) -> None:
    counted = {"kind": "tests.support.own_models:Counted", "freeze": freeze}
    Counted.num_rows = 0
    launch(run_of(store, "counted", counted))
    assert (Counted.num_rows < 2 * 150) == freeze


def test_runs_share_features_and_a_resumed_run_completes_them(store: Path) -> None:
    frozen = {**CNN, "freeze": True}
    one = launch(run_of(store, "one", frozen))
    written = parts(store)
    config = run_of(store, "two", frozen)
    interrupt(config, epoch=1, step=2)
    assert parts(store) == written
    (store / list(written)[1]).unlink()
    assert same_weights(launch(config, resume=True), one)
    assert parts(store) == written
    launch(run_of(store, "other", frozen, seed=1))
    assert len(parts(store)) == 2 * len(written)


@pytest.mark.parametrize("model", [{"mask": "input"}, {"fusion": "mmtm"}])
def test_an_output_that_depends_on_more_than_the_row_is_not_stored(
    store: Path, model: dict[str, Any]
) -> None:
    launch(run_of(store, "run", {**CNN, "freeze": True}, model=model))
    assert not parts(store)


def train(world: World, config: RunConfig) -> None:
    loop.train(config, Run.open(config.run_path), open_features(config), world)


def test_two_ranks_write_the_features_of_one(store: Path) -> None:
    frozen = {**CNN, "freeze": True}
    launch(run_of(store, "one", frozen))
    written = parts(store)
    for path in written:
        (store / path).unlink()
    config = run_of(store, "two", frozen)
    Run.create(config, open_features(config))
    on_two_ranks(store, train, config)
    assert parts(store) == written


@pytest.mark.parametrize(
    ("fields", "shape", "dtype", "augmented"),
    [
        ({}, (3, 8, 8), "uint8", False),
        ({"crop": True}, (3, 8, 8), "uint8", True),
        ({"flip": True}, (2, 3, 8, 8), "uint8", True),
        ({"flip": True}, (1, 8, 8), "float16", False),
        ({"frames": 2}, (2, 3, 8, 8), "uint8", False),
        ({"frames": 1}, (2, 3, 8, 8), "uint8", True),
        ({"time_shift": 0.1}, (1, 8, 8), "float16", True),
        ({"time_mask": 0.1}, (3, 8, 8), "uint8", False),
        ({"frequency_mask": 0.1}, (8,), "float32", False),
    ],
)
def test_what_may_differ_between_epochs(
    fields: dict[str, Any], shape: tuple[int, ...], dtype: str, augmented: bool
) -> None:
    assert is_augmented(EncoderConfig.model_validate(fields), shape, dtype) == augmented
