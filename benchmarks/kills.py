"""SIGKILL at random moments to the commands that write, each followed by the same command again: is then there what an undisturbed command leaves?

    python benchmarks/kills.py --kills 200 [--seed 0] [--stages decode,score,plan,train,generate,repair,report] [--features STORE/features/NAME] [--case 17]

The commands make their own inputs: generated clips, their features, a run and its checkpoint; beside them lie scores of 300,000 rows. Three of four commands
that need Ray join one that outlives them, and which ends what they left; the others start their own, which ends with them. Every stage runs
once undisturbed. Then, case by case, the command is started in a session of its own and killed, alone or with its workers, at a moment drawn uniformly
over the undisturbed command's time, or over what is left of it once its first file shows, or at the next file that it writes after such a moment; a quarter
of the resumes are killed too, until there were as many kills as asked for. What is visible after a kill has to be whole; after the last resume, which meets
what a command that was killed alone left running, everything has to be the undisturbed command's to the byte but for clocks, without a temporary left, and a
process that died with its lock named.
`ratio` is the share of cases of which all of this holds; one of which it does not is told with its number (for --case) and its folder, which stays.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from _report import report

from pipeline.features.feature_set import read_table, write_table
from pipeline.storage.schemas import encode_metadata
from pipeline.storage.store_path import Place
from trainer.models import checkpoint as checkpoints
from trainer.run_directory import Run
from trainer.verification.verify import verify

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = {
    "decode": 15,
    "score": 15,
    "plan": 30,
    "train": 30,
    "generate": 4,
    "repair": 3,
    "report": 3,
}
"""Of each stage, in cases of a hundred."""
RAY = ("decode", "score")
AGAIN, JOINS = 0.25, 0.75
MOMENTS = ("its start", "its first file", "its start, in a write")
CLOCKS = ("_seconds", "samples_per_second")
CHANGING = ("run.json", "epochs.arrow", "last.pt", "best.pt", "started", ".lock")
"""Files that a command writes more than once: what is seen of them after a kill has to be whole, not final."""
NUM_SCORES = 300_000
TRAIN = {"epochs": 4, "warmup_epochs": 2, "batch_size": 4, "score_batch": 16}
ENVIRONMENT = {
    **{
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "REMIX_"))
    },
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}


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


class Command:
    """A command under way, in a session of its own, which ends with the block; its Ray is `cluster`, or one of its own."""

    def __init__(
        self, arguments: list[str], log: Path, cluster: "Cluster | None" = None, **more: str
    ) -> None:
        self.log, self._cluster = log, cluster
        # Ray's sockets lie there, whose paths must be short; nothing of another Ray does
        self.ray = Path(tempfile.mkdtemp(prefix="rk"))
        joined = {"RAY_ADDRESS": cluster.address, **cluster.secrets} if cluster else {}
        with log.open("wb") as sink:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                env={**ENVIRONMENT, "RAY_TMPDIR": str(self.ray), **joined, **more},
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill(and_others=True)
        shutil.rmtree(self.ray, ignore_errors=True)

    @property
    def pid(self) -> int:
        """Its number, and that of its session."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Its exit code."""
        return self._process.wait(300)

    def kill(self, *, and_others: bool) -> None:
        """SIGKILL to the command, and to what it started and what works for it in its cluster, until none of it is left."""
        self._process.kill()
        self._process.wait()
        if and_others and self._cluster:
            end(self._cluster.workers())
        while and_others and (left := self.session()):
            end(left)
            time.sleep(0.01)

    def session(self) -> list[int]:
        """The processes that it started and they, and itself, but for what has ended."""
        found = []
        for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
            with suppress(OSError):
                if (
                    os.getsid(pid) == self.pid
                    and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
                ):
                    found.append(pid)
        return found


