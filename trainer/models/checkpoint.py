"""Checkpoints: plain data, written atomically and checked when loaded."""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from pipeline.config import parse
from pipeline.errors import DataError, MismatchError
from pipeline.extensions import check_identities, identities
from pipeline.features.feature_set import FeatureSet
from pipeline.storage.store_path import StorePath
from pipeline.storage.table_checks import check_model
from trainer.models.model import MultimodalModel, model_for
from trainer.models.model_config import ModelConfig
from trainer.models.weights import without_weights

Checkpoint = dict[str, Any]
CURE = "pass a checkpoint that `remix train` wrote"


def save(path: StorePath, checkpoint: Checkpoint) -> None:
    """Write a checkpoint. Raises StoreError."""
    with path.create() as file:
        torch.save(checkpoint, cast(IO[bytes], file))


def load(path: StorePath) -> Checkpoint:
    """Read a checkpoint onto the CPU; only plain data is unpickled.

    Raises MissingError, DataError.
    """
    data = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as members:
            # a compressed member could expand to any size; torch writes them uncompressed
            if sum(member.file_size for member in members.infolist()) > len(data):
                raise ValueError("compressed members")
            if members.testzip():
                raise ValueError("wrong checksum of a member")
        checkpoint = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if (
            not isinstance(checkpoint, dict)
            or not {"model", "architecture", "cursor"} <= checkpoint.keys()
        ):
            raise ValueError("model, architecture or cursor missing")
    except Exception as error:
        raise DataError(
            f"not a checkpoint of Remix: {path} ({type(error).__name__}: {error})", CURE
        ) from error
    check_model(
        _State,
        {key: value for key, value in checkpoint.items() if key != "optimizer"},
        str(path),
        lambda loc: f"entry {loc!r}",
        CURE,
    )
    # an older version wrote fewer fields: fill in their defaults
    model = parse(ModelConfig, checkpoint["architecture"]["model"], f"{path}: model")
    checkpoint["architecture"]["model"] = model.model_dump(mode="json")
    return checkpoint


class _Plain(BaseModel):
    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True)


class _ModalityMetadata(_Plain):
    dtype: str
    mean: list[float]
    std: list[float]
    tokenizer: dict[str, Any] | None = None


class _Architecture(_Plain):
    model: dict[str, Any]
    shapes: dict[str, list[int]]
    facts: dict[str, _ModalityMetadata]
    classes: list[str]
    extensions: dict[str, dict[str, str | None]] = {}


class _BestPart(_Plain):
    model_config = ConfigDict(extra="forbid")
    epoch: int
    loss: float | None
    temperature: float


class _Cursor(_Plain):
    model_config = ConfigDict(extra="forbid")
    epoch: int
    step: int
    plan_fingerprint: str
    best_epoch: int
    best_value: float
    best_parts: dict[str, _BestPart]


class _Readout(_Plain):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["fused", "late", "refit", "stack"]
    temperatures: dict[str, float]
    weights: dict[str, float]
    temperature: float
    mean: dict[str, torch.Tensor]
    scale: dict[str, torch.Tensor]
    coefficients: dict[str, torch.Tensor]
    bias: torch.Tensor


class _State(_Plain):
    """Content of a checkpoint, without the optimizer's state."""

    model: dict[str, torch.Tensor]
    architecture: _Architecture
    cursor: _Cursor
    features: str
    digest: str
    seed: int
    amp: str
    readout: _Readout | None = None
    trained: dict[str, torch.Tensor] | None = None
    """With `train.ema`, the weights that `model` is an average of; in `last` only."""


