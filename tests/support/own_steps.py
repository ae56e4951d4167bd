"""A policy and a strategy as a user writes them; tests import this file, and copies of it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from trainer.data.plan_loader import Batch
from trainer.models.model import Outputs
from trainer.strategies.base import StepOutput, TrainStep


def cost(columns: dict[str, np.ndarray], modalities: list[str]) -> np.ndarray:
    """The probability of the label: a row trains the modality that predicts it worst."""
    return np.stack([columns[f"p_label_{name}"] for name in modalities], axis=1)


def centred(columns: dict[str, np.ndarray], modalities: list[str]) -> np.ndarray:
    """Not row by row: the mean depends on the slice."""
    costs = cost(columns, modalities)
    return costs - np.nanmean(costs)


def one_cost(columns: dict[str, np.ndarray], modalities: list[str]) -> np.ndarray:
    """Of a wrong shape."""
    return columns["kl_sound"]


class StopsOnce(TrainStep):
    """Fails in the last epoch of a run named `two`, unless the store has a file `go`."""

    def __call__(self, batch: Batch, epoch: int) -> StepOutput:
        """A step of Remix."""
        is_last = epoch == self.config.train.epochs - 1 and self.config.name == "two"
        if is_last and batch.step.step == 4 and not (Path(self.config.store) / "go").exists():
            raise OSError("a node is lost")
        return super().__call__(batch, epoch)


class HalfStep(TrainStep):
    """Half of the loss."""

    def loss(
        self, outputs: Outputs, labels: Tensor, trained: Mapping[str, Tensor], batch: Batch
    ) -> Tensor:
        """Half of the loss of Remix."""
        return super().loss(outputs, labels, trained, batch) / 2