class Cluster(Command):
    """A Ray of one machine that outlives the commands that join it."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.secrets = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token_hex(32)}
        start = [
            "start",
            "--head",
            "--block",
            "--num-cpus",
            "2",
            "--include-dashboard",
            "false",
            "--disable-usage-stats",
            "--node-ip-address",
            "127.0.0.1",
        ]
        super().__init__(
            ["-m", "ray.scripts.scripts", *start, "--port", self.address.partition(":")[2]],
            log,
            **self.secrets,
        )

    def ready(self) -> "Cluster":
        """Itself, once it runs."""
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in self.log.read_text():
            assert self.runs and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
        return self

    def workers(self) -> list[int]:
        """Its processes that do what commands ask for."""
        titles = {pid: Path(f"/proc/{pid}/cmdline") for pid in self.session()}
        return [
            pid
            for pid, path in titles.items()
            if path.exists()
            and (title := path.read_bytes()).startswith(b"ray::")
            and b"Agent" not in title
        ]


def end(pids: list[int]) -> None:
    """SIGKILL to each that is there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Stages:
    """The commands on inputs of their own below a folder, each into `out` and nowhere else."""

    def __init__(self, folder: Path, features: Path | None) -> None:
        self.folder, self.shards, self.given, self.features = (
            folder,
            folder / "shards",
            features,
            folder / "store" / "features" / "made",
        )
        self.cluster: Cluster | None = None
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
        return [str(ROOT / "remix.py"), *map(str, commands[stage]), "--json"]

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
            Place.at(self.folder / "scores.arrow"),
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
            [str(ROOT / "remix.py"), *map(str, arguments)], self.folder / "log", self.cluster
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
        cluster: Cluster | None,
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


def finished(out: Path) -> bool:
    """Whether it is a run that has ended."""
    return (out / "run.json").exists() and Run(Place.at(out)).facts["status"] == "finished"


@contextmanager
def noting(problems: list[str], when: str) -> Iterator[None]:
    """Notes what is raised as a problem."""
    try:
        yield
    except Exception as error:
        problems.append(f"{when}: {type(error).__name__}: {str(error)[-2000:]}")


def names(out: Path) -> set[str]:
    """All that is below a folder, hidden or not; it may be changing."""
    return {
        os.path.join(folder, name)
        for folder, folders, files in os.walk(out)
        for name in (*folders, *files)
    }


def is_begun(out: Path) -> bool:
    """Whether there is a file."""
    return any(files for _, _, files in os.walk(out))


def content(out: Path, *, partial: bool = False) -> dict[str, str]:
    """The hash of each file without its clocks, by its path; `partial` leaves out what has a hidden name (raises where one is not whole)."""
    found = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = path.relative_to(out).as_posix()
        if (
            name.startswith("tensorboard/")
            or path.name == ".lock"
            or (partial and path.name.startswith("."))
            or is_inside_temporary(name, partial)
        ):
            continue
        found[name] = hashlib.sha256(b"".join(READERS.get(path.suffix, read)(path))).hexdigest()
    return found


def is_inside_temporary(name: str, partial: bool) -> bool:
    return partial and any(part.endswith(".tmp") for part in Path(name).parts)


def read(path: Path) -> list[bytes]:
    return [path.read_bytes()]


def read_arrow(path: Path) -> list[bytes]:
    """The file, or of one with clocks the other columns."""
    table = read_table(Place.at(path), trusted=False)
    clocks = [name for name in table.column_names if name.endswith(CLOCKS)]
    return [json.dumps(table.drop_columns(clocks).to_pylist()).encode()] if clocks else read(path)


def read_json(path: Path) -> list[bytes]:
    """The file, or of one with clocks and places the other entries."""
    value = json.loads(path.read_bytes())
    if path.name == "run.json":
        value = {**value, "config": {**value["config"], "store": ""}, "took_over": None}
    elif path.name.endswith(".times.json"):
        value = list(value)
    else:
        return read(path)
    return [json.dumps(value, sort_keys=True).encode()]


def read_checkpoint(path: Path) -> list[bytes]:
    """All values of a checkpoint, whose file depends on how its tensors lay in memory."""
    return list(values(checkpoints.load(Place.at(path))))


