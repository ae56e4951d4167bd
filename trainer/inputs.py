"""From the raw rows of a batch to the model's input, on the device."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.augment import prepare
from trainer.model import ModelConfig


class Inputs:
    """Knows how each modality of a model is normalised and augmented, from the model's architecture."""

    def __init__(self, architecture: Mapping[str, Any], seed: int, device: torch.device) -> None:
        config = ModelConfig.model_validate(architecture["model"])
        self._encoders = {name: config.encoder_of(name, tuple(shape)) for name, shape in architecture["shapes"].items()}
        self._facts = architecture["facts"]
        self._seed = seed
        self._device = device

    def __call__(self, raw: Mapping[str, Tensor], rows: npt.NDArray[np.int64], epoch: int = 0, *, training: bool) -> dict[str, Tensor]:
        """Each modality's rows (B, ...) as stored -> float32 on the device, normalised, and augmented in training."""
        return {name: self._prepare(name, batch, rows, epoch, training) for name, batch in raw.items()}

    def _prepare(self, name: str, batch: Tensor, rows: npt.NDArray[np.int64], epoch: int, training: bool) -> Tensor:
        batch = batch.to(self._device, non_blocking=True)
        return prepare(batch, self._facts[name], self._encoders[name], rows, seed=self._seed, epoch=epoch, training=training)
