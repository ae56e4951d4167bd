"""Own encoders are imported by the workers of Ray Train."""

from pathlib import Path

import pytest

from pipeline.errors import MismatchError
from tests.support.stores import make_features, run_config
from trainer.launch import launch

SMALL = {"kind": "tests.support.own_models:Small", "args": {"size": 5}}


def test_two_workers_train_own_modules(tmp_path: Path, ray_cluster: None) -> None:
    make_features(tmp_path / "features" / "made", num_rows=100)
    config = run_config(
        tmp_path,
        model={"encoders": {"touch": SMALL, "sound": SMALL}},
        resources={"workers": 2},
        train={"epochs": 2, "warmup_epochs": 1},
    )
    run = launch(config)
    assert set(run.steps(1)["world_size"].to_pylist()) == {2}
    assert launch(config, resume=True).metadata == run.metadata
    run.update(extensions={SMALL["kind"]: {"package": None, "sha256": "0" * 64}})
    with pytest.raises(MismatchError, match="own_models:Small"):
        launch(config, resume=True)
