"""On-the-fly gradient modulation: the encoder of the modality that learns faster is held back, and all are stirred by noise (OGM-GE, CVPR 2022).

Peng et al., "Balanced Multimodal Learning via On-the-fly Gradient Modulation", arXiv 2203.15332. As in the paper all weights of an encoder are
modulated, where its public code takes those of convolutions alone, so that encoders without any can be modulated too; and in all epochs.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.counter_rng import key_of
from pipeline.errors import ConfigError
from trainer.config import RunConfig
from trainer.data.plan_loader import Batch
from trainer.models.fusion import FUSIONS, Additive
from trainer.models.model import MultimodalModel, Outputs
from trainer.strategies.base import StepOutput, TrainStep


class OgmGe(TrainStep):
    """The step of joint training, its encoders' gradients times a coefficient plus noise of their own SD (equations 8 to 12)."""

    @classmethod
    def check(cls, config: RunConfig, model: MultimodalModel) -> None:
        """Raises ConfigError where the fused logits are no sum over modalities."""
        if not isinstance(model.fusion, Additive):
            fit = [
                name
                for name, kind in FUSIONS.items()
                if isinstance(kind, type) and issubclass(kind, Additive)
            ]
            raise ConfigError(
                f"field 'model.fusion' has the value {config.model.fusion!r}, but ogm_ge needs logits that add up over modalities",
                f"choose from {', '.join(fit)}",
            )

    _noise_seed = 0

    def __call__(self, batch: Batch, epoch: int) -> StepOutput:
        # of the step alone, so that the noise is the same on every rank
        self._noise_seed = key_of(self.config.seed, epoch, batch.step.step)
        return super().__call__(batch, epoch)

    @torch.no_grad()
    def after_backward(self, outputs: Outputs, labels: Tensor, has: Mapping[str, Tensor]) -> None:
        """grad <- coefficient * grad + N(0, SD(grad)), with the same noise on every rank."""
        found = coefficients(self.discrepancy(outputs, labels, has), self.config.train.ogm_alpha)
        generator = torch.Generator(self.world.device).manual_seed(self._noise_seed)
        for name, coefficient in zip(self.model.modalities, found, strict=True):
            for weights in self.model.encoder(name).parameters():
                if (grad := weights.grad) is not None:
                    noise = torch.randn(grad.shape, generator=generator, device=grad.device)
                    spread = grad.std(correction=min(1, grad.numel() - 1))
                    grad.mul_(coefficient).add_(noise * spread)

    def discrepancy(
        self, outputs: Outputs, labels: Tensor, has: Mapping[str, Tensor]
    ) -> list[float | None]:
        """Per modality the mean probability of the label by its part of the logits, over the rows of all ranks that show it; None where there are none."""
        names = self.model.modalities
        missing = torch.zeros_like(outputs.fused)
        assert isinstance(self.model.fusion, Additive)
        parts = self.model.fusion.parts(
            [outputs.features[name] for name in names],
            [outputs.unimodal.get(name, missing) for name in names],
        )
        sums = torch.zeros(2, len(names), dtype=torch.float64, device=labels.device)
        for k, (name, part) in enumerate(zip(names, parts, strict=True)):
            if name in outputs.unimodal:
                p_label = torch.softmax(part.double(), dim=1).gather(1, labels[:, None])[:, 0]
                sums[:, k] = torch.stack([p_label[has[name]].sum(), has[name].sum()])
        self.world.sum(sums)
        return [total / num if num else None for total, num in zip(*sums.tolist(), strict=True)]


def coefficients(scores: Sequence[float | None], alpha: float) -> list[float]:
    """1 - tanh(alpha rho_k) where rho_k = s_k / mean of the others' s_j exceeds 1, else 1 (equations 9 and 10, whose two modalities are here any number)."""
    result = []
    for k, own in enumerate(scores):
        others = [score for j, score in enumerate(scores) if j != k and score is not None]
        rho = own * len(others) / sum(others) if own and sum(others) else 0.0
        result.append(1 - math.tanh(alpha * rho) if rho > 1 else 1.0)
    return result
