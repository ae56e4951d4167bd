"""Faults of real processes and of a real full disk: what is seen meanwhile is whole, and the end is that of an undisturbed run."""

import hashlib
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import yaml

import remix
from pipeline.config import AudioSpec, DecodeConfig, TensorSpec, VideoSpec
from pipeline.decode.job import decode
from pipeline.errors import FullError, InputError, StoreError
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan, joint_draft, write_plan
from pipeline.plans.stats import plan_statistics
from pipeline.shards.discover import find_shards
from pipeline.storage.store_path import Place
from tests.support.media_files import encode_clip, encode_npy, facts, tone, write_shard
from tests.support.serving import free_port
from tests.support.stores import check_coverage, make_features, run_config, same_weights
from trainer import PlanBatchSampler
from trainer.config import RunConfig
from trainer.launch import launch
from trainer.models import checkpoint as checkpoints
from trainer.run_directory import Run
from trainer.verification.verify import verify

pytestmark = pytest.mark.faults

REMIX = str(Path(sys.executable).parent / "remix")
Start = Callable[..., "subprocess.Popen[bytes]"]
EPOCHS, WORKERS = 3, 2
NUM_SHARDS = 6
DECODE = DecodeConfig(
    modalities={
        "see": VideoSpec(kind="video", member="mp4", frames=8, size=32),
        "hear": AudioSpec(kind="audio", member="mp4", seconds=1.0, num_mels=32),
        "feel": TensorSpec(kind="tensor", member="npy", shape=(3,)),
    }
)


def eventually(seen: Callable[[], Any], what: str, seconds: float = 170) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, f"{what}: not seen in {seconds:g} s"
        time.sleep(0.005)


def environment() -> dict[str, str]:
    """This process's, without what it knows of Ray."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "REMIX_"))
    }


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Starts a command of `remix`, with a Ray of its own, that does not outlive the tests."""
    started = []

    def begin(*arguments: object, log: Path) -> "subprocess.Popen[bytes]":
        with log.open("wb") as sink:
            started.append(
                subprocess.Popen(
                    [REMIX, *map(str, arguments)], env=environment(), stdout=sink, stderr=sink
                )
            )
        return started[-1]

    yield begin
    for process in started:
        process.terminate()
        process.wait()


def kill_driver(process: "subprocess.Popen[bytes]", *, and_its_workers: bool) -> None:
    """SIGKILL to a driver, and to its workers or not, which then must end by themselves; they take seconds."""
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
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if title in title_of(process)
    ]


def kill_worker(title: str, seen: Callable[[], Any], what: str) -> None:
    """SIGKILL to one worker as soon as something is seen."""
    eventually(seen, what)
    victims = workers(title)
    assert victims, f"there is no process {title}"
    victims[0].send_signal(signal.SIGKILL)


