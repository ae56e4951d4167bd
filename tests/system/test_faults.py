"""Faults of real processes: visible artifacts are complete, and runs end as if undisturbed."""

import os
import re
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from pipeline.errors import InputError
from pipeline.storage.store_path import StorePath
from tests.support.faults import (
    NUM_SHARDS,
    Decoded,
    Start,
    check_same,
    decode_into,
    eventually,
    files,
    slow_config,
    temporaries,
)
from tests.support.ranks import on_two_ranks
from trainer import loop
from trainer.config import RunConfig
from trainer.data.part_prefetcher import open_features
from trainer.launch import launch
from trainer.models import checkpoint as checkpoints
from trainer.process_group import World
from trainer.run_directory import Run
from trainer.verification.verify import verify

pytestmark = pytest.mark.faults


def kill_driver(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL a driver; its workers must end by themselves."""
    started = psutil.Process(process.pid).children(recursive=True)
    titles = {each: title_of(each) for each in started}
    process.kill()
    process.wait()
    at_work = [each for each, title in titles.items() if "ray::" in title and "Agent" not in title]
    left = psutil.wait_procs(at_work, timeout=120)[1]
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
    return any((out / ".parts").glob("part-*.arrow")) and bool(temporaries(out / "video"))


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


@pytest.mark.slow
def test_the_driver_dies_while_it_decodes(
    shards: Path, decoded: Decoded, start: Start, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    process = start("decode", shards, "--out", out, log=log)
    eventually(lambda: is_decoding(out) or process.poll() is not None, "shards being decoded")
    assert process.poll() is None, log.read_text()
    kill_driver(process)
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


def train(world: World, config: RunConfig) -> None:
    loop.train(config, Run.open(config.run_path), open_features(config), world)


@pytest.fixture(scope="module")
def reference(made_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run on two ranks that nothing disturbs; without Ray, which takes most of a short run."""
    config = slow_config(made_store, "reference")
    run = Run.create(config, open_features(config))
    on_two_ranks(tmp_path_factory.mktemp("ranks"), train, config)
    return run


def is_amid_epoch(run: Run) -> bool:
    """Whether steps of the first remixed epoch lie behind a checkpoint in its midst."""
    names = [path.name for path in (run.path / "steps").list()]
    own = [name for name in names if name.startswith("epoch-0001-")]
    return any(not name.endswith("-00000000.arrow") for name in own)


@pytest.mark.slow
def test_a_train_worker_dies_in_the_middle_of_an_epoch(
    made_store: Path, reference: Run, ray_cluster: None
) -> None:
    config = slow_config(made_store, "killed", max_failures=1)
    run = Run(config.run_path)
    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(
            kill_worker, "RayTrainWorker", lambda: is_amid_epoch(run), "a remixed epoch"
        )
        launch(config)
        killing.result()
    check_same(run, reference)


def test_a_training_process_dies_in_the_middle_of_an_epoch(
    made_store: Path, start: Start, tmp_path: Path
) -> None:
    config = slow_config(made_store, "interrupted", num_workers=0)
    run, path, log = Run(config.run_path), tmp_path / "run.yaml", tmp_path / "log"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    process = start("train", path, log=log)
    eventually(lambda: is_amid_epoch(run) or process.poll() is not None, "a step")
    assert process.poll() is None, log.read_text()
    process.kill()
    process.wait()
    cursor = checkpoints.load(run.checkpoint("last"))["cursor"]
    assert cursor["epoch"] == 1
    assert cursor["step"] > 0
    report = verify(run)
    assert (report["ok"], report["status"]) == (True, "running"), report["problems"]

    events: list[dict[str, Any]] = []
    launch(config, resume=True, progress=events.append)
    dead = run.metadata["took_over"]
    texts = [event["text"] for event in events if event["event"] == "takeover"]
    assert [bool(re.search(rf"\b{dead['pid']}\b", text)) for text in texts] == [True]
    assert "remix train" in texts[0]
    check_same(run, launch(slow_config(made_store, "undisturbed", num_workers=0)))
