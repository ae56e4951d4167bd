"""Small mid-fusion models and a batch for them."""

import pytest
import torch
from torch import Tensor

from pipeline.decode.media.shapes import BYTES
from trainer.models.encoder import Encoder, Stages, finish
from trainer.models.midfusion import MIDFUSIONS
from trainer.models.model import MultimodalModel, build_model
from trainer.models.model_config import ModelConfig

SHAPES: dict[str, tuple[int, ...]] = {
    "frames": (2, 3, 16, 16),
    "note": (9,),
    "picture": (1, 12, 9),
    "vector": (5, 2),
}
"""Encoders with four, two, four and two stages."""
CLASSES, ROWS = 5, 6
MASKS = ("skip", "feature", "input")
Given = tuple[dict[str, Tensor], dict[str, Tensor], Tensor]
OWN = r"encoders\.modality-picture|fusion\.(exchanges\.\d\.excite|projections\.\d|alphas\.\d)\.1"
over_fusions = pytest.mark.parametrize("fusion", MIDFUSIONS)


def make(
    names: tuple[str, ...], fusion: str, mask: str = "skip", norm: str = "batch", seed: int = 0
) -> MultimodalModel:
    config = ModelConfig.model_validate(
        {
            "fusion": fusion,
            "mask": mask,
            "hidden": 12,
            "encoder": {"width": 4, "hidden": 8, "norm": norm},
        }
    )
    return build_model(
        config,
        {name: SHAPES[name] for name in names},
        CLASSES,
        seed,
        ids={name: BYTES for name in names if name == "note"},
    )


def batch(names: tuple[str, ...], size: int = ROWS) -> Given:
    generator = torch.Generator().manual_seed(1)
    inputs = {name: torch.randn(size, *SHAPES[name], generator=generator) for name in names}
    if "note" in inputs:
        inputs["note"] = torch.randint(257, (size, 9), generator=generator)
    return (
        inputs,
        {name: torch.ones(size, dtype=torch.bool) for name in names},
        torch.randint(CLASSES, (size,), generator=generator),
    )


def alone(encoder: Encoder, x: Tensor, gates: list[Tensor | None]) -> tuple[list[Tensor], Tensor]:
    """An encoder's stage outputs for given gates, and its feature."""
    stages: Stages = encoder.stages(x)
    shown = [stages.send(gate) for gate in [None, *gates[:-1]]]
    return shown, finish(stages, gates[-1])
