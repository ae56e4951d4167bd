"""OGM-GE: damps the gradients of the stronger modality's encoder and adds noise (CVPR 2022).

Peng et al., "Balanced Multimodal Learning via On-the-fly Gradient Modulation", arXiv 2203.15332. As
in the paper, all weights of an encoder are modulated, in all epochs; its public code modulates only
convolutions, so that encoders without convolutions would not be modulated.
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
    """Joint training with modulated gradients (equations 8 to 12)."""

    accumulates = False  # each batch has its own modulation

    @classmethod
    def check(cls, config: RunConfig, model: MultimodalModel) -> None:
        """Check that the fused logits are a sum over modalities. Raises ConfigError."""
        if not isinstance(model.fusion, Additive):
            fit = [
                name
                for name, kind in FUSIONS.items()
                if isinstance(kind, type) and issubclass(kind, Additive)
            ]
            raise ConfigError(
                f"model.fusion is {config.model.fusion!r}, but ogm_ge needs one whose logits are a "
                "sum over modalities",
                f"choose from {', '.join(fit)}",
            )

    _noise_seed = 0

    def __call__(self, batch: Batch, epoch: int) -> StepOutput:
        # depends only on the step, so that the noise is the same on every rank
        self._noise_seed = key_of(self.config.seed, epoch, batch.step.step)
        return super().__call__(batch, epoch)

    @torch.no_grad()
    def after_backward(
        self, outputs: Outputs, labels: Tensor, trained: Mapping[str, Tensor]
    ) -> None:
        """grad <- coefficient * grad + N(0, SD(grad)), with the same noise on every rank."""
        factors = coefficients(
            self.discrepancy(outputs, labels, trained), self.config.train.ogm_alpha
        )
        generator = torch.Generator(self.world.device).manual_seed(self._noise_seed)
        for name, coefficient in zip(self.model.modalities, factors, strict=True):
            for weights in self.model.encoder(name).parameters():
                if (grad := weights.grad) is not None:
                    noise = torch.randn(grad.shape, generator=generator, device=grad.device)
                    spread = grad.std(correction=min(1, grad.numel() - 1))
                    grad.mul_(coefficient).add_(noise * spread)

    def discrepancy(
        self, outputs: Outputs, labels: Tensor, trained: Mapping[str, Tensor]
    ) -> list[float | None]:
        """Mean probability of the label by each modality's part of the logits.

        Averaged over the rows of all ranks that have the modality; None if no row has it.
        """
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
                sums[:, k] = torch.stack([p_label[trained[name]].sum(), trained[name].sum()])
        self.world.sum(sums)
        return [total / num if num else None for total, num in zip(*sums.tolist(), strict=True)]


def coefficients(scores: Sequence[float | None], alpha: float) -> list[float]:
    """1 - tanh(alpha rho_k) if rho_k > 1, else 1, for any number of modalities (equations 9, 10).

    rho_k = s_k / mean of the other s_j.
    """
    result = []
    for k, own in enumerate(scores):
        others = [score for j, score in enumerate(scores) if j != k and score is not None]
        rho = own * len(others) / sum(others) if own and sum(others) else 0.0
        result.append(1 - math.tanh(alpha * rho) if rho > 1 else 1.0)
    return result
