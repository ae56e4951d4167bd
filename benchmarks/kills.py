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
"""Of each stage, in cases of a hundred."""


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


def asked_for() -> argparse.Namespace:
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
    return parser.parse_args()


def main() -> None:
    """Runs the cases and reports."""
    asked = asked_for()
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
            work.cluster = stack.enter_context(ComposeCluster(folder / "cluster")).ready()
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