def files(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file below a folder that is no lock and is not being written, whose hidden name ends in .tmp."""
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".tmp" and path.name != ".lock"
    )
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
    }


def temporaries(folder: Path) -> list[Path]:
    return list(folder.rglob(".*.tmp"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards that take a second each, but for the first."""
    folder, clip = (
        tmp_path_factory.mktemp("shards"),
        encode_clip(20, sound=tone(440, 3), size=(320, 240)),
    )
    for shard in range(NUM_SHARDS):
        numbers = range(shard * 100, shard * 100 + (40 if shard else 4))
        members = {
            f"{n:04d}": {
                "json": facts(n % 3, ("train", "train", "validation", "test")[n % 4]),
                "mp4": clip,
                "npy": encode_npy(np.full(3, n)),
            }
            for n in numbers
        }
        write_shard(folder / f"part-{shard}.tar", members)
    (folder / "decode.yaml").write_text(
        yaml.safe_dump(DECODE.model_dump(mode="json"), sort_keys=False)
    )
    return folder


def decode_into(out: Path, shards: Path) -> Any:
    return decode(find_shards([str(shards)]), Place.at(out), DECODE)


@dataclass(frozen=True)
class Decoded:
    """The decode that nothing disturbs."""

    fingerprint: str
    files: dict[str, str]
    num_bytes: int

    def check_partial(self, seen: dict[str, str]) -> None:
        """Asserts that what was seen of another decode is some, not all, of these very files, and no manifest."""
        assert seen.items() <= self.files.items()
        assert "manifest.json" not in seen
        assert "samples.arrow" not in seen
        assert 0 < len(accounts(seen)) < NUM_SHARDS


def accounts(names: dict[str, str]) -> list[str]:
    return [name for name in names if name.startswith(".parts/part-")]


@pytest.fixture(scope="module")
def decoded(shards: Path, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Decoded:
    out = tmp_path_factory.mktemp("decoded") / "out"
    fingerprint = decode_into(out, shards).fingerprint
    return Decoded(
        fingerprint, files(out), sum(path.stat().st_size for path in out.rglob("*.arrow"))
    )


def is_decoding(out: Path) -> bool:
    """Whether some shards are done and others are being written."""
    return any((out / ".parts").glob("part-*.json")) and bool(temporaries(out / "see"))


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
        (Place.at(out) / ".parts" / ".lock").held("in use"),
        pytest.raises(InputError, match=refusal),
    ):
        decode_into(out, shards)
    assert files(out) == {}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    make_features(store / "features" / "made", missing=0.2, num_rows=500)
    return store


def slow_config(store: Path, name: str, num_workers: int = WORKERS, **changes: Any) -> RunConfig:
    """A run whose scoring and whose epochs last long enough to be interrupted."""
    train = {"epochs": EPOCHS, "warmup_epochs": 1, "batch_size": 8, "score_batch": 1}
    resources = {
        "workers": num_workers,
        "checkpoint_every": 2,
        "cpus_per_worker": min(1, 2 / max(num_workers, 1)),
        **changes,
    }
    return run_config(store, name=name, train=train, resources=resources)


@pytest.fixture(scope="module")
def reference(store: Path, ray_cluster: None) -> Run:
    """The run on two workers that nothing disturbs."""
    return launch(slow_config(store, "reference"))


def check_whole(run: Run) -> None:
    """Asserts that a run ended, and that each planned row was trained once."""
    found = verify(run)
    assert (found["ok"], found["status"]) == (True, "finished"), found["problems"]
    check_coverage(run, EPOCHS)


def check_same(run: Run, reference: Run) -> None:
    """Asserts that a run is whole, and that its plans, scores and weights are the reference's to the bit."""
    check_whole(run)
    for epoch in range(EPOCHS):
        assert run.plan(epoch).read_bytes() == reference.plan(epoch).read_bytes()
        assert not epoch or run.scores(epoch).read_bytes() == reference.scores(epoch).read_bytes()
    assert same_weights(run, reference)


def is_amid_epoch(run: Run, _: Run | None = None) -> bool:
    """Whether steps of the first remixed epoch lie behind a checkpoint in its midst."""
    return any(
        not place.name.endswith("-00000000.arrow")
        for place in (run.place / "steps").list()
        if place.name.startswith("epoch-0001-")
    )


def is_amid_scores(run: Run, reference: Run) -> bool:
    """Whether the warm-up lies behind a run, and of the time that the reference then took to score a quarter."""
    if not run.checkpoint("best").exists():
        return False
    time.sleep(reference.times(1).read_json()["score_seconds"] / 4)
    return True


@pytest.mark.parametrize("is_there", [is_amid_scores, is_amid_epoch])
def test_a_train_worker_dies(
    is_there: Callable[[Run, Run], bool], store: Path, reference: Run
) -> None:
    config = slow_config(store, is_there.__name__)
    run = Run(config.run_place)

    def kill() -> bool:
        kill_worker("RayTrainWorker", lambda: is_there(run, reference), "the moment")
        return run.scores(1).exists()

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill)
        launch(config)
        assert killing.result() == (is_there is is_amid_epoch)
    check_same(run, reference)


