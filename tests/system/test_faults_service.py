"""Faults of processes without Ray: a service that is killed, and commands killed at any moment."""

import json
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan
from pipeline.plans.planner import joint_plan_builder, write_plan
from pipeline.plans.stats import plan_statistics
from pipeline.storage.store_path import StorePath
from remix import PlanBatchSampler
from tests.support.faults import Start, environment, eventually, slow_config
from tests.support.serving import free_port
from tests.support.stores import make_features
from trainer.run_directory import Run

pytestmark = pytest.mark.faults


def serve(start: Start, store: Path, port: int, log: Path) -> "subprocess.Popen[bytes]":
    """The service under way, once it answers."""
    process = start("serve", "--store", store, "--port", port, log=log)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{port}/healthz").is_success
        except httpx.TransportError:
            return False

    eventually(answers, "the service")
    return process


@contextmanager
def wire(port: int, passed: Callable[[], None]) -> Iterator[int]:
    """Proxy connections to a port and report each chunk of a response; yields its own port."""

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)) as service:
                service.sendall(self.request.recv(65536))
                while data := service.recv(65536):
                    self.request.sendall(data)
                    passed()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_the_service_dies_while_it_streams(made_store: Path, start: Start, tmp_path: Path) -> None:
    port, logs = free_port(), [tmp_path / "log-0", tmp_path / "log-1"]
    features = FeatureSet.open(StorePath.at(made_store / "features" / "made"))
    run = Run.create(slow_config(made_store, "long"), features)
    plan = run.plan(0)
    write_plan(plan, joint_plan_builder(np.arange(4_000_000), 64, 0, 0))  # more than sockets hold
    run.plan_stats(0).write_json(plan_statistics(BatchPlan.open(plan)))
    first = serve(start, made_store, port, logs[0])
    with ThreadPoolExecutor(1) as pool:

        def kill() -> None:
            if first.poll() is None:
                first.kill()
                first.wait()
                pool.submit(lambda: time.sleep(2) or serve(start, made_store, port, logs[1]))

        with wire(port, kill) as given:
            sampler = PlanBatchSampler(f"http://127.0.0.1:{given}/v1/runs/long/plans/0", retries=20)
    # a request is logged when its answer is out
    assert ["/v1/runs/long/plans/0/steps" in log.read_text() for log in logs] == [False, True]
    steps = BatchPlan.open(plan).steps()
    assert all(np.array_equal(rows, step.rows) for rows, step in zip(sampler, steps, strict=True))


@pytest.mark.parametrize("stage", ["plan", pytest.param("train", marks=pytest.mark.slow)])
def test_killed_at_any_moment_a_command_comes_to_the_same_end(tmp_path: Path, stage: str) -> None:
    make_features(tmp_path / "made", num_rows=60)
    benchmark = Path(__file__).parents[2] / "benchmarks" / "kills.py"
    options = ["--kills", "1", "--stages", stage, "--features", str(tmp_path / "made")]
    env = {**environment(), "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(benchmark), *options]
    ended = subprocess.run(command, env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(ended.stdout)
    assert (found["ratio"], found["stages"].keys()) == (1, {stage})
    assert found["kills"] >= 1
