"""Ray Train around the loop: the same function on N workers; a group that lost a worker starts again from the last checkpoint."""

from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device

from pipeline.errors import RemixError
from trainer import config as configs
from trainer import loop
from trainer.run import Run
from trainer.world import World


def uses_gpu(resources: configs.ResourcesConfig) -> bool:
    """Whether workers get a GPU each: as asked, or `auto`: where the cluster has as many."""
    if resources.use_gpu == "auto":
        return float(ray.cluster_resources().get("GPU", 0)) >= resources.workers
    return resources.use_gpu


def train(config: configs.RunConfig, run: Run) -> dict[str, Any]:
    """Trains a run that exists with `resources.workers` workers and returns its result (raises RemixError where it fails)."""
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=True)
    resources = config.resources
    gpu = uses_gpu(resources)
    scaling = ScalingConfig(num_workers=resources.workers, use_gpu=gpu, resources_per_worker={"CPU": resources.cpus_per_worker, **({"GPU": 1} if gpu else {})})
    storage = RunConfig(name="ray", storage_path=str(run.place.local or run.place), failure_config=FailureConfig(max_failures=resources.max_failures))
    trainer = TorchTrainer(_worker, train_loop_config={"config": config.model_dump(mode="json"), "run": run}, scaling_config=scaling, run_config=storage)
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise RemixError(f"run {config.name!r} failed under Ray Train: {error}", "mend the cause and continue with --resume") from error
    return dict(run.facts["result"])


def _worker(given: dict[str, Any]) -> None:
    context = ray.train.get_context()
    world = World(rank=context.get_world_rank(), size=context.get_world_size(), device=get_device())
    config = configs.RunConfig.model_validate(given["config"])

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            ray.train.report({key: value for key, value in event.items() if key != "event"})

    loop.train(config, given["run"], world, report)
