"""A checkpoint as the function that scores rows: what `remix score` puts on each actor."""

from collections.abc import Callable
from functools import partial

import torch

from pipeline.scoring import Predict
from pipeline.store import Place
from pipeline.tables import FeatureSet
from trainer import checkpoint as checkpoints
from trainer.inputs import Inputs
from trainer.predict import Predictor


def make_predict(checkpoint: Place, features: FeatureSet) -> Callable[[FeatureSet], Predict]:
    """Checks the checkpoint against the features, and returns what loads it on an actor (raises MismatchError)."""
    checkpoints.model_of(checkpoint, features)
    return partial(_load, checkpoint)


def _load(checkpoint: Place, features: FeatureSet) -> Predict:
    model, found = checkpoints.model_of(checkpoint, features)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Predictor(model.to(device), Inputs(found["architecture"], 0, device), features, device)
