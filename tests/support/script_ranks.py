"""Runs training scripts in forks of one process that has imported their frameworks.

    python -m tests.support.script_ranks SCRIPT ...

Each script runs in its working directory in one process and then in two, which see what torchrun
gives them. What they write is in `SCRIPT-SIZE-RANK.log`; a line of JSON has their exit codes.
"""

import json
import multiprocessing
import os
import runpy
import sys

# imported once, which takes longer than everything that the scripts do
import accelerate.data_loader
import lightning
import torch.distributed
import transformers

import remix
from tests.support.serving import free_port

IMPORTED = (accelerate, lightning, torch, transformers.Trainer, remix.PlanBatchSampler)


def run_rank(script: str, rank: int, size: int, port: int) -> None:
    """Run a script as the process of one rank."""
    log = os.open(f"{script}-{size}-{rank}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torchrun = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    torchrun |= {"GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in torchrun.items()})
    os.environ["TORCHELASTIC_RUN_ID"] = "script"  # Lightning starts no second process itself
    sys.argv = [script, str(size)]
    runpy.run_path(script, run_name="__main__")


def run_ranks(script: str, size: int) -> list[int | None]:
    """Run a script in `size` processes; returns their exit codes."""
    port = free_port()
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=run_rank, args=(script, rank, size, port)) for rank in range(size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        if process.exitcode is None:
            process.kill()
    return [process.exitcode for process in ranks]


if __name__ == "__main__":
    print(json.dumps({f"{s}-{size}": run_ranks(s, size) for s in sys.argv[1:] for size in (1, 2)}))