def values(value: Any) -> Iterator[bytes]:
    """The values in nested plain data, in order."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in items:
            yield repr(key).encode()
            yield from values(each)
    else:
        yield value.numpy().tobytes() if hasattr(value, "numpy") else repr(value).encode()


def read_report(path: Path) -> list[bytes]:
    data = path.read_bytes()
    assert data.rstrip().endswith(b"</html>"), f"{path} is cut"
    return [data]


READERS: dict[str, Callable[[Path], list[bytes]]] = {
    ".arrow": read_arrow,
    ".json": read_json,
    ".pt": read_checkpoint,
    ".html": read_report,
}


def check_same(found: dict[str, str], expected: dict[str, str]) -> None:
    """Raises AssertionError where files are missing, too many or others."""
    assert found == expected, {
        "missing": sorted(expected.keys() - found.keys()),
        "left": sorted(found.keys() - expected.keys()),
        "other": sorted(
            name for name in found.keys() & expected.keys() if found[name] != expected[name]
        ),
    }


def check_run(out: Path, stage: str) -> None:
    """Raises AssertionError where a run's artifacts contradict each other."""
    if stage == "train" and (out / "run.json").exists():
        told = verify(Run(Place.at(out)))
        assert told["ok"], told["problems"]


def schedule(kills: int, stages: list[str], seed: int) -> list[Case]:
    """The stages of the cases: in numbers by their weights, in random order."""
    total, order = sum(WEIGHTS[stage] for stage in stages), []
    for i, stage in enumerate(stages):
        before, upto = (
            round(kills * sum(WEIGHTS[each] for each in stages[:n]) / total) for n in (i, i + 1)
        )
        order += [stage] * (upto - before)
    return [
        Case(number=number, stage=order[k])
        for number, k in enumerate(np.random.default_rng(seed).permutation(kills).tolist())
    ]


def main() -> None:
    """Runs the cases and reports."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", default=",".join(WEIGHTS))
    parser.add_argument(
        "--features",
        type=Path,
        help="a feature set to train on, instead of one that is decoded first",
    )
    parser.add_argument("--case", type=int, help="this case alone")
    asked = parser.parse_args()
    stages = asked.stages.split(",")
    cases = [
        case
        for case in schedule(asked.kills, stages, asked.seed)
        if asked.case in (None, case.number)
    ]
    folder, began = Path(tempfile.mkdtemp(prefix="remix-kills-")), time.monotonic()
    work = Stages(folder, asked.features)
    with ExitStack() as stack:
        if {*RAY} & {*stages} or not asked.features:
            work.cluster = stack.enter_context(Cluster(folder / "cluster")).ready()
        work.prepare([stage for stage in WEIGHTS if any(case.stage == stage for case in cases)])
        prepared = time.monotonic()
        for case in cases:
            if sum(len(each.kills) for each in cases) >= asked.kills:
                break
            work.case(case, asked.seed)
            print(
                f"case {case.number}: {case.stage}: {'; '.join(case.kills)}: {case.problems or 'equal'}",
                file=sys.stderr,
                flush=True,
            )
    cases = [case for case in cases if case.kills]
    failed = [case for case in cases if case.problems]
    if not failed:
        shutil.rmtree(folder)
    report(
        "kills",
        1 - len(failed) / len(cases),
        goal=1,
        above={
            "what": "cases after which all artifacts are those of the undisturbed command",
            "num": len(cases) - len(failed),
        },
        below={"what": "cases of SIGKILL and resume", "num": len(cases)},
        kills=sum(len(case.kills) for case in cases),
        stages=dict(Counter(case.stage for case in cases)),
        modes=dict(Counter(kill.split(",")[0] for case in cases for kill in case.kills)),
        undisturbed_seconds={
            stage: round(each.seconds, 2) for stage, each in work.undisturbed.items()
        },
        failures=[
            {**asdict(case), "folder": str(folder / f"case-{case.number}")} for case in failed
        ],
        seed=asked.seed,
        seconds={
            "prepare": round(prepared - began, 1),
            "cases": round(time.monotonic() - prepared, 1),
        },
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
