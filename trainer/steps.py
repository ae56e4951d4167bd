"""One training step: forward, the loss of the global batch, backward, update."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.schema import ALL
from trainer.config import OptimizerConfig, RunConfig
from trainer.inputs import Inputs
from trainer.loading import Batch
from trainer.model import MultimodalModel, Outputs
from trainer.world import World


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What a step found on this rank, on the device: its share of the loss, and the rows predicted right by each head."""

    loss: Tensor  # ()
    num_correct: Tensor  # (1 + K,) fused first, then the modalities in order; 0 where a modality was not trained


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a run; a parameter without a gradient is not moved, nor are its moments."""
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    builders: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adam": lambda: torch.optim.Adam(model.parameters(), betas=config.betas, **common),
        "adamw": lambda: torch.optim.AdamW(model.parameters(), betas=config.betas, **common),
        "sgd": lambda: torch.optim.SGD(model.parameters(), momentum=config.momentum, **common),
    }
    return builders[config.kind]()


class Stepper:
    """Takes training steps; `wrapped` is the model, or the model under DistributedDataParallel."""

    def __init__(self, model: MultimodalModel, wrapped: nn.Module, inputs: Inputs, optimizer: torch.optim.Optimizer, config: RunConfig, world: World) -> None:
        self._model = model
        self._wrapped = wrapped
        self._inputs = inputs
        self._optimizer = optimizer
        self._config = config
        self._world = world

    def __call__(self, batch: Batch, epoch: int) -> Taken:
        outputs, labels, has = self.forward(batch, epoch)
        loss = self.loss(outputs, labels, has, batch)
        self._optimizer.zero_grad(set_to_none=True)
        # DistributedDataParallel averages over ranks; the loss is already divided by the global count, so the sum is wanted
        (loss * self._world.size).backward()
        if self._config.optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._model.parameters(), self._config.optimizer.clip_norm)
        self._optimizer.step()
        return Taken(loss=loss.detach(), num_correct=self._count(outputs, labels, has))

    def forward(self, batch: Batch, epoch: int) -> tuple[Outputs, Tensor, dict[str, Tensor]]:
        """Moves the batch to the device, augments it there and runs the model."""
        device = self._world.device
        inputs = self._inputs(batch.inputs, batch.rows.numpy(), epoch, training=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._config.train.amp == "bf16"):
            outputs = self._wrapped(inputs, batch.has, train=batch.step.modality)
        has = {name: value.to(device, non_blocking=True) for name, value in batch.has.items()}
        return outputs, batch.labels.to(device, non_blocking=True), has

    def loss(self, outputs: Outputs, labels: Tensor, has: dict[str, Tensor], batch: Batch) -> Tensor:
        """CE(fused) + sum over the trained modalities of w CE(unimodal), each divided by its global count of valid samples (arXiv 2506.11550, section 3)."""
        train = self._config.train
        weight = train.warmup_weight if batch.step.modality == ALL else train.remix_weight
        total = F.cross_entropy(outputs.fused.float(), labels, reduction="sum") / len(batch.step.rows)
        for name, logits in outputs.unimodal.items():
            each = F.cross_entropy(logits.float(), labels, reduction="none") * has[name]
            total = total + weight * each.sum() / max(batch.num_valid[name], 1)
        return total

    def _count(self, outputs: Outputs, labels: Tensor, has: dict[str, Tensor]) -> Tensor:
        counts = [(outputs.fused.detach().argmax(1) == labels).sum()]
        for name in self._model.modalities:
            logits = outputs.unimodal.get(name)
            counts.append(labels.new_zeros(()) if logits is None else ((logits.detach().argmax(1) == labels) & has[name]).sum())
        return torch.stack(counts)
