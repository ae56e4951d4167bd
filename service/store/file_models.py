"""What the JSON files of a store hold, as far as the service reads them; a file that says less or otherwise is damaged."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import pyarrow as pa
from pydantic import BaseModel, Field

from service import comparison_schemas as comparison_api
from service import schemas as api
from service.store.reader import ROW_BYTES, fitting

Model = TypeVar("Model", bound=BaseModel)
MAX_MANIFEST_BYTES = 64 * 2**20
"""Some 400 bytes a shard."""
Count = Annotated[int, Field(ge=0)]


class TrainPart(BaseModel):
    epochs: Count
    warmup_epochs: Count


class RunConfigPart(BaseModel):
    train: TrainPart


class ResultPart(BaseModel):
    test_accuracy: dict[str, float | None]


class RunFile(BaseModel):
    """run.json"""

    status: str
    error: str | None = None
    features: api.Parent
    modalities: list[str]
    config: dict[str, Any]
    digest: str
    code_version: str
    result: ResultPart | None = None


class ComparisonFile(BaseModel):
    """table.json of a comparison"""

    seeds: list[int]
    methods: list[comparison_api.MethodResult]
    tests: list[comparison_api.PairTest]


SECONDS = ("score", "plan", "load", "step", "validate", "epoch")

CURVES = pa.schema([("method", pa.string()), ("seed", pa.int64())])


def as_model(model: type[Model], facts: dict[str, Any], what: str) -> Model:
    with fitting(what):
        return model.model_validate(facts)


def weight_of(rows: Sequence[api.EpochRow] | Sequence[comparison_api.CurvePoint]) -> int:
    return sum(ROW_BYTES * (2 + len(row.modalities)) for row in rows)


def epoch_of(row: dict[str, Any], modalities: Sequence[str]) -> dict[str, Any]:
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
    facts = {
        name: {key: finite.get(f"{key}_{name}") for key in api.EpochModality.model_fields}
        for name in modalities
    }
    return {
        **finite,
        "modalities": facts,
        "seconds": {name: finite.get(f"{name}_seconds") for name in SECONDS},
    }
