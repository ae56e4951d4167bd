"""From the raw rows of a batch to the model's input, on the device."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.decode.media.shapes import is_ids
from pipeline.errors import DataError
from pipeline.features.feature_set import FeatureSet
from trainer.data.augment import prepare
from trainer.models.encoders import NUM_IDS
from trainer.models.model import ModelConfig


def by_modality(names: Sequence[str], columns: npt.NDArray[np.bool_]) -> dict[str, Tensor]:
    """(B, K) bool as (B,) of each modality."""
    return {name: torch.from_numpy(columns[:, k].copy()) for k, name in enumerate(names)}


class Inputs:
    """Knows how each modality of a model is normalised and augmented, from the model's architecture."""

    def __init__(self, architecture: Mapping[str, Any], seed: int, device: torch.device) -> None:
        config = ModelConfig.model_validate(architecture["model"])
        self._encoders = {
            name: config.encoder_of(name, tuple(shape))
            for name, shape in architecture["shapes"].items()
        }
        self._facts = architecture["facts"]
        self._ids = {
            name
            for name, shape in architecture["shapes"].items()
            if is_ids(tuple(shape), self._facts[name]["dtype"])
        }
        self._seed = seed
        self._device = device

    def __call__(
        self,
        raw: Mapping[str, Tensor],
        rows: npt.NDArray[np.int64],
        epoch: int = 0,
        *,
        training: bool,
    ) -> dict[str, Tensor]:
        """Each modality's rows (B, ...) as stored -> float32 on the device, normalised, and augmented in training; ids as int64 (raises DataError)."""
        prepared = {}
        for name, batch in raw.items():
            if name in self._ids:
                _check_ids(name, batch)
            x = batch.to(self._device, non_blocking=True)
            prepared[name] = (
                x.long()
                if name in self._ids
                else prepare(
                    x,
                    self._facts[name],
                    self._encoders[name],
                    rows,
                    seed=self._seed,
                    epoch=epoch,
                    training=training,
                )
            )
        return prepared

    def of_rows(
        self, features: FeatureSet, rows: npt.NDArray[np.int64]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The inputs of rows in evaluation, and of each modality which of them have it."""
        names = features.modalities
        raw = {name: torch.from_numpy(features.read(name, rows)) for name in names}
        return self(raw, rows, training=False), by_modality(names, features.has[rows])


def _check_ids(name: str, batch: Tensor) -> None:
    """Raises DataError where a text has an id that is none; on the device an embedding would fail without a word of what is wrong."""
    if ((batch < 0) | (batch >= NUM_IDS)).any():
        raise DataError(
            f"the texts of modality {name!r} have an id that is not among the {NUM_IDS} of bytes and padding",
            "decode again",
        )
