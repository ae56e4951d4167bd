"""Are damaged shards, media, tables and YAML ever taken for whole, or do they ever crash, hang or unbalance what reads them?

    python benchmarks/fuzz.py --seconds 600 [--seed 0] [--kinds tar,clip,table,yaml] [--processes 2] [--keep FOLDER]
    python benchmarks/fuzz.py --cases 10000,500,100,50 ...   this many of each kind, instead of a time
    python benchmarks/fuzz.py --kinds tar --case 17 --seed 0  that one alone

Every case is a valid file with harm done to it that kind, seed and number decide, given to a judge (tests/support/shard_judge.py says what that of shards asks). The judges run in
processes of their own, so that one that crashes or hangs is told with its case, and the next one goes on behind it. A time is shared between the kinds by
weight, most of it to shards. A crash or a timeout of a decoder that the sandbox named is what it promises, and no failure; its file is kept to be looked at.
`ratio` is the share of cases in which every promise held; the bytes of one in which it did not, and what was raised, are in --keep. Exits with 1 on a failure.
"""

import argparse
import multiprocessing
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from traceback import format_exc

from _report import report

from tests.support.fuzzing import Case, Cases

KINDS = {
    "tar": "tests.support.fuzz_shards:tar_cases",
    "clip": "tests.support.fuzz_media:clip_cases",
    "table": "tests.support.mutate:table_cases",
    "yaml": "tests.support.mutate:yaml_cases",
}
WEIGHTS = {"tar": 0.7, "clip": 0.2, "table": 0.07, "yaml": 0.03}
MOST_SECONDS = 5.0
"""Of a case that is not in a sandbox; a decoder has as many, and what the sandbox adds."""
HANG_SECONDS, START_SECONDS = 30.0, 300.0
TELL_SECONDS = 1.0
LOOKED_AT = ("crash", "timeout")

_CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True, kw_only=True, slots=True)
class FuzzJob:
    """What every worker does: of each kind the cases `worker`, `worker` + `num_workers` and so on, for `seconds`, or up to `num_cases`, or `case` alone."""

    kinds: tuple[str, ...]
    seed: int
    num_workers: int
    seconds: float
    num_cases: tuple[int, ...]
    case: int | None
    keep: Path


@dataclass(kw_only=True, slots=True)
class Failure:
    """A case in which a promise was broken."""

    kind: str
    number: int
    what: str


