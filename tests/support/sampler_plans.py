"""Two plans, and a data set for them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader

from pipeline.plans.config import PlanConfig
from pipeline.plans.planner import build, joint_plan_builder, remix_plan_builder
from pipeline.scores.table import Scores
from tests.support.plan_tables import arithmetic_costs, scores_table

PLAN = build(
    remix_plan_builder(
        Scores(scores_table(arithmetic_costs(200, 3))), PlanConfig(order="interleaved"), 16, 5, 2
    )
)
STEPS = [(step.modality, step.rows.tolist()) for step in PLAN.steps()]
ROWS = [rows for _, rows in STEPS]
MODALITIES = [modality for modality, _ in STEPS]
NUM = len(PLAN)
OTHER = build(joint_plan_builder(np.arange(200), 16, 5, 2))
SAMPLES: Any = range(200)
"""A data set whose samples are their own row numbers."""


def write(path: Path, table: pa.Table, chunk: int = 3) -> str:
    """Write a plan in small record batches, so that even a short plan has many of them."""
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=chunk)
    return str(path)


def loaded(loader: DataLoader[torch.Tensor]) -> list[list[int]]:
    return [batch.tolist() for batch in loader]


def take(iterator: Iterator[Any], num: int) -> list[Any]:
    return [next(iterator) for _ in range(num)]
