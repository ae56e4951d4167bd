"""What all encoders have in common: stages, gates, normalisation."""

from collections.abc import Callable, Generator
from typing import Self, cast

import torch
from torch import Tensor, nn


class OneValue(nn.Module):
    """Base class of BatchNorm layers that accept a single value per channel in training.

    Such a batch has no variance, so the running statistics are used and not updated.
    """

    def forward(self, x: Tensor) -> Tensor:  # (B, C, ...)
        was_training = self.training
        self.training = was_training and x.numel() > x.shape[1]
        output: Tensor = super().forward(x)
        self.training = was_training
        return output


class BatchNorm(OneValue, nn.BatchNorm2d):
    """BatchNorm2d that accepts a single value per channel in training."""


def group_norm(channels: int) -> nn.Module:
    """GroupNorm with 8 channels per group if divisible by 8, else a single group."""
    return nn.GroupNorm(channels // 8 if channels % 8 == 0 else 1, channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": BatchNorm,
    "group": group_norm,
    "none": lambda channels: nn.Identity(),
}


Stages = Generator[Tensor, Tensor | None, Tensor]
"""A running encoder, as a coroutine.

Yields each stage's output averaged over positions, (B, C); receives gates (B, C) or None; returns
the feature (B, D).
"""


class Encoder(nn.Module):
    """Base class of encoders, which run stage by stage.

    A subclass defines `forward`, (B, ...) -> (B, D), `channels` and `stage`, or `stages` if its
    stages cannot be run one after another. It is chosen by its name in EncoderConfig.kind and
    ENCODERS.
    """

    channels: tuple[int, ...]
    """Output channels of each stage; the last is the length of the feature."""
    lr_scale: float = 1
    """Factor of the learning rate."""
    frozen = False
    """Whether it stays in evaluation mode, without gradients."""

    def freeze(self) -> None:
        """Keep the weights and buffers as they are."""
        self.requires_grad_(False)
        self.frozen = True

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)

    def stage(self, number: int, x: Tensor) -> Tensor:
        """Run one stage on the previous stage's output, or on the input: (B, C, ...)."""
        raise NotImplementedError

    def stages(self, x: Tensor) -> Stages:
        """Run the stages, multiplying each stage's channels by the received gates."""
        for number in range(len(self.channels)):
            x = self.stage(number, x)
            x = gated(x, (yield _mean(x)))
        return _mean(x)

    def compile_stages(self) -> None:
        """Compile each stage, for an encoder that runs stage by stage."""
        # one graph per stage and kind of batch; the limit is global to torch
        torch.compiler.config.recompile_limit = 64
        self.stage = torch.compile(self.stage)  # type: ignore[method-assign]


def _mean(x: Tensor) -> Tensor:
    return x.flatten(2).mean(2) if x.ndim > 2 else x


def gated(x: Tensor, gates: Tensor | None) -> Tensor:
    return x if gates is None else x * gates.to(x.dtype).reshape(*gates.shape, *[1] * (x.ndim - 2))


class PerFrame(Encoder):
    """Applies an image encoder to each frame and averages the features; frames share gates."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.channels = encoder.channels

    def forward(self, frames: Tensor) -> Tensor:  # (B, T, C, H, W) -> (B, D)
        features: Tensor = self.encoder(frames.flatten(0, 1))  # (B * T, D)
        mean: Tensor = features.unflatten(0, frames.shape[:2]).mean(1)
        return mean

    def stages(self, frames: Tensor) -> Stages:
        inner, frame_gates = self.encoder.stages(frames.flatten(0, 1)), None
        for _ in self.channels:
            gates = yield inner.send(frame_gates).unflatten(0, frames.shape[:2]).mean(1)
            frame_gates = None if gates is None else gates.repeat_interleave(frames.shape[1], 0)
        mean: Tensor = finish(inner, frame_gates).unflatten(0, frames.shape[:2]).mean(1)
        return mean

    def compile_stages(self) -> None:
        self.encoder.compile_stages()


def finish(stages: Stages, gates: Tensor | None) -> Tensor:
    """Send the last gates to an encoder and return its feature (B, D)."""
    try:
        stages.send(gates)
    except StopIteration as end:
        return cast(Tensor, end.value)
    raise AssertionError("the encoder has another stage")
