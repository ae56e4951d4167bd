"""Step time of training while the service receives requests about the run, relative to without.

    remix demo; python benchmarks/watched.py --store store

Trains on features/demo and deletes the run at the end. Requests are sent during every other epoch,
50 per second.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from uuid import uuid4

import httpx
import pyarrow as pa
import yaml
from _report import report

from pipeline.storage.arrow_files import read_table
from pipeline.storage.store_path import StorePath

ARROW = "application/vnd.apache.arrow.stream"
ROOT = Path(__file__).resolve().parent.parent


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, default=Path("store"))
    parser.add_argument("--features", default="demo")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--port", type=int, default=18769)
    return parser.parse_args()


def main() -> None:
    """Train, send requests in every other epoch, and compare."""
    arguments = _parse_arguments()
    name = f"watched-{uuid4().hex[:8]}"
    run = arguments.store / "runs" / name
    train = {"epochs": arguments.epochs, "warmup_epochs": arguments.epochs, "batch_size": 32}
    remix = [sys.executable, "-m", "remix"]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "run.yaml"
        config.write_text(
            yaml.safe_dump(
                {
                    "name": name,
                    "features": arguments.features,
                    "store": str(arguments.store),
                    "train": train,
                }
            )
        )
        serving = subprocess.Popen(
            [*remix, "serve", "--store", str(arguments.store), "--port", str(arguments.port)],
            stderr=subprocess.DEVNULL,
        )
        training = subprocess.Popen(
            [*remix, "train", str(config)],
            env={**os.environ, "OMP_NUM_THREADS": str(arguments.threads)},
            stdout=subprocess.DEVNULL,
        )
        try:
            counts = _watch(run, training, f"http://127.0.0.1:{arguments.port}", arguments.rate)
            assert training.wait() == 0
            seconds = {epoch: _seconds(run, epoch) for epoch in range(2, arguments.epochs)}
        finally:
            serving.terminate()
            training.terminate()
            StorePath.at(run).delete()
    watched, alone = (
        [value for epoch, values in seconds.items() if epoch % 2 == odd for value in values]
        for odd in (1, 0)
    )
    report(
        "watched",
        statistics.median(watched) / statistics.median(alone),
        goal="below 1.05",
        above={
            "what": f"seconds per step at {arguments.rate:g} requests/s to the service",
            "median": statistics.median(watched),
            "num": len(watched),
        },
        below={
            "what": "seconds per step in the epochs without requests",
            "median": statistics.median(alone),
            "num": len(alone),
        },
        epochs={
            str(epoch): round(statistics.median(values), 5) for epoch, values in seconds.items()
        },
        answers=dict(counts),
        threads=arguments.threads,
    )


def _watch(run: Path, training: "subprocess.Popen[bytes]", url: str, rate: float) -> Counter[str]:
    """Send requests while an odd epoch trains; all responses must be complete and consistent."""
    counts: Counter[str] = Counter()
    with httpx.Client(base_url=url) as client:
        for number in itertools.count():
            due = time.perf_counter() + 1 / rate
            epoch = len(list((run / "plans").glob("epoch-*[0-9].arrow"))) - 1
            if training.poll() is not None:
                return counts
            if epoch > 0 and epoch % 2:
                counts[_request(client, run.name, epoch, number)] += 1
            time.sleep(max(due - time.perf_counter(), 0))
    raise AssertionError


def _request(client: httpx.Client, name: str, epoch: int, number: int) -> str:
    path = f"/v1/runs/{name}"
    kinds = [
        path,
        f"{path}/epochs",
        f"{path}/plans",
        f"{path}/plans/{epoch}/stats",
        f"{path}/plans/{epoch}/steps",
        "/v1/runs",
        "/metrics",
        "arrow",
    ]
    kind = kinds[number % len(kinds)]
    if kind == "arrow":
        answer = client.get(f"{path}/plans/{epoch}/steps", headers={"Accept": ARROW})
        steps = pa.ipc.open_stream(answer.raise_for_status().content).read_all()
        assert (
            len(steps)
            == client.get(f"{path}/plans/{epoch}/stats").raise_for_status().json()["num_steps"]
        )
    else:
        answer = client.get(kind).raise_for_status()
        if kind.endswith("/epochs"):
            assert [row["epoch"] for row in answer.json()["items"]] == list(range(epoch)) or len(
                answer.json()["items"]
            ) > epoch
    return str(answer.status_code)


def _seconds(run: Path, epoch: int) -> list[float]:
    tables = [
        read_table(StorePath.at(path))
        for path in sorted((run / "steps").glob(f"epoch-{epoch:04d}-*.arrow"))
    ]
    return [value for table in tables for value in table["step_seconds"].to_pylist()]


if __name__ == "__main__":
    main()
