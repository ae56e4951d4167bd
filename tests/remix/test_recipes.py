"""The scripts of docs/recipes.md train every planned row once, in one process and in two."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.plans.config import PlanConfig
from pipeline.plans.planner import joint_plan_builder, remix_plan_builder, write_plan
from pipeline.scores.table import Scores
from pipeline.storage.store_path import StorePath
from tests.support.documentation import PAGES, ROOT, blocks
from tests.support.plan_tables import arithmetic_costs, scores_table
from tests.support.stores import make_features

SHAPES = {"audio": ((1, 4, 4), "float32"), "video": ((3, 4, 4), "uint8")}
NUM_ROWS, BATCH_SIZE, EPOCHS = 50, 8, 4
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts, and a store with the plans of a run; those after warm-up have more steps."""
    folder = tmp_path_factory.mktemp("recipes")
    make_features(folder / "store" / "features" / "demo", SHAPES, num_rows=NUM_ROWS)
    run = StorePath.at(folder / "store" / "runs" / "demo-remix-seed0")
    scores = Scores(scores_table(arithmetic_costs(NUM_ROWS, 2), names=list(SHAPES)))
    for epoch in range(EPOCHS):
        builder = (
            remix_plan_builder(scores, PlanConfig(order="interleaved"), BATCH_SIZE, 0, epoch)
            if epoch
            else joint_plan_builder(np.arange(NUM_ROWS), BATCH_SIZE, 0, epoch)
        )
        write_plan(run / "plans" / f"epoch-{epoch:04d}.arrow", builder)
    (run / "run.json").write_json({"status": "finished"})
    for block in blocks(PAGES["recipes.md"], "python"):
        name = re.match(r"# (\w+\.py)\n", block)
        assert name
        (folder / name[1]).write_text(block)
    return folder


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("num_processes", ["1", "2"])
@pytest.mark.parametrize("name", ["with_lightning", "with_accelerate", "with_trainer"])
def test_every_planned_row_is_trained_once(folder: Path, name: str, num_processes: str) -> None:
    own = name == "with_lightning"  # it starts its processes itself
    command = [f"{name}.py", num_processes] if own else [*TORCHRUN, num_processes, f"{name}.py"]
    ended = python(folder, *command)
    assert ended.returncode == 0, ended.stderr
    assert f"{num_processes} processes trained {NUM_ROWS * EPOCHS} planned rows" in ended.stdout
