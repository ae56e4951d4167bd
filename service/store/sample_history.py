"""One sample found in the artifacts of a run by indexes: a few record batches of each."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline.errors import MissingError
from pipeline.features.id_index import IDS, IDS_SCHEMA, find_rows
from pipeline.plans.step_index import STEPS_SCHEMA, step_of
from pipeline.scores.difficulty import difficulty
from pipeline.storage.schemas import samples_schema, scores_schema
from pipeline.storage.table_checks import check_parent
from service.store.paging import Rows, Steps
from service.store.reader import Artifact, StoreReader, reading


def find_sample(
    reader: StoreReader, features: str, sample_id: str, modalities: Sequence[str]
) -> dict[str, Any]:
    """The sample's row of samples.arrow (raises MissingError, DataError)."""
    artifact = reader.artifact("features", features, IDS)
    index = reader.table(artifact, IDS_SCHEMA)
    samples = Rows(
        reader, reader.artifact("features", features, "samples.arrow"), samples_schema(modalities)
    )
    with reading(artifact):
        rows = find_rows(index, sample_id)
    for row in rows:
        for facts in samples.items(row, 1):
            if facts["sample_id"] == sample_id:
                return {**facts, "row": row}
    raise MissingError(
        f"features {features!r} have no sample {sample_id!r}",
        "give a sample_id as it stands in samples.arrow",
    )


def assigned(reader: StoreReader, steps: Steps, index: Artifact, row: int) -> dict[str, Any]:
    """The step of the plan that has the row, and the modality that it trains; {} where no step has it (raises MismatchError, DataError)."""
    file = reader.table(index, STEPS_SCHEMA)
    with reading(index):
        check_parent(
            str(index.path),
            file.metadata["parents"]["plan"],
            "plan",
            steps.header.metadata["fingerprint"],
        )
        step = step_of(file, row)
    return {} if step is None else {"step": step, "assigned": steps.modality(step, row)}


def scored(
    reader: StoreReader, scores: Artifact, row: int, modalities: Sequence[str]
) -> dict[str, Any] | None:
    """What the scores say of the row, by modality; None where they do not have it (raises DataError)."""
    file = reader.table(scores, scores_schema(modalities))
    firsts = reader.remember(
        scores, "firsts", lambda: [batch.column(0)[0].as_py() for batch in file.batches(["row"])]
    )
    with reading(scores):
        batch = file.batch(max(bisect_right(firsts, row) - 1, 0))
        position = pc.index(batch.column("row"), row).as_py()
        if position < 0:
            return None
        facts, num_classes = (
            batch.slice(position, 1).to_pylist()[0],
            file.metadata.get("num_classes"),
        )
        return {modality: _modality(facts, modality, num_classes) for modality in modalities}


def _modality(facts: dict[str, Any], modality: str, num_classes: Any) -> dict[str, Any]:
    kl = facts[f"kl_{modality}"]
    if kl is None or math.isnan(kl):
        return {"kl": None, "difficulty": None, "p_label": None, "predicted": None}
    hard = (
        float(difficulty(np.array([kl]), num_classes)[0])
        if isinstance(num_classes, int) and num_classes > 1
        else None
    )
    return {
        "kl": kl,
        "difficulty": hard,
        "p_label": facts[f"p_label_{modality}"],
        "predicted": facts[f"predicted_{modality}"],
    }
