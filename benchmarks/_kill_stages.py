"""The stages of `kills.py`: their inputs, what they leave undisturbed, and a case of kill and resume."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from _kill_commands import Command, ComposeCluster
from _kill_content import check_run, check_same, content, finished, is_begun, names

from pipeline.storage.arrow_files import write_table
from pipeline.storage.metadata import encode_metadata
from pipeline.storage.store_path import StorePath

RAY = ("decode", "score")
AGAIN, JOINS = 0.25, 0.75
MOMENTS = ("its start", "its first file", "its start, in a write")

CHANGING = ("run.json", "epochs.arrow", "last.pt", "best.pt", "started", ".lock")
"""Files that a command writes more than once: what is seen of them after a kill has to be whole, not final."""
NUM_SCORES = 300_000
TRAIN = {"epochs": 4, "warmup_epochs": 2, "batch_size": 4, "score_batch": 16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Undisturbed:
    """What a stage leaves, and how many seconds it takes: in all, and from its first file on."""

    files: dict[str, str]
    seconds: float
    writing: float


@dataclass(kw_only=True, slots=True)
class Case:
    """What was done in one case, and what did not hold."""

    number: int
    stage: str
    kills: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Stages:
    """The commands on inputs of their own below a folder, each into `out` and nowhere else."""

    def __init__(self, folder: Path, features: Path | None) -> None:
        self.folder, self.shards, self.given, self.features = (
            folder,
            folder / "shards",
            features,
            folder / "store" / "features" / "made",
        )
        self.cluster: ComposeCluster | None = None
        self.undisturbed: dict[str, Undisturbed] = {}
        self.run = folder / "store" / "runs" / "run"

    def arguments(self, stage: str, out: Path) -> list[str]:
        """The command of a stage."""
        if stage == "repair":
            shutil.rmtree(out)  # it refuses a folder that has some of its shards
            out.mkdir()
        if stage == "train":
            (out.parent / "run.yaml").write_text(yaml.safe_dump(self._config(self._store(out))))
        commands = {
            "generate": ["generate", out / "shards", "--samples", 120, "--classes", 3],
            "repair": ["repair", self.shards, "--out", out],
            "decode": ["decode", self.shards, "--out", out],
            "train": ["train", out.parent / "run.yaml", "--resume"],
            "score": [
                "score",
                self.features,
                "--checkpoint",
                self.run / "checkpoints" / "last.pt",
                "--out",
                out / "scores.arrow",
                "--batch",
                2,
            ],
            "plan": ["plan", self.folder / "scores.arrow", "--out", out / "plan.arrow"],
            "report": ["report", self.run, "--out", out / "report.html"],
        }
        return ["-m", "remix", *map(str, commands[stage]), "--json"]

    @staticmethod
    def _store(out: Path) -> Path:
        return out.parent.parent

    @staticmethod
    def _config(store: Path) -> dict[str, Any]:
        encoder = {"kind": "cnn", "width": 4, "norm": "group"}
        return {
            "name": "run",
            "features": "made",
            "store": str(store),
            "model": {"encoder": encoder},
            "train": TRAIN,
            "resources": {"checkpoint_every": 4},
        }

    def out(self, stage: str, folder: Path) -> Path:
        """Where a case in this folder writes: a run in a store that has the features, all else where it likes."""
        if stage != "train":
            (folder / "out").mkdir(parents=True)
            return folder / "out"
        (folder / "runs").mkdir(parents=True)
        if not (folder / "features").exists():
            (folder / "features").symlink_to(self.features.parent)
        return folder / "runs" / "run"

    def prepare(self, stages: list[str]) -> None:
        """Makes the inputs that the stages need, and runs each of these undisturbed."""
        if self.given:
            self.features.parent.mkdir(parents=True)
            self.features.symlink_to(self.given.absolute())
        if {"decode", "repair"} & {*stages} or not self.given:
            self._run(["generate", self.shards, "--samples", 96, "--classes", 3])
        if not self.given:
            self._run(["decode", self.shards, "--out", self.features])
        if {"score", "report"} & {*stages}:
            self._run(self.arguments("train", self.out("train", self.folder / "store"))[1:])
        if "plan" in stages:
            self._write_scores()
        for stage in stages:
            self.undisturbed[stage] = self._undisturbed(
                stage, self.out(stage, self.folder / "undisturbed" / stage)
            )

    def _write_scores(self) -> None:
        num, rng = NUM_SCORES, np.random.default_rng(0)
        columns: dict[str, Any] = {
            "row": np.arange(num),
            "sample_id": [f"s{i}" for i in range(num)],
            "label": (np.arange(num) % 5).astype(np.int32),
        }
        for name in ("audio", "video"):
            columns |= {
                f"kl_{name}": rng.random(num, np.float32),
                f"p_label_{name}": rng.random(num, np.float32),
            }
        write_table(
            StorePath.at(self.folder / "scores.arrow"),
            pa.table(columns).replace_schema_metadata(encode_metadata({})),
        )

    def _undisturbed(self, stage: str, out: Path) -> Undisturbed:
        began, first = time.monotonic(), 0.0
        with Command(
            self.arguments(stage, out), self.folder / "log", self.cluster if stage in RAY else None
        ) as command:
            while command.runs:
                first = first or (time.monotonic() if is_begun(out) else 0.0)
                time.sleep(0.002)
            ended = time.monotonic()
            assert command.wait() == 0, command.log.read_text()
        return Undisturbed(
            files=content(out), seconds=ended - began, writing=ended - (first or began)
        )

    def _run(self, arguments: list[Any]) -> None:
        with Command(
            ["-m", "remix", *map(str, arguments)], self.folder / "log", self.cluster
        ) as command:
            assert command.wait() == 0, command.log.read_text()

    def case(self, case: Case, seed: int) -> None:
        """Kills a stage, and its resume perhaps, resumes it, and notes what does not hold."""
        with ExitStack() as left:
            self._case(
                case,
                np.random.default_rng([seed, case.number]),
                self.folder / f"case-{case.number}",
                left,
            )

    def _case(self, case: Case, rng: np.random.Generator, folder: Path, left: ExitStack) -> None:
        cluster = self.cluster if case.stage in RAY and rng.random() < JOINS else None
        out = self.out(case.stage, folder)
        dead = None
        while not case.kills or rng.random() < AGAIN:
            pid = self._kill(case, out, folder / f"log-{len(case.kills)}", rng, left, cluster)
            if not pid:
                if case.kills:
                    # the resume had less to do than was hoped for: it has ended, and it is the one that has to name the process that died
                    told, dead = (
                        f"took over from process {dead}"
                        in (folder / f"log-{len(case.kills)}").read_text()
                        or not dead,
                        None,
                    )
                    if not told:
                        case.problems.append(
                            "the resume that ended before it could be killed names no process that died"
                        )
                    break
                shutil.rmtree(folder)
                out = self.out(case.stage, folder)
                continue
            with noting(case.problems, "after the kill"):
                dead = self._check_killed(case, out)
        with (
            Command(self.arguments(case.stage, out), folder / "log", cluster) as command,
            noting(case.problems, "after the resume"),
        ):
            code = command.wait()
            said = command.log.read_text()
            assert code == 0, f"exit code {code}: {said}"
            assert not dead or f"took over from process {dead}" in said, (
                f"nothing of process {dead}, which died: {said}"
            )
            check_same(content(out), self.undisturbed[case.stage].files)
            check_run(out, case.stage)
        if not case.problems:
            shutil.rmtree(folder)

    def _kill(
        self,
        case: Case,
        out: Path,
        log: Path,
        rng: np.random.Generator,
        left: ExitStack,
        cluster: ComposeCluster | None,
    ) -> int:
        """Starts the command and kills it at a random moment; 0 where it ended before."""
        whole, how, and_others = (
            self.undisturbed[case.stage],
            MOMENTS[rng.integers(len(MOMENTS))],
            bool(rng.random() < 0.5),
        )
        moment = rng.random() * (whole.writing if how == "its first file" else whole.seconds)
        arguments, known = self.arguments(case.stage, out), names(out)
        command = left.enter_context(Command(arguments, log, cluster))
        while how == "its first file" and command.runs and names(out) == known:
            time.sleep(0.001)
        time.sleep(moment)
        while (
            how == "its start, in a write"
            and command.runs
            and not any(name.endswith(".tmp") for name in names(out) - known)
        ):
            pass
        if not command.runs:
            return 0
        command.kill(and_others=and_others)
        who = f"{'it and its workers' if and_others else 'it alone'}{' in a cluster' if cluster else ''}"
        case.kills.append(f"{who}, {moment:.3f} s after {how}")
        return command.pid

    def _check_killed(self, case: Case, out: Path) -> int | None:
        """Whether all that is visible is whole; returns the process that died with the lock, if more than reading is left to do."""
        seen, whole = content(out, partial=True), self.undisturbed[case.stage].files
        for name, digest in seen.items():
            assert name in whole, f"{name} is visible, which an undisturbed command does not leave"
            assert Path(name).name in CHANGING or digest == whole[name], (
                f"{name} is visible and not what it will be"
            )
        check_run(out, case.stage)
        lock = out / (".lock" if case.stage == "train" else ".parts/.lock")
        is_over = seen.keys() == whole.keys() or (out / "manifest.json").exists() or finished(out)
        said = lock.read_bytes() if lock.exists() and not is_over else b""
        return int(json.loads(said)["pid"]) if said else None


@contextmanager
def noting(problems: list[str], when: str) -> Iterator[None]:
    """Notes what is raised as a problem."""
    try:
        yield
    except Exception as error:
        problems.append(f"{when}: {type(error).__name__}: {str(error)[-2000:]}")