@dataclass(slots=True)
class Found:
    """What came of the cases: how often each outcome, and the seconds that a kind took."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def __iadd__(self, other: "Found") -> "Found":
        self.outcomes += other.outcomes
        self.seconds += other.seconds
        self.failures += other.failures
        return self


class FuzzProgress:
    """What a worker does now, in shared memory that outlives it: the cases of each kind that it has begun, the kind (-1: none), since when, and its end."""

    def __init__(self, num_kinds: int) -> None:
        self.begun = _CONTEXT.Array("q", num_kinds, lock=False)
        self.kind = _CONTEXT.Value("i", -1, lock=False)
        self.since = _CONTEXT.Value("d", 0.0, lock=False)
        self.end = _CONTEXT.Value("d", 0.0, lock=False)

    def begin(self, kind: int) -> None:
        """Before a case, and with -1 before the work."""
        self.since.value = time.monotonic()
        self.kind.value = kind

    @property
    def hangs(self) -> bool:
        """Whether it has gone on for too long."""
        return time.monotonic() - self.since.value > (
            HANG_SECONDS if self.kind.value >= 0 else START_SECONDS
        )


@dataclass(slots=True)
class Worker:
    """A process, and the pipe on which it tells what it found."""

    process: SpawnProcess
    pipe: Connection
    progress: FuzzProgress


def main() -> None:
    """Runs the cases and reports."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--cases")
    parser.add_argument("--case", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(WEIGHTS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="remix-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    limited = asked.cases is not None or asked.case is not None
    kinds = tuple(asked.kinds.split(","))
    work = FuzzJob(
        kinds=kinds,
        seed=asked.seed,
        num_workers=1 if asked.case is not None else asked.processes,
        seconds=float("inf") if limited and asked.seconds is None else asked.seconds or 60.0,
        num_cases=tuple(map(int, asked.cases.split(",")))
        if asked.cases
        else (sys.maxsize,) * len(kinds),
        case=asked.case,
        keep=folder,
    )
    began = time.monotonic()
    found = drive(work)
    tell(found, work, time.monotonic() - began)
    sys.exit(1 if found.failures else 0)


def tell(found: Found, work: FuzzJob, seconds: float) -> None:
    """Prints the JSON line."""
    num = {
        kind: sum(n for (of, _), n in found.outcomes.items() if of == kind) for kind in work.kinds
    }
    failed = len(found.failures)
    report(
        "fuzz",
        1 - failed / max(sum(num.values()), 1),
        goal=1,
        above={"what": "cases in which every promise held", "num": sum(num.values()) - failed},
        below={"what": "cases", "num": sum(num.values())},
        cases=num,
        cases_per_second={
            kind: round(num[kind] / found.seconds[kind], 1)
            for kind in work.kinds
            if found.seconds[kind]
        },
        outcomes={
            kind: {what: n for (of, what), n in found.outcomes.most_common() if of == kind}
            for kind in work.kinds
        },
        named_by_the_sandbox={what: found.outcomes["clip", what] for what in LOOKED_AT},
        failures=[asdict(failure) | {"seed": work.seed} for failure in found.failures],
        keep=str(work.keep),
        seed=work.seed,
        processes=work.num_workers,
        seconds=round(seconds, 1),
    )


def drive(work: FuzzJob) -> Found:
    """Starts the workers, and another one wherever one died or hung, which goes on behind that case."""
    found = Found()
    workers = {
        number: start(work, number, FuzzProgress(len(work.kinds)))
        for number in range(work.num_workers)
    }
    while workers:
        wait([worker.pipe for worker in workers.values()], timeout=TELL_SECONDS)
        for number, worker in list(workers.items()):
            hung = worker.progress.hangs
            if hung:
                worker.process.kill()
                worker.process.join()
            alive = worker.process.is_alive()
            if listen(worker, found):
                worker.process.join()
                del workers[number]
            elif not alive:
                failure = ended(
                    work,
                    number,
                    worker,
                    "the process hung" if hung else _end_of(worker.process.exitcode or 0),
                )
                found += Found(Counter({(failure.kind, failure.what): 1}), Counter(), [failure])
                workers[number] = start(work, number, worker.progress, failure)
    return found


def listen(worker: Worker, found: Found) -> bool:
    """Adds what a worker has told; returns whether it has ended well."""
    try:
        while worker.pipe.poll():
            told = worker.pipe.recv()
            if told is None:
                return True
            found += told
    except EOFError:
        pass
    return False


def ended(work: FuzzJob, number: int, worker: Worker, how: str) -> Failure:
    """A case that a worker did not outlive (raises SystemExit where there is none)."""
    kind = worker.progress.kind.value
    if kind < 0:
        raise SystemExit(f"{how} before its first case")
    return Failure(
        kind=work.kinds[kind],
        number=number_of(work, number, worker.progress.begun[kind] - 1),
        what=how,
    )


def _end_of(code: int) -> str:
    return (
        f"the process died by {signal.Signals(-code).name}"
        if code < 0
        else f"the process ended with exit code {code}"
    )


def start(
    work: FuzzJob, number: int, progress: FuzzProgress, failure: Failure | None = None
) -> Worker:
    """A worker that goes on behind what has been begun; it keeps the bytes of the case that ended the one before."""
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    progress.begin(-1)
    process = _CONTEXT.Process(target=labour, args=(work, number, progress, theirs, failure))
    process.start()
    theirs.close()
    return Worker(process, ours, progress)


def number_of(work: FuzzJob, worker: int, i: int) -> int:
    """The number of the case that a worker's case `i` of a kind is."""
    return work.case if work.case is not None else worker + i * work.num_workers


def labour(
    work: FuzzJob, number: int, progress: FuzzProgress, pipe: Connection, failure: Failure | None
) -> None:
    """A worker: one case after the other, of the kind that is most behind its share of the time."""
    with tempfile.TemporaryDirectory(prefix="remix-fuzz-") as folder:
        cases = [cases_of(kind, Path(folder)) for kind in work.kinds]
        if failure:
            keep(
                work,
                failure.kind,
                failure.number,
                cases[work.kinds.index(failure.kind)](work.seed, failure.number),
            )
        weights = [WEIGHTS.get(kind, 1.0) for kind in work.kinds]
        found, used, told = Found(), [0.0] * len(cases), time.monotonic()
        num = [
            1 if work.case is not None else len(range(number, upto, work.num_workers))
            for upto in work.num_cases
        ]
        progress.end.value = progress.end.value or told + work.seconds
        while (now := time.monotonic()) < progress.end.value:
            left = [kind for kind in range(len(cases)) if progress.begun[kind] < num[kind]]
            if not left:
                break
            kind = min(left, key=lambda kind: used[kind] / weights[kind])
            progress.begun[kind] += 1
            progress.begin(kind)
            attempt(
                work,
                work.kinds[kind],
                number_of(work, number, progress.begun[kind] - 1),
                cases[kind],
                found,
            )
            used[kind] += time.monotonic() - now
            found.seconds[work.kinds[kind]] += time.monotonic() - now
            if found.failures or now - told > TELL_SECONDS:
                pipe.send(found)
                found, told = Found(), now
        pipe.send(found)
        pipe.send(None)


def cases_of(kind: str, folder: Path) -> Cases:
    """The cases of a kind; one that is not among KINDS is told as module:function."""
    own = folder / kind.replace(":", ".")
    own.mkdir()
    module, _, name = KINDS.get(kind, kind).rpartition(":")
    return getattr(import_module(module), name)(own)


def attempt(work: FuzzJob, kind: str, number: int, cases: Cases, found: Found) -> None:
    """One case; its bytes are kept where it fails, or where the sandbox named what is worth a look."""
    case = cases(work.seed, number)
    began, what, trace = time.monotonic(), "", ""
    try:
        outcome = case.judge(case.data)
    except Exception as error:
        outcome, what, trace = "failed", f"{type(error).__name__}: {error}"[:500], format_exc()
    took = time.monotonic() - began
    if not what and took > MOST_SECONDS and outcome not in LOOKED_AT:
        outcome, what = "failed", f"it took {took:.1f} s"
    if what:
        found.failures.append(Failure(kind=kind, number=number, what=what))
    if what or outcome in LOOKED_AT or work.case is not None:
        keep(work, kind, number, case, trace)
    found.outcomes[kind, outcome] += 1


def keep(work: FuzzJob, kind: str, number: int, case: Case, trace: str = "") -> None:
    """Writes the bytes of a case, and what was raised."""
    path = work.keep / f"{kind.replace(':', '.')}-{work.seed}-{number}-{case.name}"
    path.write_bytes(case.data)
    if trace:
        path.with_name(f"{path.name}.txt").write_text(
            trace, encoding="utf-8", errors="backslashreplace"
        )


if __name__ == "__main__":
    main()
