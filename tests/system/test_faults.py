"""Faults of real processes: visible artifacts are complete, and runs end as if undisturbed."""

import json
import os
import re
import shutil
import signal
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
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import yaml

from pipeline.errors import InputError
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan
from pipeline.plans.planner import joint_plan_builder, write_plan
from pipeline.plans.stats import plan_statistics
from pipeline.storage.store_path import StorePath
from remix import PlanBatchSampler
from tests.support.faults import (
    NUM_SHARDS,
    WORKERS,
    Decoded,
    check_same,
    check_whole,
    decode_into,
    files,
    slow_config,
    temporaries,
)
from tests.support.serving import free_port
from tests.support.stores import make_features
from trainer.launch import launch
from trainer.models import checkpoint as checkpoints
from trainer.run_directory import Run
from trainer.verification.verify import verify

pytestmark = pytest.mark.faults

REMIX = str(Path(sys.executable).parent / "remix")
Start = Callable[..., "subprocess.Popen[bytes]"]


def eventually(seen: Callable[[], Any], what: str, seconds: float = 170) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, f"{what}: not seen in {seconds:g} s"
        time.sleep(0.005)


def environment() -> dict[str, str]:
    """This process's, without what it knows of Ray."""
    own = ("RAY_", "REMIX_")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)}


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Starts a command of `remix`, with a Ray of its own, that does not outlive the tests."""
    started = []

    def begin(*arguments: object, log: Path) -> "subprocess.Popen[bytes]":
        command = [REMIX, *map(str, arguments)]
        with log.open("wb") as sink:
            process = subprocess.Popen(command, env=environment(), stdout=sink, stderr=sink)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.terminate()
        process.wait()


def kill_driver(process: "subprocess.Popen[bytes]", *, and_its_workers: bool) -> None:
    """SIGKILL a driver, optionally with its workers; otherwise they must end by themselves."""
    started = psutil.Process(process.pid).children(recursive=True)
    titles = {each: title_of(each) for each in started}
    process.kill()
    process.wait()
    at_work = [each for each, title in titles.items() if "ray::" in title and "Agent" not in title]
    left = [] if and_its_workers else psutil.wait_procs(at_work, timeout=120)[1]
    for each in started:
        with suppress(psutil.NoSuchProcess):
            each.kill()  # Ray's agents would wait a minute for their driver
    assert not left, f"workers outlive their driver: {left}"


def title_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def workers(title: str) -> list[psutil.Process]:
    """The processes of this process's Ray that do what `title` says."""
    below = psutil.Process().children(recursive=True)
    return [process for process in below if title in title_of(process)]


def kill_worker(title: str, seen: Callable[[], Any], what: str) -> None:
    """SIGKILL to one worker as soon as something is seen."""
    eventually(seen, what)
    victims = workers(title)
    assert victims, f"there is no process {title}"
    victims[0].send_signal(signal.SIGKILL)


def is_decoding(out: Path) -> bool:
    """Whether some shards are done and others are being written."""
    return any((out / ".parts").glob("part-*.json")) and bool(temporaries(out / "video"))


def test_a_worker_dies_while_it_decodes(shards: Path, decoded: Decoded, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def kill() -> dict[str, str]:
        eventually(lambda: is_decoding(out) and workers("Map("), "shards being decoded")
        for victim in workers("Map("):
            victim.send_signal(signal.SIGKILL)
        return files(out)

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill)
        summary = decode_into(out, shards)
        decoded.check_partial(killing.result())
    assert summary.fingerprint == decoded.fingerprint
    assert files(out) == decoded.files


