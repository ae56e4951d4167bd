"""Weights of classes in the training losses (`train.class_weights`)."""

import numpy as np
import torch

from pipeline.errors import ConfigError
from pipeline.features.feature_set import FeatureSet
from trainer.config import RunConfig


def class_weights(config: RunConfig, features: FeatureSet) -> torch.Tensor | None:
    """Weights (C,) of the rows of each class, None if all are 1. Raises ConfigError."""
    asked, classes = config.train.class_weights, features.classes
    if asked is None:
        return None
    if asked == "balanced":
        labels = features.labels[features.rows_of("train")]
        counts = np.bincount(labels, minlength=len(classes))
        weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
        return torch.from_numpy(weights).float()
    if unknown := sorted(set(asked) - set(classes)):
        raise ConfigError(
            f"train.class_weights has {unknown[0]!r}, which is no class of {config.features!r}",
            f"choose from {', '.join(classes[:20])}",
        )
    return torch.tensor([asked.get(name, 1.0) for name in classes])
