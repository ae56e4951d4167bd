"""The state of a run in training: weights, their average, the optimizer and the position.

It is written to checkpoints and restored from them.
"""

from collections.abc import Collection
from dataclasses import asdict, replace
from typing import cast

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.errors import MismatchError
from pipeline.features.feature_set import FeatureSet
from trainer.config import RunConfig
from trainer.models import checkpoint as checkpoints
from trainer.models.checkpoint import Cursor
from trainer.models.model import MultimodalModel, model_for
from trainer.process_group import World
from trainer.run_directory import Run
from trainer.strategies.base import build_optimizer


class RunState:
    """State of a run, from its start or its last checkpoint. All ranks have it; rank 0 writes."""

    def __init__(self, config: RunConfig, features: FeatureSet, run: Run, world: World) -> None:
        self._config, self._features, self._run, self._world = config, features, run, world
        self.model = model_for(config.model, features, config.seed)
        self.architecture = checkpoints.architecture(config.model, features)
        if config.train.sync_batchnorm:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        self.model.to(world.device)
        if world.device.type == "cuda":
            # convolutions are faster with it; the stubs of torch lack the argument
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._average: AveragedModel | None = None
        self.tested = self.model
        """The model of scoring, validation and test, which is also written: with `train.ema` the
        average of the weights and buffers."""
        if config.train.ema is not None:
            average = get_ema_multi_avg_fn(config.train.ema)
            self._average = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
            self.tested = cast(MultimodalModel, self._average.module)
        self.optimizer = build_optimizer(config.optimizer, self.model)
        self.cursor = Cursor()
        self.resume()

    def updated(self) -> None:
        """Count the model's weights in their average, after an update."""
        if self._average:
            self._average.update_parameters(self.model)

    def broadcast_buffers(self) -> None:
        """Copy rank 0's buffers to all ranks.

        BatchNorm's running statistics differ between ranks, which train on different rows.
        """
        self._world.broadcast_tensors(self.model.buffers())
        if self._average:
            self._world.broadcast_tensors(self.tested.buffers())

    def restore_parts(self, names: Collection[str]) -> None:
        """Return encoders and heads of modalities to their best state."""
        for name in names:
            part = checkpoints.load(self._run.checkpoint(f"best.{name}"))["model"]
            self.model.load_state_dict(part, strict=False)
            self.tested.load_state_dict(part, strict=False)
            for key, weights in self.model.named_parameters():
                if key in part:
                    self.optimizer.state.pop(weights, None)

    def save(self, name: str, epoch: int, step: int, plan_fingerprint: str) -> None:
        """Write the checkpoint `last`, `best`, or the part of a modality, on rank 0."""
        if not self._world.is_rank_zero:
            return
        cursor = replace(self.cursor, epoch=epoch, step=step, plan_fingerprint=plan_fingerprint)
        is_part = name in self.model.modalities
        checkpoint = {
            "model": self.tested.part(name) if is_part else self.tested.state_dict(),
            "cursor": asdict(cursor),
            "architecture": self.architecture,
            "features": self._features.fingerprint,
            "digest": self._run.digest,
            "seed": self._config.seed,
            "amp": self._config.train.amp,
        }
        if name == "last":
            checkpoint["optimizer"] = self.optimizer.state_dict()
            if self._average:
                checkpoint["trained"] = self.model.state_dict()
        checkpoints.save(self._run.checkpoint(f"best.{name}" if is_part else name), checkpoint)

    def resume(self) -> None:
        """Restore the last checkpoint, if one exists. Raises MismatchError."""
        path = self._run.checkpoint("last")
        if not self._world.broadcast(path.exists()):
            return
        checkpoint = checkpoints.load(path)
        checkpoints.check_architecture(path, checkpoint["architecture"], self.architecture)
        if checkpoint["features"] != self._features.fingerprint:
            raise MismatchError(
                f"{path} was trained on features {checkpoint['features'][:12]}, "
                f"not {self._features.fingerprint[:12]}",
                "restore the features that it was trained on",
            )
        if checkpoint["digest"] != self._run.digest:
            raise MismatchError(
                f"{path} was trained with another configuration",
                "restore it or choose another run name; only source, resources and loggers may "
                "change",
            )
        checkpoints.load_weights(path, self.tested, checkpoint["model"])
        if self._average:
            checkpoints.load_weights(path, self.model, checkpoint.get("trained") or {})
            self._average.n_averaged.fill_(1)  # 0 would replace the average by the next weights
        checkpoints.load_optimizer(path, self.optimizer, checkpoint.get("optimizer"))
        self.cursor = Cursor.of(checkpoint)
