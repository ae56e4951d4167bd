"""A decode job and a training run slow enough to be interrupted, and checks of their results."""

import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.decode.config import AudioSpec, DecodeConfig, TensorSpec, VideoSpec
from pipeline.decode.job import decode
from pipeline.shards.discover import discover_shards
from pipeline.storage.store_path import StorePath
from tests.support.stores import check_coverage, run_config, same_weights
from trainer.config import RunConfig
from trainer.run_directory import Run
from trainer.verification.verify import verify

Start = Callable[..., "subprocess.Popen[bytes]"]
"""Return type of the fixture `start`."""
EPOCHS, WORKERS = 3, 2
NUM_SHARDS = 6
DECODE = DecodeConfig(
    modalities={
        "video": VideoSpec(kind="video", member="mp4", frames=8, size=32),
        "audio": AudioSpec(kind="audio", member="mp4", seconds=1.0, num_mels=32),
        "touch": TensorSpec(kind="tensor", member="npy", shape=(3,)),
    }
)


def files(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder, except locks and unfinished files (.tmp)."""
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".tmp" and path.name != ".lock"
    )
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


def temporaries(folder: Path) -> list[Path]:
    return list(folder.rglob(".*.tmp"))


def decode_into(out: Path, shards: Path) -> Any:
    return decode(discover_shards([str(shards)]), StorePath.at(out), DECODE)


@dataclass(frozen=True)
class Decoded:
    """The result of an uninterrupted decode job."""

    fingerprint: str
    files: dict[str, str]
    num_bytes: int

    def check_partial(self, seen: dict[str, str]) -> None:
        """Assert that an interrupted job wrote some of these files, not all, and no manifest."""
        assert seen.items() <= self.files.items()
        assert "manifest.json" not in seen
        assert "samples.arrow" not in seen
        assert 0 < len(accounts(seen)) < NUM_SHARDS


def accounts(names: dict[str, str]) -> list[str]:
    return [name for name in names if name.startswith(".parts/part-")]


def slow_config(store: Path, name: str, num_workers: int = WORKERS, **changes: Any) -> RunConfig:
    """A run whose scoring and epochs are slow enough to be interrupted."""
    train = {"epochs": EPOCHS, "warmup_epochs": 1, "batch_size": 8, "score_batch": 1}
    resources = {
        "workers": num_workers,
        "checkpoint_every": 2,
        "cpus_per_worker": min(1, 2 / max(num_workers, 1)),
        **changes,
    }
    return run_config(store, name=name, train=train, resources=resources)


def check_whole(run: Run) -> None:
    """Assert that a run finished and trained each planned row once."""
    report = verify(run)
    assert (report["ok"], report["status"]) == (True, "finished"), report["problems"]
    check_coverage(run, EPOCHS)


def check_same(run: Run, reference: Run) -> None:
    """Assert that a run is complete and has the plans, scores and weights of the reference."""
    check_whole(run)
    for epoch in range(EPOCHS):
        assert run.plan(epoch).read_bytes() == reference.plan(epoch).read_bytes()
        assert not epoch or run.scores(epoch).read_bytes() == reference.scores(epoch).read_bytes()
    assert same_weights(run, reference)


def eventually(seen: Callable[[], Any], what: str, seconds: float = 170) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, f"{what}: not seen in {seconds:g} s"
        time.sleep(0.005)


def environment() -> dict[str, str]:
    """This process's, without what it knows of Ray."""
    own = ("RAY_", "REMIX_")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)}
