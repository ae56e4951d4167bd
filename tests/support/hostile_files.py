"""Edited tables with a correct or an outdated fingerprint."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.plans.config import PlanConfig
from pipeline.plans.planner import build, remix_plan_builder
from pipeline.scores.table import Scores
from pipeline.storage.metadata import read_metadata, with_metadata
from tests.support import mutate

NAN = float("nan")
SCORES = mutate.scores_to_mutate()
PLAN = build(remix_plan_builder(Scores(SCORES), PlanConfig(), 8, 0, 2)).table
STEPS = PLAN.to_pylist()
LACKING = int(np.flatnonzero(np.isnan(SCORES["kl_ears"].to_numpy()))[0])
HAVING = int(np.flatnonzero(~np.isnan(SCORES["kl_ears"].to_numpy()))[3])
Edit = Callable[[pa.Table], pa.Table]


def sealed(table: pa.Table, **changes: Any) -> pa.Table:
    """The table with changed metadata and a correct fingerprint.

    A table with nulls, which cannot be hashed, keeps its old metadata.
    """
    is_plan = "rows" in table.column_names
    old = (PLAN if is_plan else SCORES).schema
    if any(column.null_count for column in table.columns) or (
        is_plan and pc.list_flatten(table["rows"]).null_count
    ):
        return table.replace_schema_metadata(old.metadata)
    known = {key: entry for key, entry in read_metadata(old).items() if key != "fingerprint"}
    return with_metadata(table, known | changes)


def with_value(table: pa.Table, name: str, row: int, new: object) -> pa.Table:
    """The table with one value of a column replaced."""
    number, values = table.column_names.index(name), table[name].to_pylist()
    values[row] = new
    field = table.schema.field(name)
    return table.set_column(number, field, pa.array(values, field.type))


def value(name: str, row: int, new: object) -> Edit:
    """An edit that replaces one value and updates the fingerprint."""
    return lambda table: sealed(with_value(table, name, row, new))


def facts(**changes: Any) -> Edit:
    """An edit that changes metadata and updates the fingerprint."""
    return lambda table: sealed(table, **changes)


def lying(edit: Edit) -> Edit:
    """The edit with the outdated fingerprint."""
    return lambda table: edit(table).replace_schema_metadata(table.schema.metadata)
