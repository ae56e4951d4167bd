"""A finished run, and a copy of it for every test."""

import shutil
from pathlib import Path

import pytest

from pipeline.storage.store_path import StorePath
from tests.support.stores import make_features, run_config
from trainer.launch import launch
from trainer.run_directory import Run

TRAIN = {"epochs": 5, "warmup_epochs": 2, "rescore_every": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a finished run that scores every second epoch; read only.

    Its learning rate is so high that each modality has another best epoch.
    """
    store = tmp_path_factory.mktemp("trained")
    make_features(store / "features" / "made", missing=0.2)
    launch(run_config(store, assemble=True, train=TRAIN, optimizer={"lr": 0.01}))
    return store


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    """A copy of the run, which the test may change."""
    shutil.copytree(trained, tmp_path / "store", ignore=shutil.ignore_patterns("tensorboard"))
    return Run.open(StorePath.at(tmp_path / "store" / "runs" / "run"))
