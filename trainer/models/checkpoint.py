"""Checkpoints: plain data, written atomically; what does not fit is refused."""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any, cast

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from pipeline.config import parse
from pipeline.errors import DataError, MismatchError
from pipeline.features.feature_set import FeatureSet
from pipeline.storage.store_path import StorePath
from pipeline.storage.table_checks import check_model
from trainer.models.model import ModelConfig, MultimodalModel, model_for

Checkpoint = dict[str, Any]
CURE = "give a file that `remix train` wrote"


def save(path: StorePath, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint (raises StoreError)."""
    with path.create() as file:
        torch.save(checkpoint, cast(IO[bytes], file))


def load(path: StorePath) -> Checkpoint:
    """Reads a checkpoint onto the CPU; only plain data is unpickled (raises MissingError, DataError)."""
    data = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as members:
            # what is packed could take any memory; torch packs nothing
            if sum(member.file_size for member in members.infolist()) > len(data):
                raise ValueError("its members are packed")
            if members.testzip():
                raise ValueError("the checksum of a member is wrong")
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if not isinstance(found, dict) or not {"model", "architecture", "cursor"} <= found.keys():
            raise ValueError("no model, architecture, cursor")
    except Exception as error:
        raise DataError(
            f"{path} is not a checkpoint of Remix ({type(error).__name__}: {error})", CURE
        ) from error
    check_model(
        _State,
        {key: value for key, value in found.items() if key != "optimizer"},
        str(path),
        lambda loc: f"entry {loc!r}",
        CURE,
    )
    # with the fields that came after it was written
    model = parse(ModelConfig, found["architecture"]["model"], f"{path}: its model")
    found["architecture"]["model"] = model.model_dump(mode="json")
    return found


class _Plain(BaseModel):
    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True)


class _RecordedFacts(_Plain):
    dtype: str
    mean: list[float]
    std: list[float]


class _Architecture(_Plain):
    model: dict[str, Any]
    shapes: dict[str, list[int]]
    facts: dict[str, _RecordedFacts]
    classes: list[str]


class _Cursor(_Plain):
    model_config = ConfigDict(extra="forbid")
    epoch: int
    step: int
    plan_fingerprint: str
    best_epoch: int
    best_accuracy: float


class _State(_Plain):
    """What a checkpoint holds beside its optimizer's state."""

    model: dict[str, torch.Tensor]
    architecture: _Architecture
    cursor: _Cursor
    features: str
    digest: str
    seed: int
    amp: str


def load_weights(path: StorePath, model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Puts the weights of a checkpoint into a model (raises MismatchError that names the first that does not fit)."""
    own = model.state_dict()
    for name in {**own, **weights}:
        found, expected = _described(weights.get(name)), _described(own.get(name))
        if found != expected:
            raise MismatchError(
                f"{path}: the weights {name!r} are {found}, not {expected}",
                "give a checkpoint of this model, or its features",
            )
    model.load_state_dict(weights)


def _described(tensor: torch.Tensor | None) -> str:
    if tensor is None:
        return "missing"
    kind = "complex" if tensor.is_complex() else "real"
    return f"{tuple(tensor.shape)}, {kind}, {tensor.layout}"


def load_optimizer(path: StorePath, optimizer: torch.optim.Optimizer, state: object) -> None:
    """Puts the state of a checkpoint into an optimizer (raises MismatchError where it is of another)."""
    try:
        optimizer.load_state_dict(cast(dict[str, Any], state))
        for weights, own in optimizer.state.items():
            for key, value in own.items():
                if value.numel() > 1 and value.shape != weights.shape:
                    raise ValueError(f"{key!r} has another shape than the weights")
    except Exception as error:
        raise MismatchError(
            f"{path}: the state of its optimizer does not fit ({type(error).__name__}: {error})",
            "give a checkpoint of this run",
        ) from error


def architecture(config: ModelConfig, features: FeatureSet) -> dict[str, Any]:
    """What the model of a run is, as plain data: enough to build it again."""
    shapes = {name: list(features.shape(name)) for name in features.modalities}
    facts = {
        name: {key: features.manifest["modalities"][name][key] for key in ("dtype", "mean", "std")}
        for name in features.modalities
    }
    return {
        "model": config.model_dump(mode="json"),
        "shapes": shapes,
        "facts": facts,
        "classes": features.classes,
    }


def check_architecture(path: StorePath, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises MismatchError where a checkpoint is of another model."""
    for key in ("shapes", "classes", "model"):
        # as text, since the order of modalities counts
        if json.dumps(found.get(key)) != json.dumps(expected[key]):
            raise MismatchError(
                f"{path} is of another model: its {key} are {found.get(key)}, not {expected[key]}",
                "give a checkpoint of this model, or its features",
            )


def model_of(path: StorePath, features: FeatureSet) -> tuple[MultimodalModel, Checkpoint]:
    """The model in a checkpoint, for features of the same shapes and classes (raises MismatchError)."""
    checkpoint = load(path)
    found = checkpoint["architecture"]
    config = ModelConfig.model_validate(found["model"])
    check_architecture(path, found, architecture(config, features))
    model = model_for(config, features, seed=0)
    load_weights(path, model, checkpoint["model"])
    return model, checkpoint


@dataclass(slots=True)
class Cursor:
    """Where a run stands: the next step to take, and the best epoch so far."""

    epoch: int = 0
    step: int = 0
    plan_fingerprint: str = ""
    best_epoch: int = -1
    best_accuracy: float = -1.0