@pytest.fixture(scope="module")
def interrupted(store: Path, start: Start, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on two workers that was killed in mid-epoch, the driver first; to be copied."""
    folder = tmp_path_factory.mktemp("interrupted")
    config = slow_config(store, "interrupted")
    run, path = Run(config.run_place), folder / "run.yaml"
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
    store = interrupted.place.local.parent.parent
    shutil.copytree(interrupted.place.local, tmp_path / "runs" / "interrupted")
    (tmp_path / "features").symlink_to(store / "features")
    return Run(Place.at(tmp_path / "runs" / "interrupted"))


def test_the_driver_dies_in_the_middle_of_an_epoch(
    copied: Run, reference: Run, start: Start, tmp_path: Path
) -> None:
    path, log = tmp_path / "run.yaml", tmp_path / "log"
    path.write_text(
        yaml.safe_dump(
            slow_config(tmp_path, "interrupted").model_dump(mode="json"), sort_keys=False
        )
    )
    process = start("train", path, "--resume", log=log)
    assert process.wait(300) == 0, log.read_text()
    dead = copied.facts["took_over"]
    assert any(
        re.search(rf"\b{dead['pid']}\b", line) and "remix train" in line
        for line in log.read_text().splitlines()
    )
    check_same(copied, reference)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_a_run_goes_on_with_another_number_of_workers(
    num_workers: int, copied: Run, reference: Run, tmp_path: Path
) -> None:
    taken = checkpoints.load(copied.checkpoint("last"))["cursor"]["step"]
    launch(slow_config(tmp_path, "interrupted", num_workers), resume=True)
    check_whole(copied)
    num_steps = len(BatchPlan.open(reference.plan(1)))
    assert copied.plan(1).read_bytes() == reference.plan(1).read_bytes()
    assert copied.steps(1)["world_size"].to_pylist() == [WORKERS] * taken + [num_workers] * (
        num_steps - taken
    )
    assert copied.steps(1)["rows_hash"].equals(reference.steps(1)["rows_hash"])
    assert set(copied.steps(2)["world_size"].to_pylist()) == {num_workers}


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
    """Hands connections on to a port, and tells of each piece of an answer; yields the port to connect to."""

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


def test_the_service_dies_while_it_streams(store: Path, start: Start, tmp_path: Path) -> None:
    port, logs = free_port(), [tmp_path / "log-0", tmp_path / "log-1"]
    run = Run.create(
        slow_config(store, "long"), FeatureSet.open(Place.at(store / "features" / "made"))
    )
    plan = run.plan(0)
    write_plan(plan, joint_draft(np.arange(4_000_000), 64, 0, 0))  # more than sockets hold
    run.plan_stats(0).write_json(plan_statistics(BatchPlan.open(plan)))
    first = serve(start, store, port, logs[0])
    with ThreadPoolExecutor(1) as pool:

        def kill() -> None:
            if first.poll() is None:
                first.kill()
                first.wait()
                pool.submit(lambda: time.sleep(2) or serve(start, store, port, logs[1]))

        with wire(port, kill) as given:
            sampler = PlanBatchSampler(f"http://127.0.0.1:{given}/v1/runs/long/plans/0", retries=20)
    # a request is logged when its answer is out
    assert ["/v1/runs/long/plans/0/steps" in log.read_text() for log in logs] == [False, True]
    steps = BatchPlan.open(plan).steps()
    assert all(np.array_equal(rows, step.rows) for rows, step in zip(sampler, steps, strict=True))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk cannot be mounted: {getattr(error, 'stderr', '') or error}")
    try:
        yield folder
    finally:
        subprocess.run(
            ["umount", "--lazy", str(folder)], check=True
        )  # this process may still have maps of its files


def fill(disk: Path, leave: int) -> Path:
    """A file that leaves so many bytes free."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - leave)
    return ballast


def test_the_disk_fills_while_features_are_written(
    shards: Path, decoded: Decoded, disk: Path
) -> None:
    out = disk / "out"
    ballast = fill(disk, decoded.num_bytes // 2)
    with pytest.raises(FullError, match=rf"{out}/\w+/part-\d+\.arrow\b") as caught:
        decode_into(out, shards)
    assert caught.value.exit_code == 1
    decoded.check_partial(files(out))
    ballast.unlink()
    summary = decode_into(out, shards)
    assert summary.num_reused > 0
    assert summary.fingerprint == decoded.fingerprint
    assert files(out) == decoded.files
    assert not temporaries(out)


@pytest.fixture(scope="module")
def alone(store: Path) -> Run:
    """The run in one process that nothing disturbs."""
    return launch(slow_config(store, "alone", 0))


@pytest.mark.parametrize(
    ("share", "name"), [(0.5, "checkpoints/last.pt"), (0, r"steps/epoch-0001-step-\d+\.arrow")]
)
def test_the_disk_fills_while_checkpoints_are_written(
    share: float, name: str, store: Path, alone: Run, disk: Path
) -> None:
    """With half a checkpoint's room the checkpoint fails, with none what is written before it."""
    shutil.copytree(store / "features", disk / "features")
    config = slow_config(disk, "full", 0)
    run = Run(config.run_place)
    before: list[bytes] = []

    def progress(event: dict[str, Any]) -> None:
        if event["event"] == "step" and (event["epoch"], event["step"]) == (1, 4):
            before.append(run.checkpoint("last").read_bytes())
            fill(disk, int(share * len(before[0])))

    with pytest.raises(FullError, match=rf"{run.place}/{name}\b"):
        launch(config, progress=progress)
    assert run.checkpoint("last").read_bytes() == before[0]
    assert not temporaries(disk)
    found = verify(run)
    assert found["ok"], found["problems"]
    assert found["status"] == (
        "failed" if share else "running"
    )  # nothing can be written down where there is no room at all
    (disk / "ballast").unlink()
    check_same(launch(config, resume=True), alone)


WRITERS = ("generate", "repair", "decode", "score", "plan", "report", "train")


@dataclass(frozen=True)
class Writers:
    """The commands that write, each into `disk` alone; they run in this process."""

    disk: Path
    shards: Path
    run: Run
    capsys: pytest.CaptureFixture[str]

    def __call__(self, stage: str) -> tuple[int, str]:
        """The exit code of one, and what it said."""
        store = self.run.place.local.parent.parent
        features, checkpoint = store / "features" / "made", self.run.checkpoint("last").local
        arguments = {
            "generate": [self.disk / "shards", "--samples", 12, "--classes", 2],
            "repair": [self.shards, "--out", self.disk / "clean"],
            "decode": [self.shards, "--out", self.disk / "decoded"],
            "score": [features, "--checkpoint", checkpoint, "--out", self.disk / "scores.arrow"],
            "plan": [self.run.scores(1).local, "--out", self.disk / "plan.arrow"],
            "report": [self.run.place.local, "--out", self.disk / "report.html"],
            "train": [self.disk / "run.yaml"],
        }
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(sys, "argv", ["remix", stage, *map(str, arguments[stage])])
            remix.main()
        return int(ended.value.code or 0), " ".join(self.capsys.readouterr().err.split())

    def left(self) -> list[str]:
        """The files that have come."""
        return [name for name in files(self.disk) if name not in ("ballast", "run.yaml")]


@pytest.fixture
def writers(
    disk: Path, shards: Path, alone: Run, store: Path, capsys: pytest.CaptureFixture[str]
) -> Writers:
    (disk / "features").symlink_to(store / "features")
    (disk / "run.yaml").write_text(
        yaml.safe_dump(slow_config(disk, "new", 0).model_dump(mode="json"), sort_keys=False)
    )
    return Writers(disk, shards, alone, capsys)


@pytest.mark.parametrize("stage", WRITERS)
def test_no_command_leaves_anything_on_a_disk_without_room(
    stage: str, writers: Writers, ray_cluster: None
) -> None:
    ballast = fill(writers.disk, 0)
    code, said = writers(stage)
    assert re.search(rf"{writers.disk}/\S+", said), said
    assert code == FullError.exit_code
    assert writers.left() == []
    assert not temporaries(writers.disk)
    if stage in ("generate", "repair", "plan", "report"):
        ballast.unlink()
        assert writers(stage)[0] == 0


@pytest.mark.parametrize("stage", WRITERS)
def test_a_store_that_may_only_be_read_is_refused_by_every_command(
    stage: str, writers: Writers, ray_cluster: None
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(writers.disk)], check=True)
    code, said = writers(stage)
    assert re.search(rf"{writers.disk}/\S+", said), said
    assert code == StoreError.exit_code
    assert writers.left() == []


def test_killed_at_any_moment_plan_and_train_come_to_the_same_end(tmp_path: Path) -> None:
    make_features(tmp_path / "made", num_rows=60)
    benchmark = Path(__file__).parents[2] / "benchmarks" / "kills.py"
    command = [
        sys.executable,
        str(benchmark),
        "--kills",
        "4",
        "--stages",
        "plan,train",
        "--features",
        str(tmp_path / "made"),
    ]
    ended = subprocess.run(
        command, env={**environment(), "TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(ended.stdout)
    assert (found["ratio"], found["stages"].keys()) == (1, {"plan", "train"})
    assert found["kills"] >= 4
