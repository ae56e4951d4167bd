"""Runs the training loop on N Ray Train workers; after a worker failure the group restarts from the
last checkpoint."""

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from pipeline.errors import MissingError, RemixError
from pipeline.ray_cluster import connect, require_resources
from pipeline.storage.store_path import StorePath
from trainer import config as configs
from trainer import loop
from trainer.cluster.train_worker import train_worker
from trainer.run_directory import Run

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG = logging.getLogger("remix.train")


def reserve(resources: configs.ResourcesConfig) -> bool:
    """Join or start Ray and check that it has the resources of a run. Raises ConfigError.

    Returns whether each worker gets a GPU; with `auto`, if the cluster has enough.
    """
    connect()
    num = resources.workers
    use_gpu = resources.use_gpu is True
    if resources.use_gpu == "auto":
        use_gpu = float(ray.cluster_resources().get("GPU", 0)) >= num
    what = (
        f"resources.workers {num} (use_gpu {resources.use_gpu}, "
        f"cpus_per_worker {resources.cpus_per_worker:g})"
    )
    others = {name: amount * num for name, amount in resources.worker_resources.items()}
    require_resources(what, num * resources.cpus_per_worker, num if use_gpu else 0, others)
    return use_gpu


def train(
    config: configs.RunConfig, run: Run, progress: loop.Progress, *, use_gpu: bool
) -> dict[str, Any]:
    """Train an existing run with `resources.workers` workers and return its result.

    Raises RemixError if it fails.
    """
    resources = config.resources
    worker_resources = {
        "CPU": resources.cpus_per_worker,
        **({"GPU": 1} if use_gpu else {}),
        **resources.worker_resources,
    }
    scaling = ScalingConfig(
        num_workers=resources.workers, use_gpu=use_gpu, resources_per_worker=worker_resources
    )
    path, failures = run.path, FailureConfig(max_failures=resources.max_failures)
    storage = RunConfig(
        name="ray",
        storage_path=path.path,
        storage_filesystem=None if path.local else path.fs,
        failure_config=failures,
    )
    # workers start in a folder of Ray's, so a relative store is passed as an absolute path
    run_config = {
        **config.model_dump(mode="json"),
        "store": str(StorePath.at(config.store).local or config.store),
    }
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"config": run_config},
        scaling_config=scaling,
        run_config=storage,
    )
    with watched(run, config.train.epochs, progress):
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            if remix_error := _remix_error(error):
                raise remix_error from error
            raise RemixError(
                f"run {config.name!r} failed under Ray Train: {error}",
                "fix the cause and continue with --resume",
            ) from error
    return dict(run.metadata["result"])


def _remix_error(error: ray.train.TrainingFailedError) -> RemixError | None:
    """RemixError that ended a worker, without Ray's wrapper."""
    failures = getattr(error, "worker_failures", {}).values()
    return next(
        (
            cause
            for cause in (getattr(failure, "_base_exc", failure) for failure in failures)
            if isinstance(cause, RemixError)
        ),
        None,
    )


@contextmanager
def watched(run: Run, num_epochs: int, progress: loop.Progress) -> "Iterator[None]":
    """Report epochs as they appear in the run's folder, as workers do not report to the driver.

    A file that is replaced while it is read gives an error; two in a row are logged.
    """
    ended = threading.Event()

    def watch() -> None:
        seen, num_errors = 0, 0
        while not ended.wait(1.0):
            try:
                rows = run.epochs().slice(seen).to_pylist()
            except MissingError:
                continue
            except Exception as error:
                num_errors += 1
                if num_errors == 2:
                    LOG.warning("%s: cannot read progress (%s)", run.path, error)
                continue
            num_errors = 0
            seen += len(rows)
            for row in rows:
                progress({"event": "epoch", "num_epochs": num_epochs, **row})

    thread = threading.Thread(target=watch, name="run-watcher", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
