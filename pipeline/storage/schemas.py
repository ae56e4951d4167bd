"""Arrow schemas of the artifacts."""

import re
from collections.abc import Sequence

import pyarrow as pa

from pipeline.errors import DataError

ALL = "all"
"""Value of column `modality` in a warm-up step, which trains every modality."""

RESERVED = re.compile(r"all|fused|assembled(_.*)?")
"""Names that no modality can have: they are values and columns of other meaning in plans and in
test.arrow."""

METRICS = {"loss": "calibrated_loss", "accuracy": "validation_accuracy", "macro_f1": "macro_f1"}
"""Columns of epochs.arrow by `train.select.metric` of a run's configuration."""

SPLITS = ("train", "validation", "test")

REJECTED = pa.schema(
    [
        ("shard", pa.string()),
        ("sample_id", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("error", pa.string()),
    ]
)
PLAN = pa.schema([("step", pa.int32()), ("modality", pa.string()), ("rows", pa.list_(pa.int64()))])
PLANNED_ROWS = pa.schema([("step", pa.int32()), ("modality", pa.string()), ("row", pa.int64())])
"""A plan with one line per planned row, as it is exported."""
MIXED_PLAN = PLAN.append(pa.field("assigned", pa.list_(pa.int8())))
"""A plan whose batches mix modalities: `assigned` is the index of the modality trained by each row,
-1 for all."""


def samples_schema(modalities: Sequence[str]) -> pa.Schema:
    """samples.arrow of a feature set, one row per sample."""
    fields = [
        ("row", pa.int64()),
        ("sample_id", pa.string()),
        ("label", pa.int32()),
        ("split", pa.string()),
        ("shard", pa.string()),
        ("index_in_shard", pa.int64()),
    ]
    return pa.schema(fields + [(f"has_{name}", pa.bool_()) for name in modalities])


def scores_schema(modalities: Sequence[str]) -> pa.Schema:
    """Scores of an epoch, one row per sample.

    Per modality: the ability in bits (NaN if the sample lacks the modality), the probability of the
    label and the predicted class.
    """
    fields = [("row", pa.int64()), ("sample_id", pa.string()), ("label", pa.int32())]
    for name in modalities:
        fields += [
            (f"kl_{name}", pa.float32()),
            (f"p_label_{name}", pa.float32()),
            (f"predicted_{name}", pa.int32()),
        ]
    return pa.schema(fields)


def steps_schema(modalities: Sequence[str]) -> pa.Schema:
    """Log of the executed training steps, from which the coverage of the plan is verified.

    Per modality: the number of trained rows, and how many of them were predicted correctly.
    """
    fields = [
        ("epoch", pa.int32()),
        ("step", pa.int32()),
        ("modality", pa.string()),
        ("world_size", pa.int32()),
    ]
    fields += [
        ("num_rows", pa.int32()),
        ("rows_hash", pa.string()),
        ("loss", pa.float64()),
        ("fused_loss", pa.float64()),
        ("num_correct", pa.int32()),
    ]
    for name in modalities:
        fields += [(f"num_rows_{name}", pa.int32()), (f"num_correct_{name}", pa.int32())]
    return pa.schema([*fields, ("wait_seconds", pa.float64()), ("step_seconds", pa.float64())])


_EPOCH_TIMES = (
    "score_seconds",
    "plan_seconds",
    "load_seconds",
    "step_seconds",
    "validate_seconds",
    "epoch_seconds",
    "samples_per_second",
)


def epochs_schema(modalities: Sequence[str], *, diagnostics: bool = True) -> pa.Schema:
    """Metrics, one row per epoch: losses, accuracies, shares, churn, balance and times.

    progress is the share of the run that is done, of its epochs or its budget. train_loss has all
    terms, train_fused_loss is the cross-entropy of the fused head. calibrated_loss is
    the validation loss with logits divided by temperature. best_epoch would be tested if training
    ended here, null if none can be yet; best_epoch_<m> is the one to assemble the modality from.

    Args:
        modalities: names of the modalities; accuracies are fused and per modality.
        diagnostics: include the columns of train.diagnostics, null if it is off. Tables of older
            versions do not have them.
    """
    names = [
        "progress",
        "learning_rate",
        "train_loss",
        "train_fused_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
        "calibrated_loss",
        "temperature",
        "macro_f1",
    ]
    names += [
        f"{kind}_{name}" for kind in ("calibrated_loss", "temperature") for name in modalities
    ]
    # floating-point, as only such columns may contain nulls
    names += ["best_epoch", *(f"best_epoch_{name}" for name in modalities)]
    names += [
        f"{split}_accuracy_{name}" for split in ("train", "validation") for name in modalities
    ]
    names += [f"share_{name}" for name in modalities]
    names += ["churn", "rho", *_EPOCH_TIMES]
    if diagnostics:
        names += [
            *(
                f"{kind}_{name}"
                for kind in ("gradient_cosine", "zero_mask_accuracy")
                for name in modalities
            ),
            "head_gradient_cosine",
        ]
    counts = [
        ("epoch", pa.int32()),
        ("policy", pa.string()),
        ("schedule", pa.string()),
        ("num_steps", pa.int64()),
        ("num_rows", pa.int64()),
    ]
    return pa.schema(counts + [(name, pa.float64()) for name in names])


def check_columns(schema: pa.Schema, expected: pa.Schema, what: str) -> None:
    """Raise DataError if an expected column is missing, duplicated or of another type."""
    for field in expected:
        if field.name not in schema.names:
            raise DataError(
                f"{what}: column {field.name!r} is missing; columns are {', '.join(schema.names)}",
                "write the file again with that column",
            )
        if schema.names.count(field.name) > 1:
            raise DataError(
                f"{what}: column {field.name!r} occurs {schema.names.count(field.name)} times",
                "write the file again with one of them",
            )
        if schema.field(field.name).type != field.type:
            raise DataError(
                f"{what}: column {field.name!r} is {schema.field(field.name).type}, "
                f"not {field.type}",
                "write the file again with that type",
            )
