"""Converts raw rows of a batch to model inputs on the device."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.arrays import BoolArray, Int64Array
from pipeline.decode.media.shapes import Vocabulary, vocabularies
from pipeline.errors import DataError
from pipeline.features.feature_set import FeatureSet
from trainer.data.augment import prepare
from trainer.models.model_config import ModelConfig


def by_modality(names: Sequence[str], columns: BoolArray) -> dict[str, Tensor]:
    """Split a (B, K) bool array into (B,) tensors by modality."""
    return {name: torch.from_numpy(columns[:, k].copy()) for k, name in enumerate(names)}


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor in page-locked memory, from which copies to a GPU do not block."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


class Inputs:
    """Normalises and augments each modality as a model's architecture requires."""

    def __init__(
        self,
        architecture: Mapping[str, Any],
        seed: int,
        device: torch.device,
        encoded: Collection[str] = (),
    ) -> None:
        config = ModelConfig.model_validate(architecture["model"])
        self._encoders = {
            name: config.encoder_of(name, tuple(shape))
            for name, shape in architecture["shapes"].items()
        }
        self._metadata = architecture["facts"]
        self._ids = vocabularies(architecture["shapes"], self._metadata)
        self._encoded = encoded  # modalities whose rows are features of their encoders
        self._seed = seed
        self._device = device

    def __call__(
        self,
        raw: Mapping[str, Tensor],
        rows: Int64Array,
        epoch: int = 0,
        *,
        training: bool,
    ) -> dict[str, Tensor]:
        """Prepare stored rows (B, ...) of each modality, augmented if training.

        Returns float32, or int64 token ids of text, on the device. Raises DataError.
        """
        prepared = {}
        for name, batch in raw.items():
            if name in self._encoded:
                prepared[name] = batch.to(self._device, non_blocking=True)
                continue
            if name in self._ids:
                _check_ids(name, batch, self._ids[name])
            x = batch.to(self._device, non_blocking=True)
            prepared[name] = (
                x.long()
                if name in self._ids
                else prepare(
                    x,
                    self._metadata[name],
                    self._encoders[name],
                    rows,
                    seed=self._seed,
                    epoch=epoch,
                    training=training,
                )
            )
        return prepared

    def of_rows(
        self, features: FeatureSet, rows: Int64Array
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Read rows for evaluation: inputs and, by modality, which rows have it (B,)."""
        names = features.modalities
        raw = {
            name: pinned(torch.from_numpy(features.read(name, rows)), self._device)
            for name in names
        }
        return self(raw, rows, training=False), by_modality(names, features.has[rows])


def _check_ids(name: str, batch: Tensor, vocabulary: Vocabulary) -> None:
    # checked here because an embedding on a GPU fails without a usable message
    if ((batch < 0) | (batch >= vocabulary.size)).any():
        raise DataError(
            f"modality {name!r} has a token id outside 0..{vocabulary.size - 1}",
            "decode the shards again",
        )
