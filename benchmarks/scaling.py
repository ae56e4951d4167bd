"""Throughput of decoding and training with several workers, relative to one worker.

    python benchmarks/scaling.py [--workers 1,2] [--repeats 3]

Decoding needs REMIX_TEST_DATA; without it only training is measured. Each worker is pinned to its
own core. `ratio` is the median over repeats of clips/s with the most workers divided by clips/s
with one; `train.ratio` is the same for training samples. Both sides of a pair use the same Ray
cluster, in alternating order. Decoding is timed after the preflight. Training uses the preset
`paper` (a ResNet-18 per modality, global batch size 64) in joint epochs; the time of a step is that
of rank 0, including waiting and gradient exchange, and the first epoch is skipped. Driver, raylet
and controller are not pinned: if there are no more cores than workers, they compete with the
workers. `decode.profiles` has, for the last run with each number of workers, the seconds that
processes of each role (driver, raylet, controller, agents, workers, sandbox) ran on a core and
waited for one, and their niceness.
"""

import argparse
import logging
import os
import statistics
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import ray
from _report import report
from _roles import Profile
from decode import CONFIG, unpack

from pipeline.config import parse
from pipeline.decode.config import DecodeConfig
from pipeline.decode.job import decode
from pipeline.decode.summary import Progress
from pipeline.shards.discover import discover_shards
from pipeline.storage.store_path import StorePath
from trainer.config import RunConfig
from trainer.launch import launch

VIDEO = {"kind": "video", "member": "mp4", "frames": 2, "size": 112}
AUDIO = {"kind": "audio", "member": "mp4", "seconds": 1.0, "hop": 256}
EPOCHS = 3


class Pins(threading.Thread):
    """Pins every process that decodes or trains to a core of its own, if there are enough cores."""

    daemon = True

    def run(self) -> None:
        cores = sorted(os.sched_getaffinity(0))
        pinned: dict[int, int] = {}
        while True:
            busy = [
                process.pid
                for process in psutil.Process().children(recursive=True)
                if _is_busy(process)
            ]
            pinned = {pid: pinned[pid] for pid in busy if pid in pinned}
            for pid in busy:
                if pid not in pinned:
                    used = list(pinned.values())
                    pinned[pid] = min(cores, key=lambda core: (used.count(core), core))
                with suppress(psutil.Error):
                    worker = psutil.Process(pid)
                    for process in [worker, *worker.children(recursive=True)]:  # its sandbox
                        _pin(process.pid, pinned[pid])
            time.sleep(0.5)


def _pin(pid: int, core: int) -> None:
    with suppress(OSError):  # the process or a thread has ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})


def _is_busy(process: psutil.Process) -> bool:
    """Whether a process decodes or trains: Ray names processes after their task."""
    with suppress(psutil.Error):
        return any(name in " ".join(process.cmdline()) for name in ("ray::Map(", "RayTrainWorker"))
    return False


def decoding(
    shards: list[StorePath], out: Path, workers: int
) -> tuple[float, dict[str, dict[str, object]]]:
    """Clips/s after the preflight, and where the processor time went by number of workers."""
    profile = Profile()

    def watch(progress: Progress) -> None:
        nonlocal profile
        if not progress.num_done:
            profile = Profile()

    summary = decode(shards, StorePath.at(out), CONFIG, progress=watch, concurrency=workers)
    rate = summary.num_rows / (time.perf_counter() - profile.start)
    return rate, {str(workers): profile.report()}


def training(store: Path, name: str, workers: int) -> float:
    """Samples/s after the first epoch."""
    decoded = parse(DecodeConfig, {"modalities": {"audio": AUDIO, "video": VIDEO}}, "scaling")
    source = {
        "generate": {"samples": 366, "classes": 6, "shards": 4},
        "decode": decoded.model_dump(),
    }
    train = {"epochs": EPOCHS, "warmup_epochs": EPOCHS, "batch_size": 64}
    config = {
        "name": name,
        "features": "scaling",
        "store": str(store),
        "preset": "paper",
        "source": source,
        "train": train,
        "resources": {"workers": workers},
    }
    run = launch(parse(RunConfig, config, "scaling"))
    steps = [step for epoch in range(1, EPOCHS) for step in run.steps(epoch).to_pylist()]
    return sum(step["num_rows"] for step in steps) / sum(
        step["wait_seconds"] + step["step_seconds"] for step in steps
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    numbers = sorted(int(number) for number in arguments.workers.split(","))
    ray.init(
        num_cpus=numbers[-1],
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    Pins().start()
    clips: dict[int, list[float]] = {number: [] for number in numbers}
    samples: dict[int, list[float]] = {number: [] for number in numbers}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = "REMIX_TEST_DATA" in os.environ
        shards, profiles = [], dict[str, dict[str, object]]()
        if data:
            unpack(folder)
            shards = discover_shards([str(folder / "shards")])
            decoding(shards, folder / "warm", numbers[-1])
        for i in range(arguments.repeats if data else 0):
            for number in numbers if i % 2 == 0 else reversed(numbers):
                rate, profile = decoding(shards, folder / f"decoded-{i}-{number}", number)
                clips[number].append(rate)
                profiles |= profile
        # later: Ray ends idle workers of decoding meanwhile, and starting new ones takes seconds
        for i in range(arguments.repeats):
            for number in numbers if i % 2 == 0 else reversed(numbers):
                samples[number].append(training(folder / "store", f"run-{i}-{number}", number))
    decoded = {**sides(clips, "clips/s of remix decode", 1.6), "profiles": profiles} if data else {}
    results = {
        "train": sides(samples, "samples/s of training", 1.8),
        **({"decode": decoded} if data else {}),
    }
    first = results.get("decode", results["train"])
    report(
        "scaling",
        float(str(first["ratio"])),
        above=f"{numbers[-1]} workers",
        below=f"{numbers[0]} worker",
        workers=numbers,
        **results,
    )


def sides(rates: dict[int, list[float]], what: str, goal: float) -> dict[str, object]:
    """Rates by number of workers, and the median over repeats of the ratio of most to fewest."""
    first, last = min(rates), max(rates)
    ratios = [
        largest / smallest for smallest, largest in zip(rates[first], rates[last], strict=True)
    ]
    rounds = {
        str(number): [round(rate, 2) for rate in repeats] for number, repeats in rates.items()
    }
    return {
        "what": what,
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "goal": goal,
        "rounds": rounds,
    }


if __name__ == "__main__":
    main()
