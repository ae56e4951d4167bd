"""MLA: modalities are trained in turn through a shared head (CVPR 2024).

Zhang et al., "Multimodal Representation Learning by Alternating Unimodal Adaptation",
arXiv 2311.10707.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.storage.schemas import ALL
from trainer.config import RunConfig
from trainer.data.plan_loader import Batch
from trainer.models.fusion import Decision, Entropy
from trainer.models.model import MultimodalModel, Outputs
from trainer.models.shared_head import SharedHead
from trainer.strategies.base import StepOutput, TrainStep


class Mla(TrainStep):
    """One optimizer step per modality of the batch, in order; a modality-pure batch has one."""

    accumulates = False

    @classmethod
    def check(cls, config: RunConfig, model: MultimodalModel) -> None:
        """Check heads, fusion and mask, which MLA restricts. Raises ConfigError."""
        if config.model.heads != "shared":
            raise ConfigError(
                f"model.heads is {config.model.heads!r}, but mla trains one shared head",
                "set it to shared",
            )
        if not isinstance(model.fusion, Entropy | Decision):
            raise ConfigError(
                f"model.fusion is {config.model.fusion!r}, which mla does not train",
                "choose from entropy, decision",
            )
        if config.model.mask != "skip":
            raise ConfigError(
                f"model.mask is {config.model.mask!r}, but mla runs one encoder at a time",
                "set it to skip",
            )

    def __call__(self, batch: Batch, epoch: int) -> StepOutput:
        inputs, labels, trained = self.prepare(batch, epoch)
        names = self.model.modalities if batch.step.modality == ALL else [batch.step.modality]
        total, outputs = torch.zeros((), device=labels.device), {}
        for name in names:
            if batch.num_valid[name]:
                outputs[name] = self.run(inputs, batch, name)
                total = total + self.adapt(name, outputs[name], labels, trained[name], batch)
        merged = self.merge(outputs, trained)
        return self.output(total, merged, batch, labels, trained)

    def loss_outputs(self, batch: Batch) -> set[str]:
        """The unimodal heads only."""
        return set(self.model.modalities)

    def adapt(
        self, name: str, outputs: Outputs, labels: Tensor, trained: Tensor, batch: Batch
    ) -> Tensor:
        """Update a modality's encoder and the shared head.

        Returns this rank's share of CE(unimodal) over the global batch.
        """
        losses = self.cross_entropy(outputs.unimodal[name], labels)
        loss = (losses * trained).sum() / batch.num_valid[name]
        self.optimizer.zero_grad(set_to_none=True)
        self.reducer.backward(loss, self.model.trained_by(name, [name]))
        total = self.world.sum(outputs.features[name][trained].sum(0, dtype=torch.float32))
        # schedule of the paper's public code: 0.1 at the start of an epoch to 0.01 at its end
        damping = 0.1 ** (1 + batch.step.step / batch.num_steps)
        cast(SharedHead, self.model.head(name)).project(total / batch.num_valid[name], damping)
        self.update()
        return loss.detach()

    @torch.no_grad()
    def merge(self, outputs: dict[str, Outputs], trained: Mapping[str, Tensor]) -> Outputs:
        """Combine the outputs of all modalities, each from before its own update."""
        names = self.model.modalities
        head, none = self.model.head(names[0]), torch.zeros_like(trained[names[0]])
        features = dict.fromkeys(names, head.weight.new_zeros(len(none), head.in_features))
        logits = dict.fromkeys(names, head.weight.new_zeros(len(none), head.out_features))
        for name, output in outputs.items():
            features[name], logits[name] = output.features[name], output.unimodal[name]
        visible = torch.stack([trained[name] if name in outputs else none for name in names])
        fused = self.model.fuse(list(features.values()), list(logits.values()), visible)
        return Outputs(fused, {name: logits[name] for name in outputs}, features)
