"""Shapley values: how much each modality of a sample contributes to the fused prediction.

Wei et al., "Enhancing Multimodal Cooperation via Sample-level Modality Valuation", CVPR 2024,
arXiv 2309.06255, section 3.1.
"""

from collections.abc import Mapping
from math import factorial

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.arrays import Array, Float32Array
from pipeline.errors import ConfigError
from pipeline.features.feature_set import FeatureSet
from trainer.config import RunConfig
from trainer.models.midfusion import MidFusion
from trainer.models.model import MultimodalModel
from trainer.scoring.predictor import Predictor

MAX_MODALITIES = 6
"""Limit because the fused head predicts from each of the 2^K - 1 non-empty subsets."""


def check_valuation(config: RunConfig, features: FeatureSet) -> None:
    """Raise ConfigError if Shapley values are required of more than MAX_MODALITIES modalities."""
    num = len(features.modalities)
    if config.plan.copies == "resample" and num > MAX_MODALITIES:
        raise ConfigError(
            f"field 'plan.copies' is 'resample', but features {config.features!r} "
            f"have {num} modalities",
            f"use at most {MAX_MODALITIES} modalities, or copies: none",
        )


def with_values(
    scores: pa.Table, features: FeatureSet, rows: Array, predictor: Predictor
) -> pa.Table:
    """Add shapley_<m> float32 to the scores of `rows`, NaN if a sample lacks the modality."""
    predicted = predictor.evaluate(
        lambda inputs, has: by_subset(predictor.model, inputs, has), rows
    )
    values = shapley(predicted.cpu().numpy() == features.labels[rows], features.has[rows])
    for k, name in enumerate(features.modalities):
        scores = scores.append_column(f"shapley_{name}", pa.array(values[:, k], pa.float32()))
    return scores


def by_subset(
    model: MultimodalModel, inputs: Mapping[str, Tensor], has: Mapping[str, Tensor]
) -> Tensor:
    """Predict with the fused head from each subset of the modalities, the others masked.

    Returns:
        (2^K, B) classes; bit k of a subset's number is modality k. The empty subset predicts -1.
    """
    names = model.modalities
    subsets = [
        [bool(number >> k & 1) for k in range(len(names))] for number in range(1, 2 ** len(names))
    ]
    if isinstance(model.fusion, MidFusion):
        fused = [
            model(
                inputs, {name: has[name] & shown for name, shown in zip(names, subset, strict=True)}
            ).fused
            for subset in subsets
        ]
    else:
        # without mid-fusion the features do not depend on the subset, and are computed only once
        features = list(model.features(inputs, has).values())
        fused = [_fused(model, features, has, subset) for subset in subsets]
    classes = torch.stack(fused).argmax(2)
    return torch.cat([torch.full_like(classes[:1], -1), classes])


def _fused(
    model: MultimodalModel, features: list[Tensor], has: Mapping[str, Tensor], shown: list[bool]
) -> Tensor:
    names = model.modalities
    unmasked = [x if flag else torch.zeros_like(x) for x, flag in zip(features, shown, strict=True)]
    logits = [model.head(name)(x) for name, x in zip(names, unmasked, strict=True)]
    present = [has[name] & flag for name, flag in zip(names, shown, strict=True)]
    return model.fuse(unmasked, logits, torch.stack(present))


def shapley(correct: Array, has: Array) -> Float32Array:
    """Exact Shapley values (N, K), NaN if a sample lacks the modality.

    The value of a subset is its size if its prediction is correct, else 0 (equation 1). The players
    of a sample are the modalities that it has.

    Args:
        correct: (2^K, N), whether the prediction from each subset is correct.
        has: (N, K), which modalities each sample has.
    """
    num_rows, num = has.shape
    players, num_players = has @ (1 << np.arange(num)), has.sum(axis=1)
    weights = np.array(
        [
            [
                factorial(s) * factorial(n - s - 1) / factorial(n) if s < n else 0.0
                for s in range(num)
            ]
            for n in range(num + 1)
        ]
    )
    payoff = correct * np.array([subset.bit_count() for subset in range(2**num)])[:, None]
    values = np.zeros((num_rows, num))
    for k in range(num):
        for subset in (number for number in range(2**num) if not number >> k & 1):
            eligible = (subset & ~players) == 0
            values[:, k] += (
                eligible
                * weights[num_players, subset.bit_count()]
                * (payoff[subset | 1 << k] - payoff[subset])
            )
    return np.where(has, values, np.nan).astype(np.float32)
