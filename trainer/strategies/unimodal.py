"""Each modality by itself: what could be had without any other."""

from collections.abc import Mapping

from torch import Tensor

from trainer.data.plan_loader import Batch
from trainer.models.model import FUSED, Outputs
from trainer.strategies.base import TrainStep


class Unimodal(TrainStep):
    """Encoders and heads that share nothing, each trained by its own loss; with fusion `decision` the fused head is their mean."""

    def loss_outputs(self, batch: Batch) -> set[str]:
        """The heads alone."""
        return super().loss_outputs(batch) - {FUSED}

    def loss(
        self, outputs: Outputs, labels: Tensor, has: Mapping[str, Tensor], batch: Batch
    ) -> Tensor:
        """sum_k CE(unimodal_k)"""
        zero = labels.new_zeros((), dtype=outputs.fused.dtype)
        return sum(self.unimodal_losses(outputs, labels, has, batch), start=zero)
