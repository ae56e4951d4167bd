"""The stages of `kills.py`: inputs, undisturbed results, and cases of kill and resume."""

import json
import re
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
REMIX = ("-m", "remix")
PROBABILITY_KILL_AGAIN, PROBABILITY_CLUSTER = 0.25, 0.75
MOMENTS = ("its start", "its first file", "its start, in a write")

CHANGING = re.compile(r"run\.json|epochs\.arrow|last\.pt|best(\..+)?\.pt|started|\.lock")
"""Files that a command rewrites: after a kill they must be complete, but need not be final."""
NUM_SCORES = 300_000
TRAIN = {"epochs": 4, "warmup_epochs": 2, "batch_size": 4, "score_batch": 16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Undisturbed:
    """Files of a stage that was not killed, and its seconds: total, and after its first file."""

    files: dict[str, str]
    seconds: float
    writing: float


@dataclass(kw_only=True, slots=True)
class Case:
    """One case: the kills, and the problems found afterwards."""

    number: int
    stage: str
    kills: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Stages:
    """Runs the commands of all stages on generated inputs below a folder."""

    def __init__(self, folder: Path, features: Path | None) -> None:
        self.folder, self.shards, self.given = folder, folder / "shards", features
        self.features = folder / "store" / "features" / "made"
        self.cluster: ComposeCluster | None = None
        self.undisturbed: dict[str, Undisturbed] = {}
        self.run = folder / "store" / "runs" / "run"

    def arguments(self, stage: str, out: Path) -> list[str]:
        """The command line of a stage."""
        if stage == "repair":
            shutil.rmtree(out)  # repair refuses a folder that already contains shards
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
        return [*map(str, commands[stage]), "--json"]

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
        """The folder that a case writes to. A run needs a store with the features."""
        if stage != "train":
            (folder / "out").mkdir(parents=True)
            return folder / "out"
        (folder / "runs").mkdir(parents=True)
        if not (folder / "features").exists():
            (folder / "features").symlink_to(self.features.parent)
        return folder / "runs" / "run"

    def prepare(self, stages: list[str]) -> None:
        """Create the inputs of the stages, and run each stage once without a kill."""
        if self.given:
            self.features.parent.mkdir(parents=True)
            self.features.symlink_to(self.given.absolute())
        if {"decode", "repair"} & {*stages} or not self.given:
            self._run(["generate", self.shards, "--samples", 96, "--classes", 3])
        if not self.given:
            self._run(["decode", self.shards, "--out", self.features])
        if {"score", "report"} & {*stages}:
            self._run(self.arguments("train", self.out("train", self.folder / "store")))
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
        start, first = time.monotonic(), 0.0
        with Command(
            [*REMIX, *self.arguments(stage, out)],
            self.folder / "log",
            self.cluster if stage in RAY else None,
        ) as command:
            while command.runs:
                first = first or (time.monotonic() if is_begun(out) else 0.0)
                time.sleep(0.002)
            ended = time.monotonic()
            assert command.wait() == 0, command.log.read_text()
        return Undisturbed(
            files=content(out), seconds=ended - start, writing=ended - (first or start)
        )

    def _run(self, arguments: list[Any]) -> None:
        with Command([*REMIX, *map(str, arguments)], self.folder / "log", self.cluster) as command:
            assert command.wait() == 0, command.log.read_text()

    def case(self, case: Case, seed: int) -> None:
        """Kill a stage, perhaps also its resumes, resume it, and record the problems."""
        with ExitStack() as stack:
            self._case(
                case,
                np.random.default_rng([seed, case.number]),
                self.folder / f"case-{case.number}",
                stack,
            )

    def _case(self, case: Case, rng: np.random.Generator, folder: Path, stack: ExitStack) -> None:
        cluster = self.cluster if case.stage in RAY and rng.random() < PROBABILITY_CLUSTER else None
        out = self.out(case.stage, folder)
        dead = None
        while not case.kills or rng.random() < PROBABILITY_KILL_AGAIN:
            pid = self._kill(case, out, folder / f"log-{len(case.kills)}", rng, stack, cluster)
            if not pid:
                if case.kills:
                    # this resume ended before its kill: it must have logged the killed process
                    log = (folder / f"log-{len(case.kills)}").read_text()
                    if dead and f"took over from process {dead}" not in log:
                        case.problems.append(
                            f"a resume that ended before its kill did not log killed process {dead}"
                        )
                    dead = None
                    break
                shutil.rmtree(folder)
                out = self.out(case.stage, folder)
                continue
            with recording(case.problems, "after the kill"):
                dead = self._check_killed(case, out)
        with (
            Command([*REMIX, *self.arguments(case.stage, out)], folder / "log", cluster) as command,
            recording(case.problems, "after the resume"),
        ):
            code = command.wait()
            log = command.log.read_text()
            assert code == 0, f"exit code {code}: {log}"
            assert not dead or f"took over from process {dead}" in log, (
                f"the resume did not log killed process {dead}: {log}"
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
        stack: ExitStack,
        cluster: ComposeCluster | None,
    ) -> int:
        """Start the command and kill it at a random moment.

        Returns its process id; 0 if it ended before.
        """
        undisturbed = self.undisturbed[case.stage]
        since, and_others = MOMENTS[rng.integers(len(MOMENTS))], bool(rng.random() < 0.5)
        span = undisturbed.writing if since == "its first file" else undisturbed.seconds
        moment = rng.random() * span
        arguments, known = [*REMIX, *self.arguments(case.stage, out)], names(out)
        command = stack.enter_context(Command(arguments, log, cluster))
        while since == "its first file" and command.runs and names(out) == known:
            time.sleep(0.001)
        time.sleep(moment)
        while (
            since == "its start, in a write"
            and command.runs
            and not any(name.endswith(".tmp") for name in names(out) - known)
        ):
            pass
        if not command.runs:
            return 0
        command.kill(and_others=and_others)
        target = "it and its workers" if and_others else "it alone"
        cluster_note = " in a cluster" if cluster else ""
        case.kills.append(f"{target}{cluster_note}, {moment:.3f} s after {since}")
        return command.pid

    def _check_killed(self, case: Case, out: Path) -> int | None:
        """Check that all visible files are complete.

        Returns the id of the killed process that holds the lock; None if the work was finished.
        """
        visible, final = content(out, partial=True), self.undisturbed[case.stage].files
        for name, digest in visible.items():
            assert name in final, f"{name} is not a file of an undisturbed command"
            assert CHANGING.fullmatch(Path(name).name) or digest == final[name], (
                f"{name} is visible before it is final"
            )
        check_run(out, case.stage)
        lock = out / (".lock" if case.stage == "train" else ".parts/.lock")
        is_over = (
            visible.keys() == final.keys() or (out / "manifest.json").exists() or finished(out)
        )
        holder = lock.read_bytes() if lock.exists() and not is_over else b""
        return int(json.loads(holder)["pid"]) if holder else None


@contextmanager
def recording(problems: list[str], when: str) -> Iterator[None]:
    """Record an exception as a problem."""
    try:
        yield
    except Exception as error:
        problems.append(f"{when}: {type(error).__name__}: {str(error)[-2000:]}")