def test_the_driver_dies_while_it_decodes(
    shards: Path, decoded: Decoded, start: Start, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    process = start("decode", shards, "--out", out, log=log)
    eventually(lambda: is_decoding(out) or process.poll() is not None, "shards being decoded")
    assert process.poll() is None, log.read_text()
    kill_driver(process, and_its_workers=False)
    decoded.check_partial(files(out))
    summary = decode_into(out, shards)
    assert re.search(rf"\b{process.pid}\b", summary.notes[0]) and "remix decode" in summary.notes[0]
    assert 0 < summary.num_reused < NUM_SHARDS
    assert summary.fingerprint == decoded.fingerprint
    assert files(out) == decoded.files
    assert not temporaries(out)


def test_a_feature_set_is_decoded_by_one_process_at_a_time(
    shards: Path, tmp_path: Path, ray_cluster: None
) -> None:
    out = tmp_path / "out"
    refusal = rf"(?s)(?=.*{out}\b)(?=.*\b{os.getpid()}\b)"
    with (
        (StorePath.at(out) / ".parts" / ".lock").held("in use"),
        pytest.raises(InputError, match=refusal),
    ):
        decode_into(out, shards)
    assert files(out) == {}


@pytest.fixture(scope="module")
def reference(made_store: Path, ray_cluster: None) -> Run:
    """The run on two workers that nothing disturbs."""
    return launch(slow_config(made_store, "reference"))


def is_amid_epoch(run: Run) -> bool:
    """Whether steps of the first remixed epoch lie behind a checkpoint in its midst."""
    names = [path.name for path in (run.path / "steps").list()]
    own = [name for name in names if name.startswith("epoch-0001-")]
    return any(not name.endswith("-00000000.arrow") for name in own)


def is_amid_scores(run: Run, reference: Run) -> bool:
    """Whether a run is past warm-up and a tenth of the reference's scoring time."""
    names = [path.name for path in (run.path / "checkpoints").list()]
    if not any(name.startswith("best.") for name in names):
        return False
    time.sleep(reference.times(1).read_json()["score_seconds"] / 10)
    return True


def test_train_workers_die_in_scoring_and_in_an_epoch(made_store: Path, reference: Run) -> None:
    config = slow_config(made_store, "twice", max_failures=2)
    run = Run(config.run_path)

    def kill() -> tuple[bool, bool]:
        kill_worker("RayTrainWorker", lambda: is_amid_scores(run, reference), "scoring")
        in_scoring = not run.scores(1).exists()
        kill_worker("RayTrainWorker", lambda: is_amid_epoch(run), "a remixed epoch")
        return in_scoring, run.scores(1).exists()

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill)
        launch(config)
        assert killing.result() == (True, True)
    check_same(run, reference)


@pytest.fixture(scope="module")
def interrupted(made_store: Path, start: Start, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on two workers that was killed in mid-epoch, the driver first; to be copied."""
    folder = tmp_path_factory.mktemp("interrupted")
    config = slow_config(made_store, "interrupted")
    run, path = Run(config.run_path), folder / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    process = start("train", path, log=folder / "log")
    eventually(lambda: is_amid_epoch(run) or process.poll() is not None, "a step")
    assert process.poll() is None, (folder / "log").read_text()
    kill_driver(process, and_its_workers=True)
    cursor = checkpoints.load(run.checkpoint("last"))["cursor"]
    assert cursor["epoch"] == 1
    assert cursor["step"] > 0
    found = verify(run)
    assert (found["ok"], found["status"]) == (True, "running"), found["problems"]
    return run


@pytest.fixture
def copied(interrupted: Run, tmp_path: Path) -> Run:
    """A copy of the interrupted run, in a store with the same features."""
    store = interrupted.path.local.parent.parent
    shutil.copytree(interrupted.path.local, tmp_path / "runs" / "interrupted")
    (tmp_path / "features").symlink_to(store / "features")
    return Run(StorePath.at(tmp_path / "runs" / "interrupted"))


def test_the_driver_dies_in_the_middle_of_an_epoch(
    copied: Run, reference: Run, tmp_path: Path
) -> None:
    events: list[dict[str, Any]] = []
    launch(slow_config(tmp_path, "interrupted"), resume=True, progress=events.append)
    dead = copied.metadata["took_over"]
    texts = [event["text"] for event in events if event["event"] == "takeover"]
    assert [bool(re.search(rf"\b{dead['pid']}\b", text)) for text in texts] == [True]
    assert "remix train" in texts[0]
    check_same(copied, reference)


def test_a_run_continues_with_another_number_of_workers(
    copied: Run, reference: Run, tmp_path: Path
) -> None:
    steps_done = checkpoints.load(copied.checkpoint("last"))["cursor"]["step"]
    launch(slow_config(tmp_path, "interrupted", 3), resume=True)
    check_whole(copied)
    num_steps = len(BatchPlan.open(reference.plan(1)))
    assert copied.plan(1).read_bytes() == reference.plan(1).read_bytes()
    sizes = [WORKERS] * steps_done + [3] * (num_steps - steps_done)
    assert copied.steps(1)["world_size"].to_pylist() == sizes
    assert copied.steps(1)["rows_hash"].equals(reference.steps(1)["rows_hash"])
    assert set(copied.steps(2)["world_size"].to_pylist()) == {3}


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


def test_killed_at_any_moment_plan_and_train_come_to_the_same_end(tmp_path: Path) -> None:
    make_features(tmp_path / "made", num_rows=60)
    benchmark = Path(__file__).parents[2] / "benchmarks" / "kills.py"
    options = ["--kills", "4", "--stages", "plan,train", "--features", str(tmp_path / "made")]
    env = {**environment(), "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(benchmark), *options]
    ended = subprocess.run(command, env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(ended.stdout)
    assert (found["ratio"], found["stages"].keys()) == (1, {"plan", "train"})
    assert found["kills"] >= 4
