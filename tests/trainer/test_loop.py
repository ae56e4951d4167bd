"""The training loop: coverage, exact resumption, logs, and errors."""

import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, InputError, RemixError
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import read_table
from tests.support.stores import (
    check_coverage,
    interrupt,
    make_features,
    run_config,
    same_weights,
    weights,
)
from trainer.launch import launch
from trainer.process_group import World
from trainer.run_directory import Run
from trainer.scoring.offline import load
from trainer.scoring.predictor import evaluate


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    make_features(store / "features" / "made", missing=0.2)
    return store


@pytest.fixture(scope="module")
def finished(store: Path) -> Run:
    return launch(run_config(store, name="finished"))


def test_every_planned_row_is_trained_exactly_once(store: Path, finished: Run) -> None:
    features = FeatureSet.open(run_config(store).features_path)
    check_coverage(finished, 4)
    for epoch in range(4):
        rows = np.concatenate([step.rows for step in BatchPlan.open(finished.plan(epoch)).steps()])
        assert sorted(rows.tolist()) == features.rows_of("train").tolist()


def test_warm_up_is_joint_and_the_rest_is_modality_pure(store: Path, finished: Run) -> None:
    features = FeatureSet.open(run_config(store).features_path)
    for epoch in range(4):
        steps = list(BatchPlan.open(finished.plan(epoch)).steps())
        if epoch < 2:
            assert {step.modality for step in steps} == {"all"}
            assert not finished.scores(epoch).exists()
            continue
        scores = Scores.open(finished.scores(epoch))
        scores.check_features(features)
        kl = np.stack([scores.kl(name) for name in scores.modalities], axis=1)
        hardest = {
            int(row): scores.modalities[int(np.nanargmin(values))]
            for row, values in zip(scores.rows, kl, strict=True)
        }
        assert all(hardest[row] == step.modality for step in steps for row in step.rows.tolist())


def test_epochs_and_test_are_recorded(store: Path, finished: Run) -> None:
    epochs = finished.epochs().to_pylist()
    assert [row["epoch"] for row in epochs] == [0, 1, 2, 3]
    assert {row["num_rows"] for row in epochs} == {epochs[0]["num_rows"]}
    assert all(row["rho"] >= 1 and row["samples_per_second"] > 0 for row in epochs)
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    shares = [epochs[3][f"share_{name}"] for name in ("sound", "sight", "touch")]
    assert sum(shares) == pytest.approx(1)
    assert epochs[2]["churn"] is None
    assert 0 <= epochs[3]["churn"] <= 1
    result, test = finished.metadata["result"], read_table(finished.path / "test.arrow")
    best = min(epochs[2:], key=lambda row: row["calibrated_loss"])
    assert result["best_epoch"] == best["epoch"] == epochs[3]["best_epoch"]
    assert [row["best_epoch"] for row in epochs[:3]] == [None, None, 2]
    for name in ("sound", "sight", "touch"):
        own = min(epochs, key=lambda row: row[f"calibrated_loss_{name}"])
        assert epochs[3][f"best_epoch_{name}"] == own["epoch"]
    right = test["predicted_fused"].to_numpy() == test["label"].to_numpy()
    assert result["test_accuracy"]["fused"] == right.mean()
    assert (test["p_predicted_fused"].to_numpy() >= test["p_label_fused"].to_numpy()).all()
    assert test.num_rows == len(FeatureSet.open(run_config(store).features_path).rows_of("test"))
    assert list((finished.path.local / "tensorboard").glob("events*"))


