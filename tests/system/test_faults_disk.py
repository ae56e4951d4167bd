"""Full and read-only disks: existing files stay, no partial file remains, and runs end as if
undisturbed when space is available again."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import FullError, StoreError
from remix.cli import app as command_line
from tests.support.faults import Decoded, check_same, decode_into, files, slow_config, temporaries
from trainer.launch import launch
from trainer.run_directory import Run
from trainer.verification.verify import verify

pytestmark = pytest.mark.faults


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk cannot be mounted: {getattr(error, 'stderr', '') or error}")
    try:
        yield folder
    finally:
        # this process may still have maps of its files
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


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
def alone(made_store: Path) -> Run:
    """The run in one process that nothing disturbs."""
    return launch(slow_config(made_store, "alone", 0))


@pytest.mark.parametrize(
    ("share", "name"), [(0.5, "checkpoints/last.pt"), (0, r"steps/epoch-0001-step-\d+\.arrow")]
)
def test_the_disk_fills_while_checkpoints_are_written(
    share: float, name: str, made_store: Path, alone: Run, disk: Path
) -> None:
    """With half a checkpoint's room the checkpoint fails, with none what is written before it."""
    shutil.copytree(made_store / "features", disk / "features")
    config = slow_config(disk, "full", 0)
    run = Run(config.run_path)
    before: list[bytes] = []

    def progress(event: dict[str, Any]) -> None:
        if event["event"] == "step" and (event["epoch"], event["step"]) == (1, 4):
            before.append(run.checkpoint("last").read_bytes())
            fill(disk, int(share * len(before[0])))

    with pytest.raises(FullError, match=rf"{run.path}/{name}\b"):
        launch(config, progress=progress)
    assert run.checkpoint("last").read_bytes() == before[0]
    assert not temporaries(disk)
    found = verify(run)
    assert found["ok"], found["problems"]
    # nothing can be written down where there is no room at all
    assert found["status"] == ("failed" if share else "running")
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
        store = self.run.path.local.parent.parent
        features, checkpoint = store / "features" / "made", self.run.checkpoint("last").local
        arguments = {
            "generate": [self.disk / "shards", "--samples", 12, "--classes", 2],
            "repair": [self.shards, "--out", self.disk / "clean"],
            "decode": [self.shards, "--out", self.disk / "decoded"],
            "score": [features, "--checkpoint", checkpoint, "--out", self.disk / "scores.arrow"],
            "plan": [self.run.scores(1).local, "--out", self.disk / "plan.arrow"],
            "report": [self.run.path.local, "--out", self.disk / "report.html"],
            "train": [self.disk / "run.yaml"],
        }
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(sys, "argv", ["remix", stage, *map(str, arguments[stage])])
            command_line.main()
        return int(ended.value.code or 0), " ".join(self.capsys.readouterr().err.split())

    def left(self) -> list[str]:
        """The files that have come."""
        return [name for name in files(self.disk) if name not in ("ballast", "run.yaml")]


@pytest.fixture
def writers(
    disk: Path, shards: Path, alone: Run, made_store: Path, capsys: pytest.CaptureFixture[str]
) -> Writers:
    (disk / "features").symlink_to(made_store / "features")
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
