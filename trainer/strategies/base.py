"""One training step: forward, loss over the global batch, backward, update.

`TrainStep` is the step of Remix and of joint training. Other methods subclass it in
trainer/strategies/.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.storage.schemas import ALL
from trainer.config import RunConfig
from trainer.data.inputs import Inputs
from trainer.data.plan_loader import Batch
from trainer.gradient_reducer import GradientReducer
from trainer.models.encoder import Encoder
from trainer.models.model import FUSED, MultimodalModel, Outputs
from trainer.optimizer_config import OptimizerConfig
from trainer.process_group import World


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOutput:
    """A step's loss and counts on this rank, on the device."""

    loss: Tensor  # (), this rank's share of the global loss
    fused_loss: Tensor  # (), the part of the fused head in it, or what it would be
    # (1 + K,) correct rows per head: fused, then the modalities; 0 for a modality not trained
    num_correct: Tensor


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build a run's optimizer. Parameters without a gradient, and their moments, do not change.

    Parameters with the same factor of the learning rate, `lr_scale`, form a group.
    """
    common: dict[str, Any] = {"weight_decay": config.weight_decay}
    groups = _groups(config, model)
    # one kernel for all parameters: small models spend much of a step in the optimizer; that of SGD
    # fails if parameters get their first gradients in different steps
    adam: dict[str, Any] = {"betas": config.betas, "fused": True, **common}
    builders: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adam": lambda: torch.optim.Adam(groups, **adam),
        "adamw": lambda: torch.optim.AdamW(groups, **adam),
        "sgd": lambda: torch.optim.SGD(groups, momentum=config.momentum, **common),
    }
    return builders[config.kind]()


def _groups(config: OptimizerConfig, model: nn.Module) -> list[dict[str, Any]]:
    scales = {
        weights: module.lr_scale
        for module in model.modules()
        if isinstance(module, Encoder) and module.lr_scale != 1
        for weights in module.parameters()
    }
    groups: dict[float, list[nn.Parameter]] = {}
    for weights in model.parameters():
        if weights.requires_grad:
            groups.setdefault(scales.get(weights, 1), []).append(weights)
    return [
        {"params": group, "lr": config.lr * scale, "lr_scale": scale}
        for scale, group in groups.items()
    ]


@dataclass
class TrainStep:
    """Runs training steps; `train.strategy` names a subclass by its import path.

    Example:
        class HalfStep(remix.TrainStep):
            def loss(self, outputs, labels, trained, batch):
                return super().loss(outputs, labels, trained, batch) / 2
    """

    masks = True
    """Whether a modality-pure batch masks the other modalities."""
    accumulates = True
    """Whether the gradients of several batches may be added up before an update."""

    model: MultimodalModel
    inputs: Inputs
    optimizer: torch.optim.Optimizer
    config: RunConfig
    world: World
    class_weights: Tensor | None = None
    """(C,) weights of rows in the losses by class, on the device; None: all 1."""
    reducer: GradientReducer = field(init=False)

    def __post_init__(self) -> None:
        self.reducer = GradientReducer(self.model, self.world)

    @classmethod
    def check(cls, config: RunConfig, model: MultimodalModel) -> None:
        """Check that a run's model suits this step. Raises ConfigError."""

    def __call__(self, batch: Batch, epoch: int) -> StepOutput:
        """Train on one batch."""
        outputs, labels, trained = self.forward(batch, epoch)
        loss = self.loss(outputs, labels, trained, batch)
        if batch.starts_update:
            self.optimizer.zero_grad(set_to_none=True)
        self.backward(loss, batch)
        if batch.ends_update:
            self.after_backward(outputs, labels, trained)
            self.update()
        # logged as the loss of this batch alone
        loss = loss.detach() * (batch.divisors[FUSED] / len(batch.step.rows))
        return self.output(loss, outputs, batch, labels, trained)

    def forward(self, batch: Batch, epoch: int) -> tuple[Outputs, Tensor, dict[str, Tensor]]:
        """Prepare a batch and run the model on it.

        Returns:
            The outputs, the labels (B,), and by modality the rows that train it, (B,) bool.
        """
        inputs, labels, trained = self.prepare(batch, epoch)
        return self.run(inputs, batch, self.active(batch)), labels, trained

    def active(self, batch: Batch) -> str:
        """The modality that a batch does not mask, or "all"."""
        return batch.step.modality if self.masks else ALL

    def prepare(
        self, batch: Batch, epoch: int
    ) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
        """Move a batch to the device and augment it.

        Returns:
            The inputs, the labels (B,), and by modality the rows that train it, (B,) bool.
        """
        trained = {}
        for name, value in batch.present.items():
            valid = value & batch.unmasked[name] if batch.unmasked else value
            trained[name] = valid.to(self.world.device, non_blocking=True)
        inputs = self.inputs(batch.inputs, batch.rows.numpy(), epoch, training=True)
        return inputs, batch.labels.to(self.world.device, non_blocking=True), trained

    def run(self, inputs: Mapping[str, Tensor], batch: Batch, active: str) -> Outputs:
        """Run the model on a batch that trains the modality `active`, or "all"."""
        with torch.autocast(
            self.world.device.type, torch.bfloat16, enabled=self.config.train.amp == "bf16"
        ):
            outputs: Outputs = self.model(
                inputs,
                batch.present,
                active=active,
                unmasked=batch.unmasked,
                loss_outputs=self.loss_outputs(batch),
            )
        return outputs

    def loss_outputs(self, batch: Batch) -> set[str]:
        """Outputs with a loss term: "fused" and modalities. Other heads get grad None, not 0."""
        weighs = batch.step.assigned is not None or self.weight(batch)
        return {FUSED, *(name for name, num in batch.num_valid.items() if num and weighs)}

    def weight(self, batch: Batch) -> float:
        """Weight w of the unimodal losses, for a batch whose rows all have the same masks."""
        train = self.config.train
        return (
            train.warmup_weight
            if batch.step.modality == ALL or not self.masks
            else train.remix_weight
        )

    def loss(
        self, outputs: Outputs, labels: Tensor, trained: Mapping[str, Tensor], batch: Batch
    ) -> Tensor:
        """CE(fused) + sum over the active modalities of w CE(unimodal).

        Each term is divided by its number of valid rows in the global batch (arXiv 2506.11550,
        section 3).
        """
        fused = self.cross_entropy(outputs.fused, labels, reduction="sum")
        return sum(
            self.unimodal_losses(outputs, labels, trained, batch),
            start=fused / batch.divisors[FUSED],
        )

    def cross_entropy(self, logits: Tensor, labels: Tensor, reduction: str = "none") -> Tensor:
        """Cross-entropy of rows (B,), with class weights and label smoothing."""
        return F.cross_entropy(
            logits.float(),
            labels,
            weight=self.class_weights,
            reduction=reduction,
            label_smoothing=self.config.train.label_smoothing,
        )

    def unimodal_losses(
        self, outputs: Outputs, labels: Tensor, trained: Mapping[str, Tensor], batch: Batch
    ) -> Iterator[Tensor]:
        """Yield w CE(unimodal) of each modality with a loss.

        If rows have different masks, each row counts as in a batch of its own kind.
        """
        train, step, loss_outputs = self.config.train, batch.step, self.loss_outputs(batch)
        for name, logits in outputs.unimodal.items():
            if name not in loss_outputs:
                continue
            losses = self.cross_entropy(logits, labels) * trained[name]
            if step.assigned is None:
                yield self.weight(batch) * losses.sum() / batch.divisors[name]
                continue
            own = step.assigned[step.slice_of(self.world.rank, self.world.size)]
            joint = torch.tensor(own < 0, device=labels.device)
            weights = torch.where(joint, train.warmup_weight, train.remix_weight)
            yield (weights * losses).sum() / batch.divisors[FUSED]

    def backward(self, loss: Tensor, batch: Batch) -> None:
        """Compute the gradients of a batch, and sum them over ranks if it ends an update."""
        self.reducer.backward(
            loss,
            self.model.trained_by(self.active(batch), self.loss_outputs(batch)),
            starts_update=batch.starts_update,
            ends_update=batch.ends_update,
        )

    def after_backward(
        self, outputs: Outputs, labels: Tensor, trained: Mapping[str, Tensor]
    ) -> None:
        """Hook to modify the gradients, already reduced over ranks, before the update.

        The arguments are those of the update's last batch.
        """

    def update(self) -> None:
        """Clip the gradients, if configured, and update the weights."""
        if self.config.optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm)
        self.optimizer.step()

    def output(
        self,
        loss: Tensor,
        outputs: Outputs,
        batch: Batch,
        labels: Tensor,
        trained: Mapping[str, Tensor],
    ) -> StepOutput:
        """What is logged of a step, whose loss () is this rank's share of the global loss."""
        fused = self.cross_entropy(outputs.fused.detach(), labels, reduction="sum")
        return StepOutput(
            loss=loss,
            fused_loss=fused / len(batch.step.rows),
            num_correct=self.count(outputs, labels, trained),
        )

    def count(self, outputs: Outputs, labels: Tensor, trained: Mapping[str, Tensor]) -> Tensor:
        """Count the correct rows of each head, (1 + K,)."""
        counts = {FUSED: (outputs.fused.argmax(1) == labels).sum()}
        for name, logits in outputs.unimodal.items():
            counts[name] = ((logits.argmax(1) == labels) & trained[name]).sum()
        none = labels.new_zeros(())
        return torch.stack([counts.get(name, none) for name in (FUSED, *self.model.modalities)])
