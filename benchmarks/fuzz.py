"""Feeds damaged shards, media, tables and YAML to their readers.

    python benchmarks/fuzz.py --seconds 600 [--seed 0] [--kinds tar,clip,table,yaml]
    python benchmarks/fuzz.py --cases 10000,500,100,50    number of cases of each kind
    python benchmarks/fuzz.py --kinds tar --case 17       one case only

A case is a valid file with deterministic damage that depends on kind, seed and number. A judge
checks that the reader does not crash, hang, lose bytes or accept damaged data (for shards, see
tests/support/shard_judge.py). Judges run in worker processes: if one crashes or hangs, its case is
reported and another worker continues. `--seconds` is divided among the kinds by weight. A crash or
timeout of a decoder that the sandbox reports is expected, not a failure; its file is kept.

`ratio` is the fraction of cases in which every guarantee held. Files and tracebacks of failures are
written to --keep. The exit code is 1 if there was a failure.
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
MAX_SECONDS = 5.0
"""Time limit of a case outside the sandbox."""
HANG_SECONDS, START_SECONDS = 30.0, 300.0
REPORT_SECONDS = 1.0
KEPT_OUTCOMES = ("crash", "timeout")

_CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True, kw_only=True, slots=True)
class FuzzJob:
    """The job of all workers.

    Worker `i` runs the cases `i`, `i + num_workers`, ... of each kind, for `seconds` or up to
    `num_cases`; or only `case`.
    """

    kinds: tuple[str, ...]
    seed: int
    num_workers: int
    seconds: float
    num_cases: tuple[int, ...]
    case: int | None
    keep: Path


@dataclass(kw_only=True, slots=True)
class Failure:
    """A case in which a guarantee was violated."""

    kind: str
    number: int
    what: str


@dataclass(slots=True)
class Results:
    """Counts of (kind, outcome), seconds by kind, and failures."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def __iadd__(self, other: "Results") -> "Results":
        self.outcomes += other.outcomes
        self.seconds += other.seconds
        self.failures += other.failures
        return self


class FuzzProgress:
    """Progress of a worker, in shared memory that outlives it.

    Number of started cases by kind, current kind (-1: none), its start, and the end of the job.
    """

    def __init__(self, num_kinds: int) -> None:
        self.begun = _CONTEXT.Array("q", num_kinds, lock=False)
        self.kind = _CONTEXT.Value("i", -1, lock=False)
        self.since = _CONTEXT.Value("d", 0.0, lock=False)
        self.end = _CONTEXT.Value("d", 0.0, lock=False)

    def begin(self, kind: int) -> None:
        """Record the start of a case, or with -1 the start of the worker."""
        self.since.value = time.monotonic()
        self.kind.value = kind

    @property
    def hangs(self) -> bool:
        """Whether the current case exceeds its time limit."""
        return time.monotonic() - self.since.value > (
            HANG_SECONDS if self.kind.value >= 0 else START_SECONDS
        )


@dataclass(slots=True)
class Worker:
    """A process, and the pipe on which it sends its results."""

    process: SpawnProcess
    pipe: Connection
    progress: FuzzProgress


def main() -> None:
    """Run the cases and print the report."""
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
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="remix-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    limited = arguments.cases is not None or arguments.case is not None
    kinds = tuple(arguments.kinds.split(","))
    job = FuzzJob(
        kinds=kinds,
        seed=arguments.seed,
        num_workers=1 if arguments.case is not None else arguments.processes,
        seconds=float("inf")
        if limited and arguments.seconds is None
        else arguments.seconds or 60.0,
        num_cases=tuple(map(int, arguments.cases.split(",")))
        if arguments.cases
        else (sys.maxsize,) * len(kinds),
        case=arguments.case,
        keep=folder,
    )
    start_time = time.monotonic()
    results = drive(job)
    print_report(results, job, time.monotonic() - start_time)
    sys.exit(1 if results.failures else 0)


def print_report(results: Results, job: FuzzJob, seconds: float) -> None:
    """Print the JSON line."""
    num = {
        kind: sum(n for (of, _), n in results.outcomes.items() if of == kind) for kind in job.kinds
    }
    failed = len(results.failures)
    report(
        "fuzz",
        1 - failed / max(sum(num.values()), 1),
        goal=1,
        above={"what": "cases in which every guarantee held", "num": sum(num.values()) - failed},
        below={"what": "cases", "num": sum(num.values())},
        cases=num,
        cases_per_second={
            kind: round(num[kind] / results.seconds[kind], 1)
            for kind in job.kinds
            if results.seconds[kind]
        },
        outcomes={
            kind: {what: n for (of, what), n in results.outcomes.most_common() if of == kind}
            for kind in job.kinds
        },
        named_by_the_sandbox={what: results.outcomes["clip", what] for what in KEPT_OUTCOMES},
        failures=[asdict(failure) | {"seed": job.seed} for failure in results.failures],
        keep=str(job.keep),
        seed=job.seed,
        processes=job.num_workers,
        seconds=round(seconds, 1),
    )


