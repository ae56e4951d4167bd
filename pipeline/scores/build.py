"""From the unimodal predictions of a batch of rows to their scores: the one function behind training and `remix score`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.arrays import Array
from pipeline.errors import MismatchError
from pipeline.features.feature_set import FeatureSet
from pipeline.scores.difficulty import ability
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import column
from pipeline.storage.metadata import with_metadata
from pipeline.storage.schemas import scores_schema

Predict = Callable[[Array], Mapping[str, Array]]
"""rows (B,) int64 -> class probabilities (B, C) by name: one entry per modality; others are ignored."""


def score_rows(features: FeatureSet, rows: Array, probabilities: Mapping[str, Array]) -> pa.Table:
    """The scores of a batch of rows from their unimodal class probabilities, NaN where a sample lacks the modality (arXiv 2506.11550, section 3)."""
    labels = features.labels[rows]
    columns: dict[str, Any] = {
        "row": rows,
        "sample_id": features.samples["sample_id"].take(pa.array(rows)).combine_chunks(),
        "label": labels,
    }
    for k, name in enumerate(features.modalities):
        p, missing = probabilities[name], ~features.has[rows, k]
        columns[f"kl_{name}"] = np.where(missing, np.float32(np.nan), ability(p))
        columns[f"p_label_{name}"] = np.where(
            missing, np.float32(np.nan), p[np.arange(len(rows)), labels].astype(np.float32)
        )
        columns[f"predicted_{name}"] = np.where(missing, -1, p.argmax(axis=1)).astype(np.int32)
    return pa.table(columns, schema=scores_schema(features.modalities))


def batches_of(
    rows: Array, batch_size: int, part: int = 0, num_parts: int = 1
) -> Iterable[tuple[int, Array]]:
    """Fixed batches of rows with their numbers; of several parts, each takes every num_parts-th, so that a batch is the same whoever computes it."""
    for number in range(part, -(-len(rows) // batch_size), num_parts):
        yield number, rows[number * batch_size : (number + 1) * batch_size]


def join_scores(
    batches: Iterable[tuple[int, pa.Table]],
    features: FeatureSet,
    epoch: int,
    parents: Mapping[str, str],
    seed: int = 0,
    *,
    accuracy: Mapping[str, float] | None = None,
    smoothing: float = 0.0,
    previous: Scores | None = None,
) -> pa.Table:
    """One scores table from the numbered tables of all batches, with its metadata, and smoothed on from the `previous` scores where that is asked for.

    `accuracy`: the model's on the validation split by modality, where it is known.
    """
    tables: Sequence[pa.Table] = [table for _, table in sorted(batches, key=lambda pair: pair[0])]
    joined = pa.concat_tables(tables).combine_chunks()
    facts = {
        "epoch": epoch,
        "seed": seed,
        "modalities": features.modalities,
        "num_classes": len(features.classes),
    }
    if accuracy:
        facts["validation_accuracy"] = dict(accuracy)
    if smoothing:
        joined, facts["smoothing"] = (
            with_moving_average(joined, features.modalities, smoothing, previous),
            smoothing,
        )
    return with_metadata(
        joined, {**facts, "parents": {"features": features.fingerprint, **parents}}
    )


def with_moving_average(
    table: pa.Table, modalities: list[str], smoothing: float, previous: Scores | None
) -> pa.Table:
    """The scores with smooth_<m> float32: smoothing * that of `previous` + (1 - smoothing) * kl_<m>, the first ones kl_<m> itself (raises MismatchError)."""
    if previous and not np.array_equal(previous.rows, column(table, "row")):
        raise MismatchError(
            f"{previous.what} has other rows than the scores of this epoch, so they have no average",
            "restore the file, or start a new run",
        )
    for name in modalities:
        values = column(table, f"kl_{name}")
        if previous:
            before = column(previous.table, f"smooth_{name}").astype(np.float64)
            values = (smoothing * before + (1 - smoothing) * values.astype(np.float64)).astype(
                np.float32
            )
        table = table.append_column(f"smooth_{name}", pa.array(values))
    return table
