"""Arrow schemas of the artifacts, their `remix.*` metadata and their fingerprints."""

from collections.abc import Sequence

import pyarrow as pa

from pipeline.errors import DataError

ALL = "all"
"""The `modality` of a warm-up step: every modality is trained."""


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
MIXED_PLAN = PLAN.append(pa.field("assigned", pa.list_(pa.int8())))
"""Of a plan whose batches mix modalities: per row the index of the one that it trains, -1 for all of them."""


def samples_schema(modalities: Sequence[str]) -> pa.Schema:
    """The samples of a feature set, one row a sample."""
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
    """The scores of an epoch: per modality the ability in bits (NaN = missing), the label's probability and the predicted class."""
    fields = [("row", pa.int64()), ("sample_id", pa.string()), ("label", pa.int32())]
    for name in modalities:
        fields += [
            (f"kl_{name}", pa.float32()),
            (f"p_label_{name}", pa.float32()),
            (f"predicted_{name}", pa.int32()),
        ]
    return pa.schema(fields)


def smooth_schema(modalities: Sequence[str]) -> pa.Schema:
    """What scores have beside scores_schema where training smooths them: per modality the moving average of the ability in bits."""
    return pa.schema([(f"smooth_{name}", pa.float32()) for name in modalities])


def steps_schema(modalities: Sequence[str]) -> pa.Schema:
    """The steps that were really taken: the proof of coverage, and per modality how many rows were trained and how many of them predicted right."""
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
        ("num_correct", pa.int32()),
    ]
    for name in modalities:
        fields += [(f"num_rows_{name}", pa.int32()), (f"num_correct_{name}", pa.int32())]
    return pa.schema([*fields, ("wait_seconds", pa.float64()), ("step_seconds", pa.float64())])


def epochs_schema(modalities: Sequence[str], *, diagnostics: bool = True) -> pa.Schema:
    """One row an epoch: losses, accuracies (fused and per modality), shares, churn, balance, times.

    `diagnostics`: with the columns of train.diagnostics, null where it is off, which tables of older versions lack.
    """
    names = [
        "learning_rate",
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
    ]
    names += [
        f"{split}_accuracy_{name}" for split in ("train", "validation") for name in modalities
    ]
    names += [f"share_{name}" for name in modalities]
    names += [
        "churn",
        "rho",
        "score_seconds",
        "plan_seconds",
        "load_seconds",
        "step_seconds",
        "validate_seconds",
        "epoch_seconds",
        "samples_per_second",
    ]
    if diagnostics:
        names += [
            *(
                f"{kind}_{name}"
                for kind in ("gradient_cosine", "zero_mask_accuracy")
                for name in modalities
            ),
            "head_gradient_cosine",
        ]
    facts = [
        ("epoch", pa.int32()),
        ("policy", pa.string()),
        ("num_steps", pa.int64()),
        ("num_rows", pa.int64()),
    ]
    return pa.schema(facts + [(name, pa.float64()) for name in names])


def check_columns(schema: pa.Schema, expected: pa.Schema, what: str) -> None:
    """Raises DataError where a column of the expected schema is missing or of another type."""
    for field in expected:
        if field.name not in schema.names:
            raise DataError(
                f"{what}: column {field.name!r} is missing (found {', '.join(schema.names)})",
                "write the file again with that column",
            )
        if schema.names.count(field.name) > 1:
            raise DataError(
                f"{what}: column {field.name!r} occurs {schema.names.count(field.name)} times",
                "write the file again with one of them",
            )
        if schema.field(field.name).type != field.type:
            raise DataError(
                f"{what}: column {field.name!r} is {schema.field(field.name).type}, not {field.type}",
                "write the file again with that type",
            )
