"""What the JSON files of a store hold, as far as the service reads them; a file that says less or otherwise is damaged."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from service import schemas as api

MAX_MANIFEST_BYTES = 64 * 2**20
"""Some 400 bytes a shard."""
Count = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    rows: Count


class Manifest(BaseModel):
    """manifest.json of a feature set."""

    modalities: dict[str, api.Modality]
    classes: list[str]
    splits: dict[str, Count]
    num_rows: Count
    num_rejected: Count = 0
    reasons: dict[str, Count] = {}
    parts: list[Part]
    parents: dict[str, Any]
    fingerprint: str


class Train(BaseModel):
    epochs: Count
    warmup_epochs: Count


class Config(BaseModel):
    train: Train


class Result(BaseModel):
    test_accuracy: dict[str, float | None]


class Run(BaseModel):
    """run.json"""

    status: str
    error: str | None = None
    features: api.Parent
    modalities: list[str]
    config: dict[str, Any]
    digest: str
    code_version: str
    result: Result | None = None


class Outcome(BaseModel):
    """table.json of a comparison"""

    seeds: list[int]
    methods: list[api.MethodResult]
    tests: list[api.PairTest]
