"""Mixed plans made from plain numbers, and what each row trains counted from the steps."""

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
"""How often a row comes again at a Shapley value."""
Steps = list[dict[str, Any]]
Change = Callable[[Steps], object]


def mixed(**asked: Any) -> PlanConfig:
    return PlanConfig(order="mixed", **asked)


def valued(num: int, num_modalities: int, *, missing: bool = True) -> Scores:
    """Scores with Shapley values from TIMES, NaN where the modality is missing."""
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
    """How often each (row, modality) is trained, -1 for all of them."""
    pairs: Counter[tuple[int, int]] = Counter()
    for step in plan.steps():
        owner = -1 if step.modality == "all" else names.index(step.modality)
        owners = [owner] * len(step.rows) if step.assigned is None else step.assigned.tolist()
        pairs.update(zip(step.rows.tolist(), owners, strict=True))
    return pairs


def with_again(scores: Scores, owners: np.ndarray) -> Counter[tuple[int, int]]:
    """Each row once by its owner, and as often as TIMES says by each modality."""
    expected = Counter(dict.fromkeys(zip(scores.rows.tolist(), owners.tolist(), strict=True), 1))
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
    """Changes the steps of a plan file, under a right fingerprint, or with no metadata at all."""
    table = read_table(path)
    steps, facts = table.to_pylist(), read_metadata(table.schema)
    change(steps)
    new = pa.Table.from_pylist(steps, schema or table.schema.remove_metadata())
    kept = {key: value for key, value in facts.items() if key not in ("fingerprint", without)}
    write_table(path, new if plain else with_metadata(new, kept))


METHODS = ("decouple", "reassemble", "resample", "resample+remix", "remix:joint")
