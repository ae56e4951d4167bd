"""The scripts of docs/recipes.md train every planned row once, in one process and in two."""

import json
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
NAMES = ["with_lightning.py", "with_accelerate.py", "with_trainer.py"]


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


@pytest.fixture(scope="module")
def exit_codes(folder: Path) -> dict[str, list[int]]:
    """The exit codes of the processes of each script, by script and number of processes."""
    command = [sys.executable, "-m", "tests.support.script_ranks", *NAMES]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return dict(json.loads(ended.stdout))


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_every_planned_row_is_trained_once(
    folder: Path, exit_codes: dict[str, list[int]], name: str, num_processes: int
) -> None:
    case = f"{name}-{num_processes}"
    logs = [(folder / f"{case}-{rank}.log").read_text() for rank in range(num_processes)]
    assert exit_codes[case] == [0] * num_processes, logs
    expected = f"{num_processes} processes trained {NUM_ROWS * EPOCHS} planned rows"
    assert all(expected in log for log in logs)
