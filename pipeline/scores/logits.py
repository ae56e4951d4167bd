"""Scores from logits of any model, without a feature set."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.arrays import Float64Array
from pipeline.errors import DataError
from pipeline.scores.build import score_columns
from pipeline.scores.table import Scores
from pipeline.storage.metadata import with_metadata
from pipeline.storage.schemas import scores_schema


def scores_from_logits(
    ids: Sequence[Any], labels: Sequence[int], logits: Mapping[str, Any]
) -> Scores:
    """Make scores from the logits of one classifier per modality, trained in any way.

    Args:
        ids: (N,) ids of the samples. The rows of a plan are positions in this list.
        labels: (N,) classes, from 0 to C - 1.
        logits: by modality, (N, C) arrays or tensors; a row of NaN if the sample lacks the
            modality.
    Raises:
        DataError: the lengths differ, a label is out of range, a logit is infinite, or a sample has
            no modality.

    Example:
        scores = remix.scores_from_logits(ids, labels, {"audio": audio, "video": video})
        plan = remix.plan(scores, batch_size=64)
        for step in plan.steps():
            print(step.modality, [ids[row] for row in step.rows])
    """
    columns: dict[str, Any] = {
        "row": np.arange(len(ids)),
        "sample_id": [str(id_) for id_ in ids],
        "label": _array(labels).astype(np.int32),
    }
    arrays = {name: _array(values).astype(np.float64) for name, values in logits.items()}
    num_classes = next((x.shape[1] for x in arrays.values() if x.ndim == 2), 0)
    if columns["label"].shape != (len(ids),):
        raise DataError(
            f"labels have the shape {columns['label'].shape}, but there are {len(ids)} ids",
            "pass one label per id",
        )
    wrong = np.flatnonzero((columns["label"] < 0) | (columns["label"] >= num_classes))
    if len(wrong):
        raise DataError(
            f"the label of {ids[wrong[0]]!r} is {columns['label'][wrong[0]]}, but the logits are "
            f"for {num_classes} classes",
            "labels are integers from 0 up, below the number of classes",
        )
    for name, x in arrays.items():
        _check(name, x, (len(ids), num_classes), ids)
        columns |= score_columns(name, _softmax(x), columns["label"], np.isnan(x).all(axis=1))
    metadata = {"modalities": list(arrays), "num_classes": num_classes}
    table = pa.table(columns, schema=scores_schema(list(arrays)))
    return Scores(with_metadata(table, metadata), "the scores of these logits")


def _array(values: Any) -> Any:
    """Values as an array; a tensor may need gradients, be on a GPU, or be bfloat16."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values
    return np.asarray(values)


def _check(name: str, x: Float64Array, shape: tuple[int, int], ids: Sequence[Any]) -> None:
    if x.shape != shape:
        raise DataError(
            f"the logits of {name!r} have the shape {x.shape}, not {shape}",
            "pass one row per id and one column per class, the same ones for each modality",
        )
    missing = np.isnan(x).all(axis=1)
    wrong = np.flatnonzero(~missing & ~np.isfinite(x).all(axis=1))
    if len(wrong):
        raise DataError(
            f"the logits of {name!r} for {ids[wrong[0]]!r} are {x[wrong[0]]}",
            "pass finite logits, or a row of NaN if the sample lacks the modality",
        )


def _softmax(x: Float64Array) -> Float64Array:
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    result: Float64Array = powers / powers.sum(axis=1, keepdims=True)
    return result