def test_the_weights_do_not_depend_on_the_cores_of_the_machine(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made")
    # large enough for torch to use several threads
    model = {"encoder": {"kind": "cnn", "width": 32}, "encoders": {}}
    train = {"epochs": 1, "warmup_epochs": 1, "batch_size": 64}
    runs = []
    for num in (1, 2):
        torch.set_num_threads(num)
        runs.append(launch(run_config(tmp_path, name=f"threads-{num}", model=model, train=train)))
    torch.set_num_threads(1)
    assert same_weights(*runs)


@pytest.mark.parametrize(("epoch", "step"), [(0, 0), (1, 5), (2, 4)])
def test_a_run_that_stops_after_any_step_resumes_to_the_same_bits(
    store: Path, finished: Run, epoch: int, step: int
) -> None:
    config = run_config(store, name=f"stopped-{epoch}")
    interrupt(config, epoch, step)
    run = launch(config, resume=True)
    assert same_weights(finished, run)
    check_coverage(run, 4)
    timeless = [name for name in run.epochs().column_names if "second" not in name]
    assert run.epochs().select(timeless).equals(finished.epochs().select(timeless))


def test_a_run_that_died_before_its_plan_had_a_name_writes_all_of_it_again(
    store: Path, finished: Run
) -> None:
    config = run_config(store, name="nameless")
    run = interrupt(config, epoch=2)
    assert [run.steps(epoch).num_rows for epoch in (0, 1)] == [
        len(finished.open_plan(epoch)) for epoch in (0, 1)
    ]
    hidden = run.plan(2).parent / f".{run.plan(2).name}"
    for path in (hidden, run.plan_stats(2), run.plan_index(2)):
        path.write_bytes(b"cut sh")
    run.plan(2).delete()
    assert same_weights(finished, launch(config, resume=True))
    for each in (Run.plan, Run.plan_index, Run.plan_stats):
        assert each(run, 2).read_bytes() == each(finished, 2).read_bytes()


def test_invalid_runs_are_refused(store: Path, finished: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\bfinished\b"):
        launch(run_config(store, name="finished"))
    again = launch(run_config(store, name="finished", resources={"prefetch": 1}), resume=True)
    assert again.metadata["result"] == finished.metadata["result"]
    with pytest.raises(ConfigError, match=r"(?=.*train\.batch_size)(?=.*\b2\b)(?=.*\b3\b)"):
        launch(run_config(store, name="tiny", train={"batch_size": 2}, resources={"workers": 3}))
    with pytest.raises(
        ConfigError, match=r"(?=.*\bsmell\b)(?=.*\bsound\b)(?=.*\bsight\b)(?=.*\btouch\b)"
    ):
        launch(run_config(store, name="tiny", model={"encoders": {"smell": {}}}))
    assert not (store / "runs" / "tiny").exists()


@pytest.mark.parametrize(
    ("fusion", "mask"),
    [("sum", "input"), ("decision", "skip"), ("film", "feature"), ("gated", "skip")],
)
def test_fusions_and_masks_train(store: Path, fusion: str, mask: str) -> None:
    model, train = {"fusion": fusion, "mask": mask}, {"epochs": 2, "warmup_epochs": 1}
    clipped = {"clip_norm": 1.0}
    run = launch(run_config(store, name=fusion, model=model, train=train, optimizer=clipped))
    assert all(torch.isfinite(value).all() for value in weights(run).values())


def test_a_run_is_trained_by_one_process_at_a_time(store: Path) -> None:
    config = run_config(store, name="held", train={"epochs": 2, "warmup_epochs": 1})
    run = Run.create(config, FeatureSet.open(config.features_path))
    host = re.escape(platform.node())
    said = rf"(?=.*\bheld\b)(?=.*\b{os.getpid()}\b)(?=.*\b{host}\b)(?=.*\b20\d\d-)"
    with run.lock(), pytest.raises(InputError, match=said):
        launch(config, resume=True)
    assert launch(config, resume=True).metadata["status"] == "finished"


def test_a_run_of_a_killed_process_can_be_continued_and_reports_it(store: Path) -> None:
    config = run_config(store, name="orphan", train={"epochs": 2, "warmup_epochs": 1})
    run = Run.create(config, FeatureSet.open(config.features_path))
    dead = {
        "pid": 4,
        "host": "far",
        "since": "2026-01-01T00:00:00+00:00",
        "command": "remix train run.yaml",
    }
    (run.path / ".lock").write_json(dead)  # over several lines, as nothing of ours is
    events: list[dict[str, Any]] = []
    launch(config, resume=True, progress=events.append)
    assert "took_over" not in run.metadata
    assert "takeover" not in {event["event"] for event in events}
    run.update(status="created")
    (run.path / ".lock").write_bytes(json.dumps(dead).encode() + b"\n")
    launch(config, resume=True, progress=events.append)
    assert run.metadata["took_over"] == dead
    (takeover,) = [event for event in events if event["event"] == "takeover"]
    assert takeover.keys() == {"event", "text"}
    assert all(str(each) in takeover["text"] for each in dead.values())
    assert (run.path / ".lock").read_bytes() == b""


def test_a_model_that_diverges_is_named_and_leaves_no_scores(store: Path) -> None:
    config = run_config(
        store,
        name="diverged",
        optimizer={"kind": "sgd", "lr": 1e30},
        train={"epochs": 2, "warmup_epochs": 1},
    )
    with pytest.raises(
        RemixError,
        match=r"(?=.*\b1\b)(?=.*\b(sound|sight|touch)\b)(?=.*\bNaN\b)(?=.*optimizer\.lr)",
    ):
        launch(config)
    run = Run(config.run_path)
    assert run.metadata["status"] == "failed"
    assert not run.scores(1).exists()
    assert not run.plan(1).exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_an_error(store: Path) -> None:
    with pytest.raises(ConfigError, match=r"resources\.use_gpu"):
        launch(run_config(store, name="gpu", resources={"use_gpu": True}))
    assert not (store / "runs" / "gpu").exists()


def test_bf16_trains_another_model_and_scores_it_offline_as_in_training(store: Path) -> None:
    runs = [
        launch(run_config(store, name=amp, train={"amp": amp, "epochs": 2, "warmup_epochs": 1}))
        for amp in ("off", "bf16")
    ]
    assert not same_weights(*runs)
    features = FeatureSet.open(run_config(store).features_path)
    predict = load(runs[1].checkpoint("last"), features)
    found = evaluate(predict, features, "validation", 32, World())
    assert runs[1].epochs()["validation_loss"][-1].as_py() == pytest.approx(found.loss, rel=1e-6)
