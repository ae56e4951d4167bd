"""One training step: forward, the loss of the global batch, backward, update.

`TrainStep` is the step of Remix and of joint training. Another method's step is a class that overrides a part of it, in trainer/strategies/.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.storage.schemas import ALL
from trainer.config import OptimizerConfig, RunConfig
from trainer.data.inputs import Inputs
from trainer.data.plan_loader import Batch
from trainer.models.model import FUSED, MultimodalModel, Outputs
from trainer.process_group import World


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOutput:
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


@dataclass
class TrainStep:
    """Takes training steps; `wrapped` is the model, or the model under DistributedDataParallel."""

    masks = True
    """Whether a batch of one modality's rows sees that modality alone."""

    model: MultimodalModel
    wrapped: nn.Module
    inputs: Inputs
    optimizer: torch.optim.Optimizer
    config: RunConfig
    world: World

    @classmethod
    def check(cls, config: RunConfig, model: MultimodalModel) -> None:
        """Raises ConfigError where a run's model does not suit this step."""

    def __call__(self, batch: Batch, epoch: int) -> StepOutput:
        outputs, labels, has = self.forward(batch, epoch)
        loss = self.loss(outputs, labels, has, batch)
        self.optimizer.zero_grad(set_to_none=True)
        # DistributedDataParallel averages over ranks; the loss is already divided by the global count, so the sum is wanted
        (loss * self.world.size).backward()
        self.after_backward(outputs, labels, has)
        self.update()
        return StepOutput(loss=loss.detach(), num_correct=self.count(outputs, labels, has))

    def forward(self, batch: Batch, epoch: int) -> tuple[Outputs, Tensor, dict[str, Tensor]]:
        """Moves the batch to the device, augments it there and runs the model; also the labels (B,) and per modality the rows (B,) that train it."""
        inputs, labels, has = self.prepare(batch, epoch)
        return self.run(inputs, batch, batch.step.modality if self.masks else ALL), labels, has

    def prepare(
        self, batch: Batch, epoch: int
    ) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
        """The batch on the device, augmented: the inputs, the labels (B,) and per modality the rows (B,) that train it."""
        has = {}
        for name, value in batch.has.items():
            valid = value & batch.keep[name] if batch.keep else value
            has[name] = valid.to(self.world.device, non_blocking=True)
        inputs = self.inputs(batch.inputs, batch.rows.numpy(), epoch, training=True)
        return inputs, batch.labels.to(self.world.device, non_blocking=True), has

    def run(self, inputs: Mapping[str, Tensor], batch: Batch, train: str) -> Outputs:
        """What the model says of a batch of which it trains one modality, or "all"."""
        with torch.autocast(
            self.world.device.type, torch.bfloat16, enabled=self.config.train.amp == "bf16"
        ):
            outputs: Outputs = self.wrapped(
                inputs, batch.has, train=train, keep=batch.keep, learn=self.loss_outputs(batch)
            )
        return outputs

    def loss_outputs(self, batch: Batch) -> set[str]:
        """What of the outputs has a loss: "fused", and the modalities whose heads do; a head that no rank trains has no gradient, rather than zeros."""
        weighs = batch.step.assigned is not None or self.weight(batch)
        return {FUSED, *(name for name, num in batch.num_valid.items() if num and weighs)}

    def weight(self, batch: Batch) -> float:
        """w: that of the unimodal losses of a batch whose rows are all masked alike."""
        train = self.config.train
        return (
            train.warmup_weight
            if batch.step.modality == ALL or not self.masks
            else train.remix_weight
        )

    def loss(
        self, outputs: Outputs, labels: Tensor, has: Mapping[str, Tensor], batch: Batch
    ) -> Tensor:
        """CE(fused) + sum over the trained modalities of w CE(unimodal), each divided by its global count of valid samples (arXiv 2506.11550, section 3)."""
        fused = F.cross_entropy(outputs.fused.float(), labels, reduction="sum")
        return sum(
            self.unimodal_losses(outputs, labels, has, batch), start=fused / len(batch.step.rows)
        )

    def unimodal_losses(
        self, outputs: Outputs, labels: Tensor, has: Mapping[str, Tensor], batch: Batch
    ) -> Iterator[Tensor]:
        """Of each modality that the batch trains, w CE(unimodal); where rows differ in what is masked, a row counts as in a batch of its own kind."""
        train, step, learnt = self.config.train, batch.step, self.loss_outputs(batch)
        for name, logits in outputs.unimodal.items():
            if name not in learnt:
                continue
            each = F.cross_entropy(logits.float(), labels, reduction="none") * has[name]
            if step.assigned is None:
                yield self.weight(batch) * each.sum() / batch.num_valid[name]
                continue
            mine = step.assigned[step.slice_of(self.world.rank, self.world.size)]
            joint = torch.tensor(mine < 0, device=labels.device)
            weights = torch.where(joint, train.warmup_weight, train.remix_weight)
            yield (weights * each).sum() / len(step.rows)

    def after_backward(self, outputs: Outputs, labels: Tensor, has: Mapping[str, Tensor]) -> None:
        """Changes the gradients, which are those of all ranks, before the update."""

    def update(self) -> None:
        """Moves the weights."""
        if self.config.optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm)
        self.optimizer.step()

    def count(self, outputs: Outputs, labels: Tensor, has: Mapping[str, Tensor]) -> Tensor:
        """(1 + K,): the rows predicted right by each head."""
        counts = {FUSED: (outputs.fused.argmax(1) == labels).sum()}
        for name, logits in outputs.unimodal.items():
            counts[name] = ((logits.argmax(1) == labels) & has[name]).sum()
        none = labels.new_zeros(())
        return torch.stack([counts.get(name, none) for name in (FUSED, *self.model.modalities)])
