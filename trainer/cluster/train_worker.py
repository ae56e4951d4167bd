"""The function that each Ray Train worker runs.

Ray Train's controller, which does not train, imports this module too: what only workers need is
imported in the function.
"""

import platform
from typing import Any

import ray.train
from ray.train.torch import get_device


def train_worker(arguments: dict[str, Any]) -> None:
    """Train as one rank of a run.

    Args:
        arguments: `config`, the run's configuration as JSON, with an absolute store.
    Raises:
        StoreError: this node does not see the run.
        ConfigError, MismatchError: this node lacks a user's module of the run, or has another one.
    """
    import torch

    from pipeline.errors import StoreError
    from pipeline.extensions import check_identities
    from trainer import loop
    from trainer.config import RunConfig
    from trainer.data.part_prefetcher import open_features
    from trainer.process_group import World
    from trainer.run_directory import Run

    config = RunConfig.model_validate(arguments["config"])
    context, device, run = ray.train.get_context(), get_device(), Run(config.run_path)
    if device.type == "cuda":
        # collectives use the current device, which is the first GPU by default for all workers
        torch.cuda.set_device(device)
    if not (run.path / "run.json").exists():
        raise StoreError(
            f"{run.path} does not exist on node {platform.node()}",
            "use a store that all nodes of the cluster share",
        )
    # a node may have another version of a user's package, or other weights
    recorded = run.metadata.get("extensions", {})
    check_identities(f"run {config.name!r}", recorded, config.model.weights)
    world = World(rank=context.get_world_rank(), size=context.get_world_size(), device=device)

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            ray.train.report({key: value for key, value in event.items() if key != "event"})

    loop.train(config, run, open_features(config), world, report)
