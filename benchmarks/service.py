"""Throughput, latency and memory of the service on loopback, with one uvicorn worker.

`ratio` compares requests/s for the statistics of a plan with those of a minimal ASGI application
that returns the same bytes.
"""

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from _report import report

from pipeline.plans.config import PlanConfig
from pipeline.plans.plan import BatchPlan
from pipeline.plans.planner import joint_plan_builder, remix_plan_builder, write_plan
from pipeline.plans.stats import plan_statistics
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import write_table
from pipeline.storage.metadata import with_metadata
from pipeline.storage.schemas import ALL, scores_schema
from pipeline.storage.store_path import StorePath

ARROW = "application/vnd.apache.arrow.stream"
MODALITIES = ["audio", "video"]
STATS, STEPS = "/v1/runs/bench/plans/1/stats", "/v1/runs/bench/plans/1/steps?limit=1000"
BARE = """
import sys, uvicorn
from pathlib import Path
body = Path(sys.argv[1]).read_bytes()
headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
uvicorn.run(app, port=int(sys.argv[2]), lifespan="off", access_log=False, log_level="warning")
"""


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows",
        type=int,
        default=200_000,
        help="rows of the plan whose statistics and steps are requested",
    )
    parser.add_argument(
        "--streamed-rows", type=int, default=100_000_000, help="rows of the plan that is streamed"
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=200.0, help="requests/s of the latency test")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--port", type=int, default=18764)
    return parser.parse_args()


def main() -> None:
    """Create a store with two plans, serve it, measure, and print the report."""
    arguments = _parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        _make(StorePath.at(store) / "runs" / "bench", arguments.rows, arguments.streamed_rows)
        command = [
            sys.executable,
            "-m",
            "remix",
            "serve",
            "--store",
            str(store),
            "--port",
            str(arguments.port),
        ]
        with _running(command, arguments.port) as (process, request):
            body, etag = request(STATS), request.etag
            (store / "body").write_bytes(body)
            kinds: dict[str, Callable[[], object]] = {
                "stats": lambda: request(STATS),
                "not_modified": lambda: request(STATS, {"If-None-Match": etag}, 304),
                "steps_json": lambda: request(STEPS),
                "steps_arrow": lambda: request(STEPS, {"Accept": ARROW}),
            }
            for kind in kinds.values():
                _closed(kind, 200)
            latency = {
                name: _open(
                    kind, arguments.rate if name in ("stats", "not_modified") else 20.0, 10.0
                )
                for name, kind in kinds.items()
            }
            memory, streamed = _memory(arguments, process, request, kinds)
            rates = _rates(kinds["stats"], store / "body", arguments.port + 1, arguments.repeats)
    above, below = (statistics.median(rates[side]) for side in ("service", "bare"))
    report(
        "service",
        above / below,
        goal="p99 of stats under 10 ms at 200 requests/s; memory grows by less than 50 MiB",
        numerator={
            "what": "statistics of a plan from `remix serve`, requests/s, one connection",
            "median": above,
            "all": rates["service"],
        },
        denominator={
            "what": "the same bytes from a bare ASGI app under uvicorn, requests/s",
            "median": below,
            "all": rates["bare"],
        },
        latency_ms=latency,
        body_bytes=len(body),
        memory_mib=memory,
        streamed=streamed,
    )


