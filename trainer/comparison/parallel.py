"""Train several runs at the same time, each in a process of its own."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from pipeline.storage.store_path import MANIFEST
from trainer.config import RunConfig
from trainer.launch import launch


def train_at_once(
    configs: Sequence[RunConfig],
    jobs: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Train runs to their end, reusing or resuming existing ones.

    Args:
        jobs: Number of processes.
        progress: Called with the number of finished runs and their total.
    """
    if configs and not (configs[0].features_path / MANIFEST).exists():
        launch(configs[0], resume=True)  # decodes the features, which the others share
    # processes are forked from one that has imported everything and uses no GPU
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(jobs, context) as pool:
        try:
            futures = [pool.submit(_train, config) for config in configs]
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                progress(done, len(configs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _train(config: RunConfig) -> None:
    launch(config, resume=True)
