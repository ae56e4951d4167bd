"""Runs the training loop on N Ray Train workers; after a worker failure the group restarts from the
last checkpoint."""

import logging
import platform
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device

from pipeline.errors import MissingError, RemixError, StoreError
from pipeline.ray_cluster import connect, require_resources
from pipeline.storage.store_path import StorePath
from trainer import config as configs
from trainer import loop
from trainer.data.part_prefetcher import open_features
from trainer.process_group import World
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
        _worker,
        train_loop_config={"config": run_config, "run": run},
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


def _worker(arguments: dict[str, Any]) -> None:
    context, device, run = ray.train.get_context(), get_device(), arguments["run"]
    if device.type == "cuda":
        # collectives use the current device, which is the first GPU by default for all workers
        torch.cuda.set_device(device)
    if not (run.path / "run.json").exists():
        raise StoreError(
            f"{run.path} does not exist on node {platform.node()}",
            "use a store that all nodes of the cluster share",
        )
    world = World(rank=context.get_world_rank(), size=context.get_world_size(), device=device)

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            ray.train.report({key: value for key, value in event.items() if key != "event"})

    config = configs.RunConfig.model_validate(arguments["config"])
    loop.train(config, run, open_features(config), world, report)


@contextmanager
def watched(run: Run, num_epochs: int, progress: loop.Progress) -> "Iterator[None]":
    """Report epochs as they appear in the run's folder, as workers do not report to the driver.

    Read errors are logged once and ignored.
    """
    ended = threading.Event()

    def watch() -> None:
        seen, warned = 0, False
        while not ended.wait(1.0):
            try:
                rows = run.epochs().slice(seen).to_pylist()
            except MissingError:
                continue
            except Exception as error:
                if not warned:
                    LOG.warning("%s: cannot read progress (%s)", run.path, error)
                warned = True
                continue
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
