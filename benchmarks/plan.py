"""Time to plan rows of two modalities, relative to NumPy's permutation of as many.

    python benchmarks/plan.py
    python benchmarks/plan.py --rows 1e9 --locality

`file_to_file` is the time from a file of scores to a plan that is written, validated and indexed,
with its statistics. The second command plans by windows of 65,536 rows, from scores that are
computed slice by slice, and reports seconds and peak memory instead of a ratio. Its batches are
consumed, not written.
"""

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from _report import report

from pipeline.arrays import Array
from pipeline.counter_rng import hashes, key_of
from pipeline.plans.config import PlanConfig
from pipeline.plans.plan import BatchPlan
from pipeline.plans.planner import build, remix_plan_builder, write_plan
from pipeline.plans.stats import plan_statistics
from pipeline.plans.step_index import write_step_index
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import write_table
from pipeline.storage.metadata import with_metadata
from pipeline.storage.store_path import StorePath

METADATA = {"modalities": ["audio", "video"], "num_classes": 10}


def main() -> None:
    """Measure both sides in alternation and print the ratio of their medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=lambda text: int(float(text)), default=10_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--locality",
        type=int,
        nargs="?",
        const=2**16,
        help="plan generated scores by windows of this many rows",
    )
    arguments = parser.parse_args()
    if arguments.locality:
        _by_windows(arguments.rows, arguments.locality)
        return
    with tempfile.TemporaryDirectory() as name:
        _in_memory(arguments.rows, arguments.repeats, StorePath.at(name))


def _in_memory(num_rows: int, repeats: int, folder: StorePath) -> None:
    """Plan scores that are in memory, and once more from file to file."""
    write_table(folder / "scores.arrow", with_metadata(_table(num_rows), METADATA))
    scores = Scores(_table(num_rows))

    def plan() -> list[pa.RecordBatch]:
        return list(remix_plan_builder(scores, PlanConfig(), 64, 0, 10).batches())

    sides: dict[str, Callable[[], object]] = {
        "plan": plan,
        "plan_with_fingerprint": lambda: build(remix_plan_builder(scores, PlanConfig(), 64, 0, 10)),
        "file_to_file": lambda: _file_to_file(folder, num_rows),
        "permutation": lambda: np.random.default_rng(0).permutation(num_rows),
    }
    before = _peak_gib()
    plan()
    peak = _peak_gib()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    report(
        "plan",
        median["plan"] / median["permutation"],
        goal="at most 2",
        numerator={
            "what": "remix_plan_builder(...).batches(), seconds",
            "median": median["plan"],
            "all": seconds["plan"],
        },
        denominator={
            "what": "default_rng().permutation, seconds",
            "median": median["permutation"],
            "all": seconds["permutation"],
        },
        ratio_with_fingerprint=median["plan_with_fingerprint"] / median["permutation"],
        ratio_file_to_file=median["file_to_file"] / median["plan"],
        rows=num_rows,
        peak_gib={"before": before, "with_plan": peak},
    )


def _file_to_file(folder: StorePath, num_rows: int) -> None:
    scores, path = Scores.open(folder / "scores.arrow"), folder / "plan.arrow"
    write_plan(path, remix_plan_builder(scores, PlanConfig(), 64, 0, 10))
    plan = BatchPlan.open(path)
    write_step_index(folder / "steps.arrow", plan, num_rows)
    plan_statistics(plan, scores=scores)


def _by_windows(num_rows: int, locality: int) -> None:
    """Plan generated scores once; `ratio` is the peak memory relative to its goal."""

    def ability(index: int, strength: float) -> Callable[[int, int], Array]:
        key, scale = key_of(index), np.float32(strength)
        return lambda start, stop: (
            (hashes(key, np.arange(start, stop)) >> np.uint64(40)).astype(np.float32)
            * (scale / np.float32(2**24))
        )

    scores = Scores.generated(
        num_rows,
        ["audio", "video"],
        {"row": np.arange, "kl_audio": ability(0, 3.0), "kl_video": ability(1, 2.0)},
    )
    start, processor, planned = time.perf_counter(), time.process_time(), 0
    for batch in remix_plan_builder(scores, PlanConfig(locality=locality), 64, 0, 10).batches():
        planned += len(batch.column("rows").values)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    assert planned == num_rows
    report(
        "plan_by_windows",
        _peak_gib() / 1.5,
        goal="peak memory below 1.5 GiB",
        rows=num_rows,
        locality=locality,
        seconds=seconds,
        processor_seconds=processor,
        processor_nanoseconds_per_row=1e9 * processor / num_rows,
        peak_gib=_peak_gib(),
    )


def _table(num_rows: int) -> pa.Table:
    draw = np.random.default_rng(0)
    sample_id = pa.array(["sample"]).take(pa.array(np.zeros(num_rows, np.int8)))
    table = {
        "row": np.arange(num_rows),
        "sample_id": sample_id,
        "label": draw.integers(0, 10, num_rows, np.int32),
    }
    for name, strength in (("audio", 3.0), ("video", 2.0)):
        table[f"kl_{name}"] = draw.random(num_rows, np.float32) * np.float32(strength)
    return pa.table(table)


def _peak_gib() -> float:
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1024 if sys.platform == "darwin" else 1
    )
    return round(kib / 2**20, 3)


if __name__ == "__main__":
    main()
