"""Train the fusion on the features of a scoring pass (`train.refit_fusion`).

In modality-pure batches the fusion never sees two modalities together. The features that scoring
computes anyway train it for a pass over the rows, with all modalities; no encoder runs again.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch

from pipeline.arrays import Int64Array, IntArray
from pipeline.counter_rng import Purpose, hashes, key_of
from pipeline.errors import ConfigError
from trainer.config import RunConfig
from trainer.models.midfusion import MidFusion
from trainer.models.model import MultimodalModel
from trainer.process_group import World
from trainer.scoring.outputs import HeadOutputs
from trainer.strategies.base import build_optimizer


def check_refit(config: RunConfig, model: MultimodalModel) -> None:
    """Check that the fusion can be trained on features. Raises ConfigError."""
    if config.train.refit_fusion and (
        isinstance(model.fusion, MidFusion) or not any(True for _ in model.fusion.parameters())
    ):
        raise ConfigError(
            f"train.refit_fusion is true, but model.fusion {config.model.fusion!r} is not a layer "
            "on the encoders' features",
            "choose from concat, sum, film, gated, or set it to false",
        )


def refit_fusion(
    model: MultimodalModel,
    outputs: HeadOutputs | None,
    rows: Int64Array,
    labels: IntArray,
    config: RunConfig,
    epoch: int,
    rate: float,
    world: World,
    cross_entropy: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    """Train the fusion for one pass over rows (n,), in random order; the same on all ranks.

    Args:
        outputs: On rank 0, the outputs of the rows in evaluation mode.
        labels: (n,) their labels.
        rate: Learning rate.
        cross_entropy: Losses (B,) of logits and labels.
    """
    if outputs is not None:
        optimizer = build_optimizer(config.optimizer.model_copy(update={"lr": rate}), model.fusion)
        order = np.argsort(hashes(key_of(config.seed, epoch, Purpose.REFIT), rows), kind="stable")
        size = config.train.batch_size
        for start in range(0, len(order), size):
            batch = torch.from_numpy(order[start : start + size])
            logits = _fused(model, outputs.take(batch), world.device)
            target = torch.from_numpy(labels).long()[batch].to(world.device)
            optimizer.zero_grad(set_to_none=True)
            cross_entropy(logits, target).mean().backward()
            optimizer.step()
    world.broadcast_tensors(model.fusion.parameters())


def _fused(model: MultimodalModel, outputs: HeadOutputs, device: torch.device) -> torch.Tensor:
    present: Mapping[str, torch.Tensor] = outputs.present
    features = [
        torch.where(present[name][:, None], x, 0.0).float().to(device)
        for name, x in outputs.features.items()
    ]
    logits = [outputs.log_p[name].float().to(device) for name in outputs.features]
    return model.fuse(features, logits, torch.stack([present[name] for name in outputs.features]))
