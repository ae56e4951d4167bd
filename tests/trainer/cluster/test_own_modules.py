"""Own encoders, policies and strategies are imported by the workers of Ray Train."""

from pathlib import Path

import pytest

from pipeline.errors import ConfigError, MismatchError, RemixError
from tests.support.stores import make_features, run_config
from trainer.config import RunConfig
from trainer.launch import launch
from trainer.run_directory import Run
from trainer.verification.verify import verify

SMALL = {"kind": "tests.support.own_models:Small", "args": {"size": 5}}
COST = "tests.support.own_steps:cost"
STEP = "tests.support.own_steps:StopsOnce"


def own(store: Path) -> RunConfig:
    """A run of two workers with an own encoder, policy and strategy."""
    return run_config(
        store,
        model={"encoders": {"touch": SMALL, "sound": SMALL}},
        plan={"policy": COST},
        resources={"workers": 2, "max_failures": 0, "checkpoint_every": 1},
        train={"epochs": 2, "warmup_epochs": 1, "strategy": STEP},
    )


def test_two_workers_train_and_resume_with_own_modules(tmp_path: Path, ray_cluster: None) -> None:
    make_features(tmp_path / "features" / "made", num_rows=100)
    config = own(tmp_path)
    with pytest.raises(RemixError, match="a node is lost"):
        launch(config)
    assert Run.open(config.run_path).metadata["status"] == "failed"
    (tmp_path / "go").touch()
    run = launch(config, resume=True)
    assert set(run.steps(1)["world_size"].to_pylist()) == {2}
    assert verify(run)["ok"]
    recorded = run.metadata["extensions"]
    assert set(recorded) == {SMALL["kind"], COST, STEP}

    run.update(status="interrupted")
    other = {"package": None, "sha256": "0" * 64}
    for path in recorded:
        run.update(extensions={**recorded, path: other})
        with pytest.raises(MismatchError, match=path):
            launch(config, resume=True)
        run.update(extensions={**recorded, "absent_module:name": other})
        with pytest.raises(ConfigError, match="absent_module"):
            launch(config, resume=True)
