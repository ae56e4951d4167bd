"""Models of the JSON files of a store, with the fields that the service reads."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import pyarrow as pa
from pydantic import BaseModel, Field

from pipeline.storage.schemas import METRICS
from service import comparison_schemas as comparison_api
from service import schemas as api
from service.store.reader import ROW_BYTES, validating

Model = TypeVar("Model", bound=BaseModel)
MAX_MANIFEST_BYTES = 64 * 2**20
"""A manifest has some 400 bytes per shard."""
Count = Annotated[int, Field(ge=0)]


class SelectPart(BaseModel):
    """`train.select` of a run's configuration."""

    metric: Literal["loss", "accuracy", "macro_f1"]


class TrainPart(BaseModel):
    """`train` of a run's configuration."""

    epochs: Count
    warmup_epochs: Count
    select: SelectPart


class RunConfigPart(BaseModel):
    """A run's configuration."""

    method: str
    seed: int
    train: TrainPart


class ResultPart(BaseModel):
    """`result` of run.json."""

    test_accuracy: dict[str, float | None]
    assembled: api.Assembled | None = None
    stopped_epoch: int | None = None
    metrics: dict[str, dict[str, float | None]] | None = None
    confusion: dict[str, list[list[int]]] | None = None


class RunFile(BaseModel):
    """run.json of a run."""

    status: str
    updated: datetime
    comparisons: list[str] = []
    error: str | None = None
    features: api.Parent
    modalities: list[str]
    config: dict[str, Any]
    digest: str
    code_version: str
    result: ResultPart | None = None


STAGES = ("score", "plan", "load", "step", "validate", "epoch")

CURVES = pa.schema([("method", pa.string()), ("seed", pa.int64())])


def as_model(model: type[Model], fields: dict[str, Any], what: str) -> Model:
    """Validate fields; `what` names their file in errors. Raises DataError."""
    with validating(what):
        return model.model_validate(fields)


def size_of_rows(rows: Sequence[api.EpochRow] | Sequence[comparison_api.CurvePoint]) -> int:
    """Estimated memory of the rows in bytes."""
    return sum(ROW_BYTES * (2 + len(row.modalities)) for row in rows)


def epoch_fields(row: dict[str, Any], modalities: Sequence[str]) -> dict[str, Any]:
    """Fields of an EpochRow or CurvePoint from a table row; non-finite numbers become None."""
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
    by_modality = {
        name: {key: finite.get(f"{key}_{name}") for key in api.EpochModality.model_fields}
        for name in modalities
    }
    return {
        **finite,
        "modalities": by_modality,
        "seconds": {name: finite.get(f"{name}_seconds") for name in STAGES},
    }


def best_of(best: api.EpochRow, train: TrainPart) -> api.Best:
    """The best epoch, and why it is the best."""
    metric = train.select.metric
    return api.Best(
        epoch=best.epoch,
        metric=metric,
        value=getattr(best, METRICS[metric]),
        validation_accuracy=best.validation_accuracy,
        in_warmup=best.epoch < train.warmup_epochs,
    )
