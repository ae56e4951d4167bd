"""Time and peak memory of each stage with 1x, 10x and 100x the rows and shards, as a table.

    python benchmarks/growth.py [--rows 100] [--scales 1 10 100]

A shard has `--rows` samples of two small arrays. Each stage runs in a process of its own, whose
peak memory is that of the driver: workers of Ray are not in it. Ray and imports take some seconds
of each stage, so that time per row falls at first. The service lists all samples in pages of 100.
"""

import argparse
import io
import json
import os
import resource
import runpy
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import psutil
from _report import report

STAGES = ("decode", "score", "plan", "load", "service")
SHAPE = (16,)
PORT = 18771
DECODE = f"""modalities:
  left: {{kind: tensor, member: left.npy, shape: [{SHAPE[0]}]}}
  right: {{kind: tensor, member: right.npy, shape: [{SHAPE[0]}]}}
"""
RUN = """name: run
features: x1
store: {store}
model: {{encoder: {{kind: mlp, hidden: 8}}}}
train: {{epochs: 1, warmup_epochs: 1, batch_size: 8}}
"""


def write_shards(folder: Path, num_shards: int, rows: int) -> None:
    """Write shards of arrays of zeros, a fifth of them for validation and for testing each."""
    folder.mkdir()
    (folder / "decode.yaml").write_text(DECODE)
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(SHAPE, np.float32))
    for shard in range(num_shards):
        with tarfile.open(folder / f"{shard:06d}.tar", "w") as tar:
            for row in range(shard * rows, (shard + 1) * rows):
                split = ("train", "train", "train", "validation", "test")[row % 5]
                # labels change only after all splits, so that each split has all classes
                metadata = {"label": f"class {row // 5 % 2}", "split": split}
                members = {
                    "json": json.dumps(metadata).encode(),
                    "left.npy": buffer.getvalue(),
                    "right.npy": buffer.getvalue(),
                }
                for suffix, data in members.items():
                    info = tarfile.TarInfo(f"{row:09d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def command(*arguments: str) -> None:
    """Run a command of Remix in this process, without its output."""
    sys.argv = ["remix", *arguments]
    try:
        with redirect_stdout(io.StringIO()):
            runpy.run_module("remix", run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, f"remix {' '.join(arguments)}: exit status {ended.code}"


def load(store: Path, scale: int) -> None:
    """Load the rows of a plan in its order, with the loader of the trainer."""
    from pipeline.features.feature_set import FeatureSet
    from pipeline.plans.plan import BatchPlan
    from trainer.data.plan_loader import PlanLoader
    from trainer.process_group import World

    features = FeatureSet.open(str(store / "features" / f"x{scale}"))
    plan = BatchPlan.open(str(store / f"plan-{scale}.arrow"))
    loader = PlanLoader(features, plan, start=0, world=World(), skip_masked=True, prefetch=3)
    assert sum(len(batch.rows) for batch in loader)


def serve(store: Path, scale: int) -> float:
    """List all samples page by page; returns the service's peak memory in MiB."""
    arguments = [sys.executable, "-m", "remix", "serve", "--store", str(store)]
    with subprocess.Popen([*arguments, "--port", str(PORT)], stderr=subprocess.DEVNULL) as process:
        try:
            service, url = psutil.Process(process.pid), f"http://127.0.0.1:{PORT}"
            highest, page = 0, f"/v1/features/x{scale}/samples?limit=100"
            while page:
                try:
                    with urllib.request.urlopen(urllib.parse.urljoin(url, page)) as response:
                        page = json.load(response)["next"]
                except urllib.error.URLError as error:
                    if not isinstance(error.reason, ConnectionRefusedError):
                        raise
                    time.sleep(0.05)  # it does not listen yet
                highest = max(highest, service.memory_info().rss)
        finally:
            process.terminate()
    return highest / 2**20


def run_stage(stage: str, store: Path, scale: int) -> dict[str, float]:
    """Run one stage in this process; returns its seconds and peak memory in MiB."""
    features, scores = str(store / "features" / f"x{scale}"), str(store / f"scores-{scale}.arrow")
    checkpoint = str(store / "runs" / "run" / "checkpoints" / "best.pt")
    stages: dict[str, Callable[[], object]] = {
        "decode": lambda: command("decode", str(store / f"shards-{scale}"), "--out", features),
        "train": lambda: command("train", str(store / "run.yaml")),
        "score": lambda: command(
            "score", features, "--checkpoint", checkpoint, "--out", scores, "--batch", "64"
        ),
        "plan": lambda: command("plan", scores, "--out", str(store / f"plan-{scale}.arrow")),
        "load": lambda: load(store, scale),
        "service": lambda: serve(store, scale),
    }
    start = time.perf_counter()
    memory = stages[stage]()
    seconds = time.perf_counter() - start
    if not isinstance(memory, float):
        unit = 2**20 if sys.platform == "darwin" else 2**10
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {"seconds": round(seconds, 2), "peak_mib": round(memory)}


def in_process(stage: str, store: Path, scale: int) -> dict[str, float]:
    """Run a stage in a new process."""
    arguments = [sys.executable, __file__, "--stage", stage, "--store", str(store)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    done = subprocess.run(
        [*arguments, "--scales", str(scale)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Print the table and one JSON line.

    `ratio` is the largest growth of a stage's time per row at the last scale.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100, help="rows of a shard")
    parser.add_argument("--scales", type=int, nargs="+", default=[1, 10, 100], help="shards")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    scales = arguments.scales
    if arguments.stage:
        print(json.dumps(run_stage(arguments.stage, arguments.store, scales[0])))
        return
    measured: dict[str, list[dict[str, float]]] = {stage: [] for stage in STAGES}
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        (store / "run.yaml").write_text(RUN.format(store=store).replace("x1", f"x{scales[0]}"))
        for scale in scales:
            write_shards(store / f"shards-{scale}", scale, arguments.rows)
            for stage in STAGES:
                if stage == "score" and scale == scales[0]:
                    in_process("train", store, scale)
                measured[stage].append(in_process(stage, store, scale))
                print(stage, scale, measured[stage][-1], file=sys.stderr)
    print("| stage | " + " | ".join(f"{scale * arguments.rows:,} rows" for scale in scales) + " |")
    print("|---" * (1 + len(scales)) + "|")
    for stage, results in measured.items():
        cells = [
            f"{each['seconds']:.1f} s, {1e3 * each['seconds'] / scale / arguments.rows:.3g} ms/row,"
            f" {each['peak_mib']:.0f} MiB"
            for scale, each in zip(scales, results, strict=True)
        ]
        print(f"| {stage} | " + " | ".join(cells) + " |")
    growth = {
        stage: results[-1]["seconds"] / results[-2]["seconds"] / (scales[-1] / scales[-2])
        for stage, results in measured.items()
        if len(results) > 1
    }
    report("growth", max(growth.values(), default=1), goal="at most 1", stages=measured)


if __name__ == "__main__":
    main()
