"""Loggers of a run: TensorBoard, Weights & Biases, and MLflow.

A logger's package is imported if the run names it. An error of a logger ends that logger, not the
run: it is recorded in run.json, as `logger_errors`, and logged as a warning.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from pipeline.errors import ConfigError
from pipeline.storage.store_path import without_secrets
from trainer.config import NOT_IN_DIGEST, RunConfig
from trainer.run_directory import Run

LOG = logging.getLogger("remix.loggers")
PROJECT = "remix"
MAX_PARAMETER = 500
"""Characters of a parameter that all versions of MLflow store."""
Values = dict[str, Any]


class RunLogger(Protocol):
    """A logger, opened with the run, its hyperparameters and the epoch where training begins."""

    def __init__(self, run: Run, parameters: Values, epoch: int) -> None: ...

    def epoch(self, epoch: int, values: dict[str, float]) -> None:
        """Log the metrics of an epoch."""

    def finish(self, results: dict[str, float] | None) -> None:
        """Log the test results, None if training did not get there, and close the logger."""


class TensorBoardLogger:
    """Writes event files to RUN/tensorboard."""

    def __init__(self, run: Run, parameters: Values, epoch: int) -> None:
        from torch.utils import tensorboard  # takes half a second to import

        self._parameters = parameters
        folder = f"{run.path.path}/tensorboard"
        self._writer = tensorboard.SummaryWriter(folder, purge_step=epoch)
        lines = (f"    {name}: {value}" for name, value in parameters.items())
        self._writer.add_text("hyperparameters", "\n".join(lines))

    def epoch(self, epoch: int, values: dict[str, float]) -> None:
        """Write a scalar per metric."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def finish(self, results: dict[str, float] | None) -> None:
        """Write hyperparameters and results for the tab HParams, and the results as scalars."""
        if results is not None:
            self._writer.add_hparams(self._parameters, results, run_name=".")
        self._writer.close()


class WandbLogger:
    """Logs to Weights & Biases: offline, to RUN/wandb, unless WANDB_MODE is set."""

    def __init__(self, run: Run, parameters: Values, epoch: int) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.path.name,
            id=_continued(run, "wandb") or _remember(run, "wandb", uuid4().hex),
            resume="allow",
            dir=run.path.local,
            mode=None if os.environ.get("WANDB_MODE") else "offline",
            config=parameters,
            settings=wandb.Settings(silent=True, console="off"),
        )
        # not wandb's own step, which cannot go back to repeat an epoch after a resume
        self._run.define_metric("*", step_metric="epoch")

    def epoch(self, epoch: int, values: dict[str, float]) -> None:
        """Log the metrics over `epoch`."""
        self._run.log({"epoch": epoch, **values})

    def finish(self, results: dict[str, float] | None) -> None:
        """Write the results to the summary; a run that did not get there has failed."""
        self._run.summary.update(results or {})
        self._run.finish(exit_code=int(results is None))


class MlflowLogger:
    """Logs to MLflow: to files in RUN/mlflow unless MLFLOW_TRACKING_URI is set."""

    def __init__(self, run: Run, parameters: Values, epoch: int) -> None:
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            uri = Path(run.path.path, "mlflow").as_uri()
            # MLflow 3 prefers a database, which mlflow-skinny cannot write
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._client, self._metric = MlflowClient(tracking_uri=uri), Metric
        if known := _continued(run, "mlflow"):
            self._id = known
            self._client.update_run(self._id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else None
        created = self._client.create_run(
            experiment_id or self._client.create_experiment(name), run_name=run.path.name
        )
        self._id = _remember(run, "mlflow", created.info.run_id)
        for key, value in parameters.items():
            self._client.log_param(self._id, key, str(value)[:MAX_PARAMETER])

    def epoch(self, epoch: int, values: dict[str, float]) -> None:
        """Log the metrics with the epoch as their step."""
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, epoch) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def finish(self, results: dict[str, float] | None) -> None:
        """Log the results as metrics; a run that did not get there has failed."""
        self.epoch(0, results or {})
        self._client.set_terminated(self._id, "FAILED" if results is None else "FINISHED")


KINDS: dict[str, type[RunLogger]] = {
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
    "mlflow": MlflowLogger,
}


class Loggers:
    """The loggers that a run names; rank 0 has them."""

    def __init__(self, run: Run, config: RunConfig, epoch: int) -> None:
        self._run, self._open = run, dict[str, RunLogger]()
        parameters = dict(_flat(config.model_dump(mode="json", exclude=NOT_IN_DIGEST)))
        for name in dict.fromkeys(config.loggers):
            if name != "tensorboard" or run.path.local:
                with self._ending(name):
                    self._open[name] = KINDS[name](run, parameters, epoch)

    def epoch(self, epoch: int, row: Values) -> None:
        """Log the numbers in an epoch's row of epochs.arrow."""
        values = _numbers({name: value for name, value in row.items() if name != "epoch"})
        for name in list(self._open):
            with self._ending(name):
                self._open[name].epoch(epoch, values)

    def finish(self, result: Values | None) -> None:
        """Log the numbers in the result of a run, None if there is none, and close all loggers."""
        for name in list(self._open):
            with self._ending(name):
                self._open[name].finish(None if result is None else _numbers(result))

    @contextmanager
    def _ending(self, name: str) -> Iterator[None]:
        """End the logger if the block fails: whatever a package raises must not end training."""
        try:
            yield
        except Exception as error:
            self._open.pop(name, None)
            text = f"{type(error).__name__}: {error}"
            if uri := os.environ.get("MLFLOW_TRACKING_URI"):
                text = text.replace(uri, without_secrets(uri))
            errors = self._run.metadata.get("logger_errors", {})
            self._run.update(logger_errors={**errors, name: text})
            LOG.warning("%s: logger %s has ended (%s)", self._run.path, name, text)


def check_loggers(config: RunConfig) -> None:
    """Check that the packages of the loggers are installed, and have a place to write to.

    Raises ConfigError.
    """
    for name in config.loggers:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # a folder `wandb` is found as a namespace
            extra = "train" if name == "tensorboard" else name
            raise ConfigError(
                f"loggers: package {name!r} is not installed",
                f"pip install 'data-remixing[{extra}]'",
            )
    if "mlflow" in config.loggers and not (
        config.run_path.local or os.environ.get("MLFLOW_TRACKING_URI")
    ):
        raise ConfigError(
            f"loggers: mlflow cannot write files to {config.run_path}",
            "set MLFLOW_TRACKING_URI to a server",
        )


def _continued(run: Run, name: str) -> str | None:
    """The id under which a logger knows the run, if it was logged before."""
    return dict[str, str](run.metadata.get("loggers", {})).get(name)


def _remember(run: Run, name: str, known_as: str) -> str:
    run.update(loggers={**run.metadata.get("loggers", {}), name: known_as})
    return known_as


def _numbers(values: Values) -> dict[str, float]:
    return {name: value for name, value in _flat(values) if isinstance(value, int | float)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values by path, such as train.epochs; without those that are None, lists as text."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            simple = isinstance(value, bool | int | float | str)
            yield f"{prefix}{name}", value if simple else str(value)
