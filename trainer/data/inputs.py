"""From the raw rows of a batch to the model's input, on the device."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.decode.media.shapes import is_ids
from pipeline.errors import DataError
from trainer.data.augment import prepare
from trainer.models.encoders import NUM_IDS
from trainer.models.model import ModelConfig


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
        return {
            name: self._embeddable(name, batch)
            if name in self._ids
            else self._prepare(name, batch, rows, epoch, training)
            for name, batch in raw.items()
        }

    def _embeddable(self, name: str, batch: Tensor) -> Tensor:
        """The ids on the device, seen to be ones before: there an embedding would fail without a word of what is wrong."""
        if ((batch < 0) | (batch >= NUM_IDS)).any():
            raise DataError(
                f"the texts of modality {name!r} have an id that is not among the {NUM_IDS} of bytes and padding",
                "decode again",
            )
        return batch.to(self._device, non_blocking=True).long()

    def _prepare(
        self, name: str, batch: Tensor, rows: npt.NDArray[np.int64], epoch: int, training: bool
    ) -> Tensor:
        batch = batch.to(self._device, non_blocking=True)
        return prepare(
            batch,
            self._facts[name],
            self._encoders[name],
            rows,
            seed=self._seed,
            epoch=epoch,
            training=training,
        )
