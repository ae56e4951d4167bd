"""Batch scoring of a feature set with the model of a checkpoint, as `remix score` does."""

from functools import partial

import pyarrow as pa
import torch

from pipeline.errors import InputError
from pipeline.features.feature_set import FeatureSet
from pipeline.scores.build import Predict
from pipeline.scores.job import Progress, score
from pipeline.storage.store_path import StorePath
from trainer.data.inputs import Inputs
from trainer.models import checkpoint as checkpoints
from trainer.scoring.predictor import Predictor


def score_checkpoint(
    features: FeatureSet,
    checkpoint: StorePath,
    split: str,
    *,
    batch_size: int,
    workers: int,
    num_gpus: float,
    progress: Progress,
) -> pa.Table:
    """Score a split with a checkpoint, on `workers` Ray actors.

    Raises:
        InputError: the split is empty, or the checkpoint cannot be read.
        MismatchError: the checkpoint is for other features.
    """
    if not len(features.rows_of(split)):
        splits = ", ".join(name for name, num in features.manifest["splits"].items() if num)
        raise InputError(f"split {split!r} of {features.path} is empty", f"choose from {splits}")
    # read here, before any actor starts, so that errors come early
    _, state = checkpoints.model_of(checkpoint, features)
    return score(
        features,
        split,
        partial(load, checkpoint),
        batch_size=batch_size,
        workers=workers,
        num_gpus=num_gpus,
        progress=progress,
        epoch=state["cursor"]["epoch"],
        seed=state["seed"],
        parents={"checkpoint": checkpoint.sha256()},
    )


def load(checkpoint: StorePath, features: FeatureSet) -> Predict:
    """Load the model of a checkpoint for prediction on `features`."""
    model, state = checkpoints.model_of(checkpoint, features)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs = Inputs(state["architecture"], 0, device)
    # of an assembled model, the heads are calibrated
    temperatures = (state.get("readout") or {}).get("temperatures", {})
    amp = state["amp"] == "bf16"
    return Predictor(model.to(device), inputs, features, device, amp, temperatures)
