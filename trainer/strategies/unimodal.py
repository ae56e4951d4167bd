"""Unimodal baseline: each modality is trained by itself."""

from collections.abc import Mapping

from torch import Tensor

from trainer.data.plan_loader import Batch
from trainer.models.model import FUSED, Outputs
from trainer.strategies.base import TrainStep


class Unimodal(TrainStep):
    """Encoders and heads share nothing and have their own losses.

    With fusion `decision` the fused prediction is their mean.
    """

    def loss_outputs(self, batch: Batch) -> set[str]:
        """The unimodal heads only."""
        return super().loss_outputs(batch) - {FUSED}

    def loss(
        self, outputs: Outputs, labels: Tensor, trained: Mapping[str, Tensor], batch: Batch
    ) -> Tensor:
        """Sum of CE(unimodal_k)."""
        zero = labels.new_zeros((), dtype=outputs.fused.dtype)
        return sum(self.unimodal_losses(outputs, labels, trained, batch), start=zero)
