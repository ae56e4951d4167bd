"""Alternating unimodal adaptation: the modalities of a batch learn in turn, through one head for all that forgets none of them (MLA, CVPR 2024).

Zhang et al., "Multimodal Representation Learning by Alternating Unimodal Adaptation", arXiv 2311.10707.
"""

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
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
    """A step of the optimizer for each modality that a batch trains, in their order; a pure batch trains one."""

    @classmethod
    def check(cls, config: RunConfig, model: MultimodalModel) -> None:
        """Raises ConfigError where the heads are not shared, a fusion would never be trained, or masked encoders would run along."""
        if config.model.heads != "shared":
            raise ConfigError(
                f"field 'model.heads' has the value {config.model.heads!r}, but mla trains one head for all",
                "set it to shared",
            )
        if not isinstance(model.fusion, Entropy | Decision):
            raise ConfigError(
                f"field 'model.fusion' has the value {config.model.fusion!r}, which mla does not train",
                "choose from entropy, decision",
            )
        if config.model.mask != "skip":
            raise ConfigError(
                f"field 'model.mask' has the value {config.model.mask!r}, but mla runs one encoder at a time",
                "set it to skip",
            )

    def __call__(self, batch: Batch, epoch: int) -> StepOutput:
        inputs, labels, has = self.prepare(batch, epoch)
        names = self.model.modalities if batch.step.modality == ALL else [batch.step.modality]
        total, shown = torch.zeros((), device=labels.device), {}
        for name in names:
            if batch.num_valid[name]:
                shown[name] = self.run(inputs, batch, name)
                total = total + self.adapt(name, shown[name], labels, has[name], batch)
        return StepOutput(loss=total, num_correct=self.count(self.merge(shown, has), labels, has))

    def loss_outputs(self, batch: Batch) -> set[str]:
        """The heads alone."""
        return set(self.model.modalities)

    def adapt(
        self, name: str, outputs: Outputs, labels: Tensor, has: Tensor, batch: Batch
    ) -> Tensor:
        """Moves the encoder of a modality and the shared head; the loss, CE(unimodal) over the global batch, is this rank's share."""
        each = F.cross_entropy(outputs.unimodal[name].float(), labels, reduction="none")
        loss = (each * has).sum() / batch.num_valid[name]
        self.optimizer.zero_grad(set_to_none=True)
        (loss * self.world.size).backward()
        total = self.world.sum(outputs.features[name][has].sum(0, dtype=torch.float32))
        # the schedule of the public code, from 0.1 at the start of an epoch to 0.01 at its end
        damping = 0.1 ** (1 + batch.step.step / batch.num_steps)
        cast(SharedHead, self.model.head(name)).project(total / batch.num_valid[name], damping)
        self.update()
        return loss.detach()

    @torch.no_grad()
    def merge(self, shown: dict[str, Outputs], has: Mapping[str, Tensor]) -> Outputs:
        """What all modalities said together, each before its own step."""
        names = self.model.modalities
        head, none = self.model.head(names[0]), torch.zeros_like(has[names[0]])
        features = dict.fromkeys(names, head.weight.new_zeros(len(none), head.in_features))
        logits = dict.fromkeys(names, head.weight.new_zeros(len(none), head.out_features))
        for name, outputs in shown.items():
            features[name], logits[name] = outputs.features[name], outputs.unimodal[name]
        present = torch.stack([has[name] if name in shown else none for name in names])
        fused = self.model.fuse(list(features.values()), list(logits.values()), present)
        return Outputs(fused, {name: logits[name] for name in shown}, features)