def load_weights(path: StorePath, model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Load weights into a model. Raises MismatchError that names the first that does not fit."""
    own = model.state_dict()
    for name in {**own, **weights}:
        stored, expected = _described(weights.get(name)), _described(own.get(name))
        if stored != expected:
            raise MismatchError(
                f"{path}: weights {name!r} are {stored}, not {expected}",
                "use a checkpoint of this model, or the features that it was trained on",
            )
    model.load_state_dict(weights)


def _described(tensor: torch.Tensor | None) -> str:
    if tensor is None:
        return "missing"
    kind = "complex" if tensor.is_complex() else "real"
    return f"{tuple(tensor.shape)}, {kind}, {tensor.layout}"


def load_optimizer(path: StorePath, optimizer: torch.optim.Optimizer, state: object) -> None:
    """Load an optimizer's state. Raises MismatchError if it belongs to another optimizer."""
    try:
        optimizer.load_state_dict(cast(dict[str, Any], state))
        for weights, own in optimizer.state.items():
            for key, value in own.items():
                if value.numel() > 1 and value.shape != weights.shape:
                    raise ValueError(f"{key!r} and the weights differ in shape")
    except Exception as error:
        raise MismatchError(
            f"{path}: optimizer state does not fit ({type(error).__name__}: {error})",
            "use a checkpoint of this run",
        ) from error


def architecture(config: ModelConfig, features: FeatureSet) -> dict[str, Any]:
    """Describe a run's model as plain data, enough to build it again."""
    shapes = {name: list(features.shape(name)) for name in features.modalities}
    keys = ("dtype", "mean", "std", "tokenizer")
    metadata = {
        name: {key: value for key, value in entry.items() if key in keys}
        for name, entry in features.manifest["modalities"].items()
    }
    return {
        "model": config.map_encoders(without_weights).model_dump(mode="json"),
        "shapes": shapes,
        "facts": metadata,
        "classes": features.classes,
    } | ({"extensions": identities(config.import_paths)} if config.import_paths else {})


def check_architecture(path: StorePath, recorded: dict[str, Any], expected: dict[str, Any]) -> None:
    """Check that a checkpoint belongs to this model. Raises MismatchError."""
    check_identities(str(path), recorded.get("extensions", {}))
    recorded, expected = (
        {**each, "tokenizers": {name: x.get("tokenizer") for name, x in each["facts"].items()}}
        for each in (recorded, expected)
    )
    for key in ("shapes", "classes", "model", "tokenizers"):
        # compared as text because the order of modalities matters
        if json.dumps(recorded.get(key)) != json.dumps(expected[key]):
            raise MismatchError(
                f"{path} is a checkpoint of another model: "
                f"{key} {recorded.get(key)}, not {expected[key]}",
                "use a checkpoint of this model, or the features that it was trained on",
            )


def model_of(path: StorePath, features: FeatureSet) -> tuple[MultimodalModel, Checkpoint]:
    """Build the model of a checkpoint for features of the same shapes and classes.

    Raises MismatchError.
    """
    checkpoint = load(path)
    recorded = checkpoint["architecture"]
    config = ModelConfig.model_validate(recorded["model"])
    check_architecture(path, recorded, architecture(config, features))
    model = model_for(config, features, seed=0, pretrained=False)
    load_weights(path, model, checkpoint["model"])
    return model, checkpoint


def built(checkpoint: Checkpoint, features: FeatureSet) -> MultimodalModel:
    """Build the model of a checkpoint of this run."""
    config = ModelConfig.model_validate(checkpoint["architecture"]["model"])
    model = model_for(config, features, seed=0, pretrained=False)
    model.load_state_dict(checkpoint["model"])
    return model


@dataclass(frozen=True, kw_only=True, slots=True)
class BestPart:
    """The epoch from which a modality's encoder and head are kept."""

    epoch: int
    loss: float | None
    """Validation loss of the unimodal head at `temperature`; None if no sample has the modality."""
    temperature: float


@dataclass(slots=True)
class Cursor:
    """Position of a run: its next step, and its best epochs so far."""

    epoch: int = 0
    step: int = 0
    plan_fingerprint: str = ""
    best_epoch: int = -1
    """The epoch to be tested; -1 if none can be tested yet."""
    best_value: float = 0.0
    """Its value of `train.select.metric`, negative for a loss."""
    best_parts: dict[str, BestPart] = field(default_factory=dict)
    """By modality."""

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Cursor":
        """The cursor of a checkpoint."""
        fields = dict(checkpoint["cursor"])
        parts = {name: BestPart(**part) for name, part in fields.pop("best_parts").items()}
        return cls(**fields, best_parts=parts)
