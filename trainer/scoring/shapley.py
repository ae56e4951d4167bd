"""What each modality of a sample contributes to the fused prediction: its Shapley value.

Wei et al., "Enhancing Multimodal Cooperation via Sample-level Modality Valuation", CVPR 2024, arXiv 2309.06255, section 3.1.
"""

from collections.abc import Mapping
from math import factorial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.arrays import Array
from pipeline.errors import ConfigError
from pipeline.features.feature_set import FeatureSet
from trainer.config import RunConfig
from trainer.models.midfusion import MidFusion
from trainer.models.model import MultimodalModel
from trainer.scoring.predictor import Predictor

MAX_MODALITIES = 6
"""The fused head predicts from each of their 2^K - 1 subsets."""


def check_valuation(config: RunConfig, features: FeatureSet) -> None:
    """Raises ConfigError where the modalities have too many subsets to predict from all of them."""
    num = len(features.modalities)
    if config.plan.copies == "resample" and num > MAX_MODALITIES:
        raise ConfigError(
            f"field 'plan.copies' is 'resample', but features {config.features!r} have {num} modalities",
            f"give {MAX_MODALITIES} or fewer",
        )


def with_values(
    scores: pa.Table, features: FeatureSet, rows: Array, predictor: Predictor
) -> pa.Table:
    """The scores of a batch of rows and `shapley_<m>` float32, NaN where a sample lacks the modality."""
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
    """(2^K, B): the fused head's class from each subset of the modalities, the others masked; bit k of a subset's number is modality k, that of none is -1."""
    names = model.modalities
    subsets = [
        [bool(number >> k & 1) for k in range(len(names))] for number in range(1, 2 ** len(names))
    ]
    if isinstance(model.fusion, MidFusion):
        fused = [
            model(
                inputs, {name: has[name] & shown for name, shown in zip(names, each, strict=True)}
            ).fused
            for each in subsets
        ]
    else:
        features = list(model.features(inputs, has).values())
        fused = [_fused(model, features, has, each) for each in subsets]
    found = torch.stack(fused).argmax(2)
    return torch.cat([torch.full_like(found[:1], -1), found])


def _fused(
    model: MultimodalModel, features: list[Tensor], has: Mapping[str, Tensor], shown: list[bool]
) -> Tensor:
    names = model.modalities
    kept = [x if each else torch.zeros_like(x) for x, each in zip(features, shown, strict=True)]
    logits = [model.head(name)(x) for name, x in zip(names, kept, strict=True)]
    present = [has[name] & each for name, each in zip(names, shown, strict=True)]
    return model.fuse(kept, logits, torch.stack(present))


def shapley(right: Array, has: Array) -> npt.NDArray[np.float32]:
    """(N, K) exact values from `right` (2^K, N), whether each subset's prediction is right, and `has` (N, K); NaN where a sample lacks the modality.

    A subset is worth its size where its prediction is right, else 0 (equation 1); the players of a sample are the modalities that it has.
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
    worth = right * np.array([subset.bit_count() for subset in range(2**num)])[:, None]
    values = np.zeros((num_rows, num))
    for k in range(num):
        for subset in (each for each in range(2**num) if not each >> k & 1):
            plays = (subset & ~players) == 0
            values[:, k] += (
                plays
                * weights[num_players, subset.bit_count()]
                * (worth[subset | 1 << k] - worth[subset])
            )
    return np.where(has, values, np.nan).astype(np.float32)