def _memory(
    arguments: argparse.Namespace,
    process: psutil.Process,
    request: "_Client",
    kinds: dict[str, Callable[[], object]],
) -> tuple[dict[str, float], dict[str, int]]:
    """Memory of the service before and after many requests and a long stream; stream throughput."""
    memory = {"before": _mib(process)}
    _closed(kinds["stats"], arguments.requests // 2)
    _closed(kinds["not_modified"], arguments.requests - arguments.requests // 2)
    memory["after_requests"] = _mib(process)
    start = time.perf_counter()
    num_bytes, highest = _stream(request, process)
    streamed = {
        "rows": arguments.streamed_rows,
        "mb": round(num_bytes / 1e6),
        "mb_per_second": round(num_bytes / 1e6 / (time.perf_counter() - start)),
    }
    return memory | {"highest_while_streaming": highest, "after_streaming": _mib(process)}, streamed


def _rates(
    stats: Callable[[], object], body: Path, port: int, repeats: int
) -> dict[str, list[float]]:
    """Requests/s of the service and of a minimal app that returns these bytes, in alternation."""
    rates: dict[str, list[float]] = {"service": [], "bare": []}
    command = [sys.executable, "-c", BARE, str(body), str(port)]
    with _running(command, port) as (_, request_bare):
        for _ in range(repeats):
            rates["service"].append(_closed(stats, 1000))
            rates["bare"].append(_closed(lambda: request_bare("/"), 1000))
    return rates


class _Client:
    """A client with one persistent connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        self.etag = ""

    def __call__(self, url: str, headers: dict[str, str] | None = None, status: int = 200) -> bytes:
        response = self.open(url, headers, status)
        self.etag = response.headers.get("etag", "")
        return response.read()

    def open(
        self, url: str, headers: dict[str, str] | None = None, status: int = 200
    ) -> http.client.HTTPResponse:
        self._connection.request("GET", url, headers=headers or {})
        response = self._connection.getresponse()
        assert response.status == status, response.read()
        return response


@contextmanager
def _running(command: list[str], port: int) -> Iterator[tuple[psutil.Process, _Client]]:
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(300):
                try:
                    http.client.HTTPConnection("127.0.0.1", port).request("GET", "/healthz")
                    break
                except OSError:
                    time.sleep(0.1)
            yield psutil.Process(process.pid), _Client(port)
        finally:
            process.terminate()


def _closed(kind: Callable[[], object], num: int) -> float:
    """Requests/s of a closed loop: each request is sent when the previous one is complete."""
    start = time.perf_counter()
    for _ in range(num):
        kind()
    return num / (time.perf_counter() - start)


def _open(kind: Callable[[], object], rate: float, seconds: float) -> dict[str, float]:
    """Latency at a fixed request rate, in ms.

    It is measured from the time that each request was due: a slow response also counts for the
    requests that it delays.
    """
    times, start = [], time.perf_counter()
    for number in range(int(rate * seconds)):
        due = start + number / rate
        time.sleep(max(due - time.perf_counter(), 0))
        kind()
        times.append(1000 * (time.perf_counter() - due))
    return {
        "rate": rate,
        "p50": round(statistics.median(times), 2),
        "p99": round(statistics.quantiles(times, n=100)[98], 2),
        "max": round(max(times), 2),
    }


def _stream(request: _Client, process: psutil.Process) -> tuple[int, float]:
    """Stream the large plan; return its bytes and the peak resident memory in MiB."""
    response, num_bytes, highest = (
        request.open("/v1/runs/bench/plans/0/steps", {"Accept": ARROW}),
        0,
        0.0,
    )
    while chunk := response.read(2**22):
        num_bytes += len(chunk)
        highest = max(highest, _mib(process))
    return num_bytes, highest


def _mib(process: psutil.Process) -> float:
    return round(process.memory_info().rss / 2**20, 1)


def _make(run: StorePath, num_rows: int, num_streamed: int) -> None:
    """Write a run with a joint plan of `num_streamed` rows and a remixed one of `num_rows`."""
    run_json: dict[str, Any] = {
        "kind": "run",
        "name": "bench",
        "status": "finished",
        "features": {"name": "none", "fingerprint": "0" * 64},
    }
    run_json |= {
        "modalities": MODALITIES,
        "config": {"train": {"epochs": 2, "warmup_epochs": 1}},
        "digest": "0" * 64,
        "code_version": "0",
    }
    (run / "run.json").write_json(run_json)
    draw = np.random.default_rng(0)
    table: dict[str, Any] = {
        "row": np.arange(num_rows),
        "sample_id": [f"s{i}" for i in range(num_rows)],
        "label": draw.integers(0, 10, num_rows, np.int32),
    }
    for name in MODALITIES:
        table |= {
            f"kl_{name}": draw.random(num_rows, np.float32) * 3,
            f"p_label_{name}": draw.random(num_rows, np.float32),
        }
        table[f"predicted_{name}"] = draw.integers(0, 10, num_rows, np.int32)
    scores_path = run / "scores" / "epoch-0001.arrow"
    metadata = {"epoch": 1, "modalities": MODALITIES, "num_classes": 10, "parents": {}}
    write_table(
        scores_path, with_metadata(pa.table(table, schema=scores_schema(MODALITIES)), metadata)
    )
    scores = Scores.open(scores_path)
    builders = [
        joint_plan_builder(
            np.arange(num_streamed), 64, 0, 0, modalities=MODALITIES, num_classes=10
        ),
        remix_plan_builder(scores, PlanConfig(), 64, 0, 1),
    ]
    for epoch, builder in enumerate(builders):
        path = run / "plans" / f"epoch-{epoch:04d}.arrow"
        write_plan(path, builder)
        plan = BatchPlan.open(path, trusted=True)
        assert (ALL in plan.table["modality"][0].as_py()) == (epoch == 0)
        statistics_ = plan_statistics(plan, scores=scores if epoch else None)
        (run / "plans" / f"epoch-{epoch:04d}.stats.json").write_json(
            json.loads(json.dumps(statistics_))
        )


if __name__ == "__main__":
    main()
