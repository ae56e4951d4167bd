"""Tables with edits under a right or a wrong fingerprint, and whether a message names what it has to."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.plans.config import PlanConfig
from pipeline.plans.planner import build, remix_draft
from pipeline.scores.table import Scores
from pipeline.storage.metadata import read_metadata, with_metadata
from tests.support import mutate

NAN = float("nan")
SCORES = mutate.scores_to_mutate()
PLAN = build(remix_draft(Scores(SCORES), PlanConfig(), 8, 0, 2)).table
STEPS = PLAN.to_pylist()
LACKING = int(np.flatnonzero(np.isnan(SCORES["kl_ears"].to_numpy()))[0])
HAVING = int(np.flatnonzero(~np.isnan(SCORES["kl_ears"].to_numpy()))[3])
Edit = Callable[[pa.Table], pa.Table]


def sealed(table: pa.Table, **changes: Any) -> pa.Table:
    """The table under metadata with these entries changed, None removes one, and a right fingerprint."""
    facts = {
        **read_metadata(SCORES.schema if "kl_ears" in table.column_names else PLAN.schema),
        **changes,
    }
    if any(
        column.null_count or (name == "rows" and pc.list_flatten(column).null_count)
        for name, column in zip(table.column_names, table.columns, strict=True)
    ):
        return table.replace_schema_metadata(
            PLAN.schema.metadata if "rows" in table.column_names else SCORES.schema.metadata
        )  # nulls have no hash
    return with_metadata(
        table,
        {key: value for key, value in facts.items() if value is not None and key != "fingerprint"},
    )


def value(name: str, row: int, new: object) -> Edit:
    """Another value in a column; the table is sealed again."""

    def change(table: pa.Table) -> pa.Table:
        values = table[name].to_pylist()
        values[row] = new
        at = table.column_names.index(name)
        return sealed(
            table.set_column(
                at, table.schema.field(name), pa.array(values, table.schema.field(name).type)
            )
        )

    return change


def facts(**changes: Any) -> Edit:
    return lambda table: sealed(table, **changes)


def lying(edit: Edit) -> Edit:
    """The edit under the fingerprint that was there before."""
    return lambda table: edit(table).replace_schema_metadata(table.schema.metadata)


def names(text: str, words: str, path: object = "") -> bool:
    """Whether a message, but for its path, names each of the words."""
    rest = text.replace(str(path), "") if path else text
    return all(
        re.search(rf"(?<![\w.])(?<!\w-){re.escape(word)}(?!\w)", rest) for word in words.split()
    )
