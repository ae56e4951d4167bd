"""Mixed plans from simple scores, and counts of the assignments in their steps."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.plans.config import PlanConfig
from pipeline.plans.plan import BatchPlan
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import read_table, write_table
from pipeline.storage.metadata import read_metadata, with_metadata
from pipeline.storage.store_path import StorePath
from tests.support.plan_tables import arithmetic_costs, scores_table

TIMES = {-1.0: 3, -0.5: 3, 0.0: 2, 0.5: 1, 1.0: 0, 1.5: 0}
"""Number of copies of a row by its Shapley value."""
Steps = list[dict[str, Any]]
Change = Callable[[Steps], object]


def mixed(**options: Any) -> PlanConfig:
    return PlanConfig(order="mixed", **options)


def valued(num: int, num_modalities: int, *, missing: bool = True) -> Scores:
    """Scores with Shapley values from TIMES, NaN if the modality is missing."""
    costs = arithmetic_costs(num, num_modalities, missing=missing)
    values = np.array(list(TIMES), np.float32)[
        np.random.default_rng(num).integers(0, len(TIMES), costs.shape)
    ]
    table = scores_table(costs, rows=np.arange(num) * 3 + 5)
    for k in range(num_modalities):
        table = table.append_column(
            f"shapley_m{k}",
            pa.array(np.where(np.isnan(costs[:, k]), np.float32(np.nan), values[:, k])),
        )
    return Scores(table)


def trained(plan: BatchPlan, names: list[str]) -> Counter[tuple[int, int]]:
    """How often each (row, modality) is trained; -1 stands for all modalities."""
    pairs: Counter[tuple[int, int]] = Counter()
    for step in plan.steps():
        index = -1 if step.modality == "all" else names.index(step.modality)
        assignment = [index] * len(step.rows) if step.assigned is None else step.assigned.tolist()
        pairs.update(zip(step.rows.tolist(), assignment, strict=True))
    return pairs


def with_copies_counted(scores: Scores, assignment: np.ndarray) -> Counter[tuple[int, int]]:
    """Expected counts: every row once by its assignment, and its copies according to TIMES."""
    expected = Counter(
        dict.fromkeys(zip(scores.rows.tolist(), assignment.tolist(), strict=True), 1)
    )
    for k, name in enumerate(scores.modalities):
        for row, value in zip(
            scores.rows.tolist(), scores.table[f"shapley_{name}"].to_pylist(), strict=True
        ):
            expected[row, k] += TIMES.get(value, 0)
    return +expected


def rewrite(
    path: StorePath,
    change: Change,
    schema: pa.Schema | None = None,
    *,
    without: str = "",
    plain: bool = False,
) -> None:
    """Change the steps of a plan file, and update the fingerprint or remove all metadata."""
    table = read_table(path)
    steps, metadata = table.to_pylist(), read_metadata(table.schema)
    change(steps)
    new = pa.Table.from_pylist(steps, schema or table.schema.remove_metadata())
    kept = {key: value for key, value in metadata.items() if key not in ("fingerprint", without)}
    write_table(path, new if plain else with_metadata(new, kept))


METHODS = ("decouple", "reassemble", "resample", "resample+remix", "remix:joint")
