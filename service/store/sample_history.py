"""Look up one sample in the artifacts of a run, through indexes instead of scans."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline.errors import DataError, MissingError
from pipeline.features.id_index import IDS, IDS_SCHEMA, find_rows
from pipeline.plans.step_index import STEPS_SCHEMA, step_of
from pipeline.scores.difficulty import difficulty
from pipeline.storage.schemas import samples_schema, scores_schema
from pipeline.storage.table_checks import check_parent
from service.schemas import Parent
from service.store.paging import Rows, Steps
from service.store.reader import Artifact, StoreReader, reading


def find_sample(
    reader: StoreReader, features: str, sample_id: str, modalities: Sequence[str]
) -> dict[str, Any]:
    """Return the sample's row of samples.arrow. Raises MissingError, DataError."""
    artifact = reader.artifact("features", features, IDS)
    index = reader.table(artifact, IDS_SCHEMA)
    samples = Rows(
        reader, reader.artifact("features", features, "samples.arrow"), samples_schema(modalities)
    )
    with reading(artifact):
        rows = find_rows(index, sample_id)
    for row in rows:
        for sample in samples.items(row, 1):
            if sample["sample_id"] == sample_id:
                return {**sample, "row": row}
    raise MissingError(
        f"Sample not found in features {features!r}: {sample_id!r}",
        f"GET /v1/features/{features}/samples lists samples",
    )


def sample_at(samples: Rows, features: str, row: int) -> dict[str, Any]:
    """Return a row of samples.arrow. Raises MissingError, DataError."""
    if row >= len(samples):
        raise MissingError(
            f"Row not in features {features!r}: {row}", f"Choose from 0 to {len(samples) - 1}"
        )
    return samples.items(row, 1)[0]


def check_features(run: str, recorded: Parent, fingerprint: str) -> None:
    """Raise DataError if the features of a run have another fingerprint than it recorded."""
    if fingerprint != recorded.fingerprint:
        raise DataError(
            f"Features {recorded.name!r} changed since run {run!r}: fingerprint was"
            f" {recorded.fingerprint[:12]}, is {fingerprint[:12]}",
            "Restore the features, or delete the run",
        )


def history(
    reader: StoreReader,
    row: int,
    modalities: Sequence[str],
    steps: Mapping[int, Steps],
    indexes: Mapping[int, Artifact],
    scores: Mapping[int, Artifact],
) -> list[dict[str, Any]]:
    """Return the assignment and the scores of a row in each epoch that has a plan or scores.

    Args:
        steps, indexes: Steps of the plans and their indexes by row, by epoch.
        scores: Scores by epoch.
    Raises:
        MissingError, MismatchError, DataError.
    """
    epochs = []
    for epoch in sorted({*steps, *scores}):
        entry: dict[str, Any] = {"epoch": epoch}
        if epoch in steps:
            entry |= assignment(reader, steps[epoch], indexes[epoch], row)
        if epoch in scores:
            entry["modalities"] = scores_of(reader, scores[epoch], row, modalities)
        epochs.append(entry)
    return epochs


def assignment(reader: StoreReader, steps: Steps, index: Artifact, row: int) -> dict[str, Any]:
    """Return the step that contains the row, and the modality that the row trains there.

    Empty if no step contains it. Raises MismatchError, DataError.
    """
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


def scores_of(
    reader: StoreReader, scores: Artifact, row: int, modalities: Sequence[str]
) -> dict[str, Any] | None:
    """Return the scores of the row by modality; None if it was not scored. Raises DataError."""
    file = reader.table(scores, scores_schema(modalities))
    first_rows = reader.cached(
        scores,
        "first rows",
        lambda: [batch.column(0)[0].as_py() for batch in file.batches(["row"])],
    )
    with reading(scores):
        batch = file.batch(max(bisect_right(first_rows, row) - 1, 0))
        position = pc.index(batch.column("row"), row).as_py()
        if position < 0:
            return None
        fields = batch.slice(position, 1).to_pylist()[0]
        num_classes = file.metadata.get("num_classes")
        return {modality: _modality(fields, modality, num_classes) for modality in modalities}


def _modality(fields: dict[str, Any], modality: str, num_classes: Any) -> dict[str, Any]:
    kl = fields[f"kl_{modality}"]
    if kl is None or math.isnan(kl):
        return {"kl": None, "difficulty": None, "p_label": None, "predicted": None}
    has_classes = isinstance(num_classes, int) and num_classes > 1
    return {
        "kl": kl,
        "difficulty": float(difficulty(np.array([kl]), num_classes)[0]) if has_classes else None,
        "p_label": fields[f"p_label_{modality}"],
        "predicted": fields[f"predicted_{modality}"],
    }
