"""Make scores from unimodal predictions; training and `remix score` share this code."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.arrays import Array, BoolArray
from pipeline.features.feature_set import FeatureSet
from pipeline.scores.difficulty import ability
from pipeline.storage.arrow_files import column
from pipeline.storage.metadata import with_metadata
from pipeline.storage.schemas import scores_schema

Predict = Callable[[Array], Mapping[str, Array]]
"""Maps rows (B,) int64 to class probabilities (B, C) per modality; other entries are ignored."""


def score_rows(features: FeatureSet, rows: Array, probabilities: Mapping[str, Array]) -> pa.Table:
    """Scores of a batch of rows, NaN if a sample lacks the modality (arXiv 2506.11550, section 3).

    Args:
        rows: (B,) row numbers.
        probabilities: (B, C) class probabilities of each modality's head.
    Returns:
        A table of scores_schema without sample_id, which join_scores adds: per modality kl_<m> in
        bits, p_label_<m> and predicted_<m>.
    """
    labels = features.labels[rows]
    columns: dict[str, Any] = {"row": rows, "label": labels}
    for k, name in enumerate(features.modalities):
        columns |= score_columns(name, probabilities[name], labels, ~features.has[rows, k])
    schema = scores_schema(features.modalities)
    return pa.table(columns, schema=schema.remove(schema.names.index("sample_id")))


def score_columns(name: str, p: Array, labels: Array, missing: BoolArray) -> dict[str, Array]:
    """The columns of a modality, (n,) each.

    Args:
        p: (n, C) class probabilities.
        labels: (n,).
        missing: (n,), the rows that lack the modality.
    """
    p_label = p[np.arange(len(p)), labels].astype(np.float32)
    return {
        f"kl_{name}": np.where(missing, np.float32(np.nan), ability(p)),
        f"p_label_{name}": np.where(missing, np.float32(np.nan), p_label),
        f"predicted_{name}": np.where(missing, -1, p.argmax(axis=1)).astype(np.int32),
    }


def batches_of(
    rows: Array, batch_size: int, part: int = 0, num_parts: int = 1
) -> Iterable[tuple[int, Array]]:
    """Yield every `num_parts`-th batch of rows, from batch `part` on, with its number.

    The batches do not depend on `num_parts`: a row's prediction depends on its batch to the last
    bit, so all processes must form the same batches.
    """
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
) -> pa.Table:
    """Join the numbered tables of all batches to one scores table with ids and metadata.

    Args:
        batches: (number, table) in any order.
        parents: Fingerprints recorded in the metadata, besides that of the features.
        accuracy: Validation accuracy of each modality's head, if known.
    """
    tables: Sequence[pa.Table] = [table for _, table in sorted(batches, key=lambda pair: pair[0])]
    joined = pa.concat_tables(tables).combine_chunks()
    joined = joined.add_column(1, "sample_id", features.ids_of(column(joined, "row")))
    metadata = {
        "epoch": epoch,
        "seed": seed,
        "modalities": features.modalities,
        "num_classes": len(features.classes),
    }
    if accuracy:
        metadata["validation_accuracy"] = dict(accuracy)
    return with_metadata(
        joined, {**metadata, "parents": {"features": features.fingerprint, **parents}}
    )
