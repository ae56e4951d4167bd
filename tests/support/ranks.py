"""Runs work on two ranks in processes of their own."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trainer.process_group import World


def on_two_ranks(folder: Path, work: Callable[..., None], *given: Any) -> None:
    """Call `work(world, *given)` on each rank; ranks rendezvous at a file in the folder."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.support.stores", "trainer.launch"])
    both = [
        processes.Process(target=_begin, args=(rank, folder / "rendezvous", work, given))
        for rank in range(2)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
        if process.exitcode is None:
            process.kill()
        assert process.exitcode == 0


def _begin(rank: int, rendezvous: Path, work: Callable[..., None], given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    work(World(rank=rank, size=2), *given)
    dist.destroy_process_group()