def drive(job: FuzzJob) -> Results:
    """Run the workers; replace one that dies or hangs by one that continues after that case."""
    results = Results()
    workers = {
        number: start(job, number, FuzzProgress(len(job.kinds)))
        for number in range(job.num_workers)
    }
    while workers:
        wait([worker.pipe for worker in workers.values()], timeout=REPORT_SECONDS)
        for number, worker in list(workers.items()):
            hung = worker.progress.hangs
            if hung:
                worker.process.kill()
                worker.process.join()
            alive = worker.process.is_alive()
            if listen(worker, results):
                worker.process.join()
                del workers[number]
            elif not alive:
                failure = ended(
                    job,
                    number,
                    worker,
                    "the process hung" if hung else _end_of(worker.process.exitcode or 0),
                )
                results += Results(Counter({(failure.kind, failure.what): 1}), Counter(), [failure])
                workers[number] = start(job, number, worker.progress, failure)
    return results


def listen(worker: Worker, results: Results) -> bool:
    """Add the results that a worker has sent; return whether it has finished."""
    try:
        while worker.pipe.poll():
            message = worker.pipe.recv()
            if message is None:
                return True
            results += message
    except EOFError:
        pass
    return False


def ended(job: FuzzJob, number: int, worker: Worker, how: str) -> Failure:
    """The case that ended a worker. Raises SystemExit if it ended before its first case."""
    kind = worker.progress.kind.value
    if kind < 0:
        raise SystemExit(f"{how} before its first case")
    return Failure(
        kind=job.kinds[kind],
        number=number_of(job, number, worker.progress.begun[kind] - 1),
        what=how,
    )


def _end_of(code: int) -> str:
    return (
        f"the process died by {signal.Signals(-code).name}"
        if code < 0
        else f"the process ended with exit code {code}"
    )


def start(
    job: FuzzJob, number: int, progress: FuzzProgress, failure: Failure | None = None
) -> Worker:
    """Start a worker that continues after the started cases.

    It saves the bytes of the case that ended its predecessor, if any.
    """
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    progress.begin(-1)
    process = _CONTEXT.Process(target=run_worker, args=(job, number, progress, theirs, failure))
    process.start()
    theirs.close()
    return Worker(process, ours, progress)


def number_of(job: FuzzJob, worker: int, i: int) -> int:
    """The number of a worker's `i`-th case of a kind."""
    return job.case if job.case is not None else worker + i * job.num_workers


def run_worker(
    job: FuzzJob, number: int, progress: FuzzProgress, pipe: Connection, failure: Failure | None
) -> None:
    """Run cases, always of the kind that has used the least of its share of the time."""
    with tempfile.TemporaryDirectory(prefix="remix-fuzz-") as folder:
        cases = [cases_of(kind, Path(folder)) for kind in job.kinds]
        if failure:
            keep(
                job,
                failure.kind,
                failure.number,
                cases[job.kinds.index(failure.kind)](job.seed, failure.number),
            )
        weights = [WEIGHTS.get(kind, 1.0) for kind in job.kinds]
        results, used, last_sent = Results(), [0.0] * len(cases), time.monotonic()
        num = [
            1 if job.case is not None else len(range(number, upto, job.num_workers))
            for upto in job.num_cases
        ]
        progress.end.value = progress.end.value or last_sent + job.seconds
        while (now := time.monotonic()) < progress.end.value:
            pending = [kind for kind in range(len(cases)) if progress.begun[kind] < num[kind]]
            if not pending:
                break
            kind = min(pending, key=lambda kind: used[kind] / weights[kind])
            progress.begun[kind] += 1
            progress.begin(kind)
            attempt(
                job,
                job.kinds[kind],
                number_of(job, number, progress.begun[kind] - 1),
                cases[kind],
                results,
            )
            used[kind] += time.monotonic() - now
            results.seconds[job.kinds[kind]] += time.monotonic() - now
            if results.failures or now - last_sent > REPORT_SECONDS:
                pipe.send(results)
                results, last_sent = Results(), now
        pipe.send(results)
        pipe.send(None)


def cases_of(kind: str, folder: Path) -> Cases:
    """The cases of a kind: a name in KINDS, or module:function."""
    own = folder / kind.replace(":", ".")
    own.mkdir()
    module, _, name = KINDS.get(kind, kind).rpartition(":")
    return getattr(import_module(module), name)(own)


def attempt(job: FuzzJob, kind: str, number: int, cases: Cases, results: Results) -> None:
    """Run one case. Its bytes are saved if it fails or has one of KEPT_OUTCOMES."""
    case = cases(job.seed, number)
    start, what, trace = time.monotonic(), "", ""
    try:
        outcome = case.judge(case.data)
    except Exception as error:
        outcome, what, trace = "failed", f"{type(error).__name__}: {error}"[:500], format_exc()
    took = time.monotonic() - start
    if not what and took > MAX_SECONDS and outcome not in KEPT_OUTCOMES:
        outcome, what = "failed", f"it took {took:.1f} s"
    if what:
        results.failures.append(Failure(kind=kind, number=number, what=what))
    if what or outcome in KEPT_OUTCOMES or job.case is not None:
        keep(job, kind, number, case, trace)
    results.outcomes[kind, outcome] += 1


def keep(job: FuzzJob, kind: str, number: int, case: Case, trace: str = "") -> None:
    """Write the bytes of a case and the traceback."""
    path = job.keep / f"{kind.replace(':', '.')}-{job.seed}-{number}-{case.name}"
    path.write_bytes(case.data)
    if trace:
        path.with_name(f"{path.name}.txt").write_text(
            trace, encoding="utf-8", errors="backslashreplace"
        )


if __name__ == "__main__":
    main()
