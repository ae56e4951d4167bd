"""Checkpoints: plain data, written atomically; what does not fit is refused."""

import hashlib
import io
import json
from typing import Any

import torch

from pipeline.errors import DataError, MismatchError
from pipeline.store import Place
from pipeline.tables import FeatureSet
from trainer.model import ModelConfig, MultimodalModel, build_model

Checkpoint = dict[str, Any]


def save(place: Place, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint (raises StoreError)."""
    with place.create() as file:
        torch.save(checkpoint, file)


def load(place: Place) -> Checkpoint:
    """Reads a checkpoint onto the CPU; only plain data is unpickled (raises MissingError, DataError)."""
    data = place.read_bytes()
    try:
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(f"{place} is not a checkpoint of Remix ({type(error).__name__})", "give a file that `remix train` wrote") from error
    if not isinstance(found, dict) or not {"model", "architecture", "cursor"} <= found.keys():
        raise DataError(f"{place} is not a checkpoint of Remix (no model, architecture, cursor)", "give a file that `remix train` wrote")
    return found


def digest(place: Place) -> str:
    """The SHA-256 of a checkpoint's file."""
    return hashlib.sha256(place.read_bytes()).hexdigest()


def architecture(config: ModelConfig, features: FeatureSet) -> dict[str, Any]:
    """What the model of a run is, as plain data: enough to build it again."""
    shapes = {name: list(features.shape(name)) for name in features.modalities}
    facts = {name: {key: features.manifest["modalities"][name][key] for key in ("dtype", "mean", "std")} for name in features.modalities}
    return {"model": config.model_dump(mode="json"), "shapes": shapes, "facts": facts, "classes": features.classes}


def check_architecture(place: Place, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises MismatchError where a checkpoint is of another model."""
    for key in ("shapes", "classes", "model"):
        if json.dumps(found.get(key)) != json.dumps(expected[key]):  # as text, since the order of modalities counts
            raise MismatchError(
                f"{place} is of another model: its {key} are {found.get(key)}, not {expected[key]}", "give a checkpoint of this model, or its features"
            )


def model_of(place: Place, features: FeatureSet) -> tuple[MultimodalModel, Checkpoint]:
    """The model in a checkpoint, for features of the same shapes and classes (raises MismatchError)."""
    checkpoint = load(place)
    found = checkpoint["architecture"]
    config = ModelConfig.model_validate(found["model"])
    check_architecture(place, found, architecture(config, features))
    model = build_model(config, {name: features.shape(name) for name in features.modalities}, len(features.classes), seed=0)
    model.load_state_dict(checkpoint["model"])
    return model, checkpoint
