"""A checkpoint as the function that scores rows: what `remix score` puts on each actor."""

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
    """The scores of a split under a checkpoint, by `workers` actors (raises InputError, MismatchError before any of them starts)."""
    if not len(features.rows_of(split)):
        there = ", ".join(name for name, num in features.manifest["splits"].items() if num)
        raise InputError(f"split {split!r} of {features.path} is empty", f"choose from {there}")
    _, found = checkpoints.model_of(checkpoint, features)
    return score(
        features,
        split,
        partial(load, checkpoint),
        batch_size=batch_size,
        workers=workers,
        num_gpus=num_gpus,
        progress=progress,
        epoch=found["cursor"]["epoch"],
        seed=found["seed"],
        parents={"checkpoint": checkpoint.sha256()},
    )


def load(checkpoint: StorePath, features: FeatureSet) -> Predict:
    """The model of a checkpoint, ready to predict rows of the features."""
    model, found = checkpoints.model_of(checkpoint, features)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs = Inputs(found["architecture"], 0, device)
    return Predictor(model.to(device), inputs, features, device, amp=found["amp"] == "bf16")
