"""Training on Ray: same batches; same weights to float tolerance; batch scores equal live ones.

The encoders, the policy and the strategy are the user's own: workers and actors import them.
"""

import logging
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, MismatchError, RemixError
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan
from pipeline.scores.build import score_rows
from pipeline.storage.arrow_files import read_table
from pipeline.storage.metadata import fingerprint, read_metadata
from pipeline.storage.store_path import StorePath
from tests.support.stores import check_coverage, make_features, run_config, weights
from trainer.cluster.ray_train import watched
from trainer.config import RunConfig
from trainer.launch import launch
from trainer.run_directory import Run
from trainer.scoring.offline import load, score_checkpoint
from trainer.verification.verify import verify

SMALL = {"kind": "tests.support.own_models:Small", "args": {"size": 5}}
COST = "tests.support.own_steps:cost"
STEP = "tests.support.own_steps:StopsOnce"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    make_features(store / "features" / "made", missing=0.2, num_rows=150)
    return store


def own(store: Path, name: str, **resources: object) -> RunConfig:
    """A run with an own encoder, policy and strategy."""
    return run_config(
        store,
        name=name,
        model={"encoders": {"touch": SMALL, "sound": SMALL}},
        plan={"policy": COST},
        optimizer={"kind": "sgd", "lr": 0.01},
        train={"strategy": STEP},
        resources=resources,
    )


@pytest.fixture(scope="module")
def one(store: Path) -> Run:
    return launch(own(store, "one"))


@pytest.fixture(scope="module")
def two(store: Path, ray_cluster: None) -> Run:
    """Stopped by a failure of the strategy in the last epoch, and resumed in this process."""
    with pytest.MonkeyPatch.context() as patch:
        # a store is often given by a relative path, and workers run elsewhere
        patch.chdir(store.parent)
        with pytest.raises(RemixError, match="a node is lost"):
            launch(own(Path(store.name), "two", workers=2, max_failures=0))
    run = Run.open(StorePath.at(store / "runs" / "two"))
    assert run.metadata["status"] == "failed"
    (store / "go").touch()
    return launch(own(store, "two"), resume=True)


def test_two_workers_train_what_one_trains(one: Run, two: Run) -> None:
    check_coverage(two, 4)
    assert verify(two)["ok"]
    for epoch in (0, 1):
        assert two.plan(epoch).read_bytes() == one.plan(epoch).read_bytes()
    assert [set(two.steps(epoch)["world_size"].to_pylist()) for epoch in (0, 2)] == [{2}, {2}]
    losses = [run.steps(epoch)["loss"].to_numpy() for run in (one, two) for epoch in (0, 1)]
    np.testing.assert_allclose(np.concatenate(losses[:2]), np.concatenate(losses[2:]), rtol=1e-4)
    for epoch in (2, 3):
        kl = [read_table(run.scores(epoch))["kl_sound"].to_numpy() for run in (one, two)]
        np.testing.assert_allclose(kl[0], kl[1], rtol=1e-3, atol=1e-4)
    first, second = weights(one), weights(two)
    if all(one.plan(epoch).read_bytes() == two.plan(epoch).read_bytes() for epoch in (2, 3)):
        assert all(torch.allclose(first[key], second[key], rtol=1e-3, atol=1e-5) for key in first)


def test_from_one_scores_file_any_world_size_runs_the_same_global_batches(
    store: Path, two: Run
) -> None:
    config = own(store, "again")
    shutil.copytree(two.path.local / "scores", config.run_path.local / "scores")
    again = launch(config)
    for epoch in range(4):
        assert again.plan(epoch).read_bytes() == two.plan(epoch).read_bytes()
        assert again.steps(epoch)["rows_hash"].equals(two.steps(epoch)["rows_hash"])
    assert set(again.steps(3)["world_size"].to_pylist()) == {1}
    for step in BatchPlan.open(two.plan(3)).steps():
        for world_size in (1, 2, 3):
            parts = [step.for_rank(rank, world_size) for rank in range(world_size)]
            assert np.concatenate(parts).tolist() == step.rows.tolist()


def test_offline_scores_of_two_actors_are_those_of_this_process(
    store: Path, one: Run, ray_cluster: None
) -> None:
    features = FeatureSet.open(run_config(store).features_path)
    path, rows = one.checkpoint("last"), features.rows_of("train")
    table = score_checkpoint(
        features,
        path,
        "train",
        batch_size=32,
        workers=2,
        num_gpus=0,
        progress=lambda done, total: None,
    )
    metadata = read_metadata(table.schema)
    assert (metadata["epoch"], metadata["parents"]["features"]) == (4, features.fingerprint)
    assert table["row"].to_pylist() == rows.tolist()
    predict = load(path, features)
    for start in range(0, len(rows), 32):
        batch = rows[start : start + 32]
        assert fingerprint(score_rows(features, batch, predict(batch)), {}) == fingerprint(
            table.drop_columns("sample_id").slice(start, 32), {}
        )
    assert table["sample_id"].to_pylist() == [f"s{row:04d}" for row in rows]
    missing = ~features.has[rows, features.modalities.index("sight")]
    assert np.isnan(table["kl_sight"].to_numpy()).tolist() == missing.tolist()


def test_a_run_is_resumed_with_the_own_modules_that_it_began_with(one: Run) -> None:
    config, recorded = own(one.path.local.parents[1], "one"), one.metadata["extensions"]
    assert set(recorded) == {SMALL["kind"], COST, STEP}
    one.update(status="interrupted")
    other = {"package": None, "sha256": "0" * 64}
    for path in recorded:
        one.update(extensions={**recorded, path: other})
        with pytest.raises(MismatchError, match=path):
            launch(config, resume=True)
        one.update(extensions={**recorded, "absent_module:name": other})
        with pytest.raises(ConfigError, match="absent_module"):
            launch(config, resume=True)
    one.update(status="finished", extensions=recorded)


def test_progress_continues_after_a_read_error(
    one: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, events, seen = Run(StorePath.at(tmp_path)), list[dict[str, Any]](), threading.Event()
    (run.path / "epochs.arrow").write_bytes(b"cut")

    def report(event: dict[str, Any]) -> None:
        events.append(event)
        seen.set()

    with caplog.at_level(logging.WARNING, "remix.train"), watched(run, 9, report):
        assert not seen.wait(2.5)
        (run.path / "epochs.arrow").write_bytes((one.path / "epochs.arrow").read_bytes())
        assert seen.wait(20)
    assert [(event["epoch"], event["num_epochs"]) for event in events] == [
        (epoch, 9) for epoch in range(4)
    ]
    assert [str(tmp_path) in record.getMessage() for record in caplog.records] == [True]


def test_more_workers_than_the_machine_holds_are_refused(store: Path, ray_cluster: None) -> None:
    with pytest.raises(
        ConfigError, match=r"(?=.*resources\.workers)(?=.*\b16\b)(?=.*\bCPU\b)(?=.*\b2\b)"
    ):
        launch(run_config(store, name="many", resources={"workers": 16}))
    with pytest.raises(
        ConfigError,
        match=r"(?=.*resources\.workers)(?=.*\buse_gpu\b)(?=.*\bGPU\b)(?=.*\b2\b)(?=.*\b0\b)",
    ):
        launch(run_config(store, name="many", resources={"workers": 2, "use_gpu": True}))
    assert not (store / "runs" / "many").exists()
