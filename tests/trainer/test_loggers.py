"""TensorBoard, Weights & Biases and MLflow: offline, through a resume, and when they fail."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.errors import ConfigError
from tests.support.stores import interrupt, make_features, run_config
from trainer.config import RunConfig
from trainer.launch import launch
from trainer.loggers import KINDS, check_loggers
from trainer.run_directory import Run

ALL = ["tensorboard", "wandb", "mlflow"]
OFFLINE = ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME")
EPOCHS = {"epochs": 3, "warmup_epochs": 1}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    for name in OFFLINE:
        monkeypatch.delenv(name, raising=False)
    make_features(tmp_path / "features" / "made", num_rows=60)
    return run_config(tmp_path, loggers=ALL, train=EPOCHS)


def test_all_loggers_continue_their_run_after_a_resume(config: RunConfig) -> None:
    run = interrupt(config, 2)
    losses = run.epochs()["train_loss"].to_pylist()
    ids = run.metadata["loggers"]
    launch(config, resume=True)
    losses += run.epochs()["train_loss"].to_pylist()[2:]
    metadata, folder = run.metadata, Path(run.path.path)
    assert metadata["loggers"] == ids and "logger_errors" not in metadata
    accuracy = metadata["result"]["test_accuracy"]["fused"]

    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    assert [event.value for event in board.Scalars("train_loss")] == pytest.approx(losses)
    assert board.Scalars("test_accuracy.fused")[0].value == pytest.approx(accuracy)
    assert "train.epochs: 3" in str(board.Tensors("hyperparameters/text_summary"))
    assert "_hparams_/session_start_info" in board.PluginTagToContent("hparams")

    client = MlflowClient(tracking_uri=(folder / "mlflow").as_uri())
    logged = client.get_run(ids["mlflow"])
    history = client.get_metric_history(ids["mlflow"], "train_loss")
    assert [(m.step, m.value) for m in history] == list(enumerate(losses))
    assert logged.data.params["train.epochs"] == "3" and logged.info.status == "FINISHED"
    assert logged.data.metrics["test_accuracy.fused"] == accuracy

    files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert {file.stem for file in files} == {f"run-{ids['wandb']}"}
    content = b"".join(file.read_bytes() for file in files)
    for name, value in [("test_accuracy.fused", accuracy), *(("train_loss", x) for x in losses)]:
        assert name.encode() in content and repr(value).encode() in content


class FailingLogger:
    """Fails at the second epoch."""

    def __init__(self, run: Run, parameters: dict[str, Any], epoch: int) -> None:
        pass

    def epoch(self, epoch: int, values: dict[str, float]) -> None:
        if epoch == 1:
            raise ConnectionError(f"server is gone: {os.environ['MLFLOW_TRACKING_URI']}/api")
        assert epoch == 0, "it was ended"

    def finish(self, results: dict[str, float] | None) -> None:
        raise AssertionError("it was ended")


def test_a_failing_logger_ends_alone(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(KINDS, "wandb", FailingLogger)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@host")
    run = launch(config.model_copy(update={"loggers": ("wandb", "tensorboard")}))
    assert run.metadata["status"] == "finished"
    assert list(run.metadata["logger_errors"]) == ["wandb"]
    assert "gone: http://host/api" in run.metadata["logger_errors"]["wandb"]
    assert len([record for record in caplog.records if "server is gone" in record.message]) == 1
    board = EventAccumulator(str(Path(run.path.path) / "tensorboard"))
    board.Reload()
    assert len(board.Scalars("train_loss")) == 3


def test_without_loggers_nothing_is_imported_or_written(config: RunConfig) -> None:
    run = launch(config.model_copy(update={"loggers": ()}))
    assert {path.name for path in Path(run.path.path).iterdir()}.isdisjoint(ALL)


def test_a_missing_package_is_refused_before_work_starts(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()  # as wandb leaves in the current folder
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb")
    with pytest.raises(ConfigError, match=r"(?=.*'wandb')(?=.*data-remixing\[wandb\])"):
        launch(config.model_copy(update={"loggers": ("wandb",)}))
    assert not (tmp_path / "runs").exists()


def test_mlflow_needs_a_server_for_a_remote_store(config: RunConfig) -> None:
    remote = config.model_copy(update={"store": "s3://bucket/store?region=us-east-1"})
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        check_loggers(remote)


def test_loggers_do_not_change_the_digest(tmp_path: Path) -> None:
    assert run_config(tmp_path, loggers=ALL).digest == run_config(tmp_path).digest
