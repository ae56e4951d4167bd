"""Kills the commands that write files, resumes them, and checks that the result is unaffected.

    python benchmarks/kills.py --kills 200 [--seed 0] [--stages train,plan] [--case 17]
    python benchmarks/kills.py --features STORE/features/NAME    train on given features

Inputs are generated: clips, their features, a run with its checkpoint, and scores of 300,000 rows.
Every stage runs once undisturbed. In each case, a command is started in its own session and killed
with SIGKILL, alone or with its workers, at a random moment: uniformly over its undisturbed time, or
over the time after its first file, or during the next write after such a moment. Then the same
command is run again; a quarter of these resumes are killed too. Three of four commands that need
Ray join a cluster that outlives them; the others start their own.

After a kill, all visible files must be complete. After the last resume, all files must be equal to
those of the undisturbed command except for times, no temporary file may be left, and the log must
name the killed process that held the lock. `ratio` is the fraction of cases for which all of this
holds. The folder of a failed case is kept; rerun it with --case.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np
from _kill_commands import ComposeCluster
from _kill_stages import RAY, Case, Stages
from _report import report

WEIGHTS = {
    "decode": 15,
    "score": 15,
    "plan": 30,
    "train": 30,
    "generate": 4,
    "repair": 3,
    "report": 3,
}
"""Percentage of cases by stage."""


def schedule(kills: int, stages: list[str], seed: int) -> list[Case]:
    """Draw the stages of the cases: numbers in proportion to the weights, in random order."""
    total, order = sum(WEIGHTS[stage] for stage in stages), []
    for i, stage in enumerate(stages):
        first, last = (
            round(kills * sum(WEIGHTS[stage] for stage in stages[:n]) / total) for n in (i, i + 1)
        )
        order += [stage] * (last - first)
    return [
        Case(number=number, stage=order[k])
        for number, k in enumerate(np.random.default_rng(seed).permutation(kills).tolist())
    ]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, help="the number of kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", default=",".join(WEIGHTS), help="separated by commas")
    parser.add_argument(
        "--features",
        type=Path,
        help="feature set to train on (default: decode a generated one)",
    )
    parser.add_argument("--case", type=int, help="run this case only")
    return parser.parse_args()


def main() -> None:
    """Run the cases and print the report."""
    arguments = parse_arguments()
    stages = arguments.stages.split(",")
    cases = [
        case
        for case in schedule(arguments.kills, stages, arguments.seed)
        if arguments.case in (None, case.number)
    ]
    folder, start = Path(tempfile.mkdtemp(prefix="remix-kills-")), time.monotonic()
    work = Stages(folder, arguments.features)
    with ExitStack() as stack:
        if {*RAY} & {*stages} or not arguments.features:
            work.cluster = stack.enter_context(ComposeCluster(folder / "cluster")).ready()
        work.prepare([stage for stage in WEIGHTS if any(case.stage == stage for case in cases)])
        prepared = time.monotonic()
        for case in cases:
            if sum(len(case.kills) for case in cases) >= arguments.kills:
                break
            work.case(case, arguments.seed)
            print(
                f"case {case.number}: {case.stage}: {'; '.join(case.kills)}:"
                f" {case.problems or 'equal'}",
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
            "what": "cases whose artifacts equal those of the undisturbed command",
            "num": len(cases) - len(failed),
        },
        below={"what": "cases of SIGKILL and resume", "num": len(cases)},
        kills=sum(len(case.kills) for case in cases),
        stages=dict(Counter(case.stage for case in cases)),
        modes=dict(Counter(kill.split(",")[0] for case in cases for kill in case.kills)),
        undisturbed_seconds={
            stage: round(result.seconds, 2) for stage, result in work.undisturbed.items()
        },
        failures=[
            {**asdict(case), "folder": str(folder / f"case-{case.number}")} for case in failed
        ],
        seed=arguments.seed,
        seconds={
            "prepare": round(prepared - start, 1),
            "cases": round(time.monotonic() - prepared, 1),
        },
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
