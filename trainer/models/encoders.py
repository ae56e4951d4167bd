"""Encoders: one row of a modality to one feature vector; pictures by a ResNet-18 or a small CNN, texts by a CNN over bytes, anything else by an MLP."""

from collections.abc import Callable, Generator
from itertools import pairwise
from math import prod
from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from pipeline.config import StrictModel
from pipeline.errors import ConfigError

Shape = tuple[int, ...]
NUM_IDS = 257
"""Of a text's ids: padding and the 256 bytes."""


class EncoderConfig(StrictModel):
    """How a modality is prepared and encoded."""

    kind: Literal["resnet18", "cnn", "mlp", "text"] | None = None
    """By default a cnn for pictures, spectrograms and frames, text for texts, an mlp for anything else."""
    width: int = Field(default=32, ge=1, le=1024)
    """Channels of the cnn's first block; each of the four doubles them, so its feature has 8 * width numbers. Of text: of a byte's embedding."""
    hidden: int = Field(default=256, ge=1, le=65_536)
    """Width of the mlp's layers and of its feature."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Of the convolutional encoders. batch looks at other rows, so N workers equal one worker only with group or none (or SyncBatchNorm)."""
    frames: int | None = Field(default=None, ge=1)
    """Of a video's stored frames use this many: one per equal segment, random in training, the central one in evaluation; by default all."""
    crop: bool = False
    """Random resized crop in training, of uint8 pictures and frames; nothing else is cropped or flipped."""
    crop_area: float = Field(default=0.08, gt=0, le=1)
    """The smallest share of the picture that a crop keeps."""
    flip: bool = False
    """Random horizontal flip in training, of uint8 pictures and frames."""
    normalize: Literal["dataset", "imagenet", "none"] = "dataset"
    """imagenet holds for three-channel uint8 pictures; other modalities then use the dataset's mean and std. none only scales uint8 to [0, 1]."""


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that trains on a single value per channel too: it has no variance, so the running statistics serve, unmoved."""

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        if self.training and x.numel() == x.shape[1]:
            mean, variance = self.running_mean, self.running_var
            return F.batch_norm(x, mean, variance, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def group_norm(channels: int) -> nn.Module:
    """GroupNorm with 8 channels a group, where they divide so."""
    return nn.GroupNorm(channels // 8 if channels % 8 == 0 else 1, channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": BatchNorm,
    "group": group_norm,
    "none": lambda channels: nn.Identity(),
}


Stages = Generator[Tensor, Tensor | None, Tensor]
"""An encoder under way: after each stage it says the mean (B, C) of what that shows, takes a gate (B, C) or None, and returns the feature at the end."""


class Encoder(nn.Module):
    """An encoder that others may meet between its stages: `forward` runs them all at once, `stages` one by one."""

    channels: tuple[int, ...]
    """Of what each stage shows; the last are the feature's."""

    def stage(self, number: int, x: Tensor) -> Tensor:
        """(B, C, ...): what one stage makes of what the one before showed, or of the input."""
        raise NotImplementedError

    def stages(self, x: Tensor) -> Stages:
        """Runs the stages, channel by channel times the gates."""
        for number in range(len(self.channels)):
            x = self.stage(number, x)
            x = _gated(x, (yield _mean(x)))
        return _mean(x)

    def compile_stages(self) -> None:
        """As `compile`, for an encoder that is run stage by stage: a graph per stage and kind of batch, hence the limit, which is torch's own."""
        torch.compiler.config.recompile_limit = 64
        self.stage = torch.compile(self.stage)  # type: ignore[method-assign]


def _mean(x: Tensor) -> Tensor:
    return x.flatten(2).mean(2) if x.ndim > 2 else x


def _gated(x: Tensor, gates: Tensor | None) -> Tensor:
    return x if gates is None else x * gates.to(x.dtype).reshape(*gates.shape, *[1] * (x.ndim - 2))


class PerFrame(Encoder):
    """A picture encoder over frames, its features averaged over them, and gated alike."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.channels = encoder.channels

    def forward(self, frames: Tensor) -> Tensor:  # (B, T, C, H, W) -> (B, D)
        features: Tensor = self.encoder(frames.flatten(0, 1))  # (B * T, D)
        mean: Tensor = features.unflatten(0, frames.shape[:2]).mean(1)
        return mean

    def stages(self, frames: Tensor) -> Stages:
        inner, each = self.encoder.stages(frames.flatten(0, 1)), None
        for _ in self.channels:
            gates = yield inner.send(each).unflatten(0, frames.shape[:2]).mean(1)
            each = None if gates is None else gates.repeat_interleave(frames.shape[1], 0)
        mean: Tensor = finish(inner, each).unflatten(0, frames.shape[:2]).mean(1)
        return mean

    def compile_stages(self) -> None:
        self.encoder.compile_stages()


def finish(stages: Stages, gates: Tensor | None) -> Tensor:
    """The feature (B, D) of an encoder that waits after its last stage."""
    try:
        stages.send(gates)
    except StopIteration as end:
        return cast(Tensor, end.value)
    raise AssertionError("the encoder has another stage")


class Blocks(Encoder, nn.Sequential):
    """Stages of three layers each."""

    def stage(self, number: int, x: Tensor) -> Tensor:
        for layer in list(self)[3 * number : 3 * number + 3]:
            x = layer(x)
        return x


class Cnn(Blocks):
    """Four blocks of a 3x3 convolution of stride 2, norm and ReLU, then the mean over positions: (B, C, H, W) -> (B, 8 * width)."""

    def __init__(self, config: EncoderConfig, channels: int) -> None:
        widths = [channels] + [config.width * 2**i for i in range(4)]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [
                nn.Conv2d(before, after, 3, 2, 1, bias=config.norm == "none"),
                NORMS[config.norm](after),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.channels = tuple(widths[1:])
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


class Mlp(Blocks):
    """Two layers with LayerNorm, which looks at one row alone, so that a batch of one row trains: (B, ...) -> (B, hidden)."""

    def __init__(self, config: EncoderConfig, num_inputs: int) -> None:
        super().__init__()
        self.channels = (config.hidden, config.hidden)
        for before in (num_inputs, config.hidden):
            linear = nn.Linear(before, config.hidden)
            self.extend([linear, nn.LayerNorm(config.hidden), nn.ReLU(inplace=True)])

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = super().forward(x.reshape(len(x), -1))  # type: ignore[no-untyped-call]
        return features

    def stage(self, number: int, x: Tensor) -> Tensor:
        return super().stage(number, x.flatten(1))


class Text(Encoder):
    """A text's bytes embedded, two blocks of a convolution over 5 positions, LayerNorm and ReLU, then the mean over positions: ids (B, L) -> (B, 8 * width).

    Padding, id 0, is zero wherever a convolution looks and left out of the mean, so that a text's feature depends neither on L nor on other rows.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        widths = [config.width, 4 * config.width, 8 * config.width]
        self.embedding = nn.Embedding(NUM_IDS, config.width, padding_idx=0)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, 5, padding=2) for before, after in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths[1:])
        self.channels = tuple(widths[1:])

    def forward(self, ids: Tensor) -> Tensor:  # (B, L) integers -> (B, 8 * width)
        x, there = self._embedded(ids)
        for number in range(len(self.channels)):
            x = self.stage(number, x) * there
        total: Tensor = x.sum(2)
        return total / there.sum(2).clamp_min(1)

    def stage(self, number: int, x: Tensor) -> Tensor:  # (B, C, L) -> (B, C', L)
        normed = self.norms[number](self.convolutions[number](x).transpose(1, 2))
        return F.relu(normed).transpose(1, 2)

    def stages(self, ids: Tensor) -> Stages:
        x, there = self._embedded(ids)
        num = there.sum(2).clamp_min(1)
        for number in range(len(self.channels)):
            x = self.stage(number, x) * there
            x = _gated(x, (yield x.sum(2) / num))
        total: Tensor = x.sum(2)
        return total / num

    def _embedded(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, L), and (B, 1, L): where there is text."""
        return self.embedding(ids).transpose(1, 2), (ids != 0).unsqueeze(1)


class ResNet18(Encoder, ResNet):  # type: ignore[misc]
    """torchvision's ResNet-18 without its classifier: (B, C, H, W) -> (B, 512)."""

    def __init__(self, config: EncoderConfig, channels: int) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], norm_layer=NORMS[config.norm])
        if channels != 3:
            self.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.fc = nn.Identity()
        self.channels = (64, 128, 256, 512)

    def stage(self, number: int, x: Tensor) -> Tensor:
        if number == 0:
            for first in ("conv1", "bn1", "relu", "maxpool"):
                x = self.get_submodule(first)(x)
        shown: Tensor = self.get_submodule(f"layer{number + 1}")(x)
        return shown


ENCODERS: dict[str, Callable[[EncoderConfig, Shape], Encoder]] = {
    "resnet18": lambda config, shape: ResNet18(config, shape[-3]),
    "cnn": lambda config, shape: Cnn(config, shape[-3]),
    "mlp": lambda config, shape: Mlp(config, prod(shape)),
    "text": lambda config, shape: Text(config),
}


def build_encoder(config: EncoderConfig, shape: Shape, *, ids: bool = False) -> tuple[Encoder, int]:
    """An encoder of frames (T, C, H, W), pictures (C, H, W), texts (L,) where `ids`, or any other rows, and the length of its feature (raises ConfigError)."""
    pictures = len(shape) in (3, 4)
    kind = config.kind or ("text" if ids else "cnn" if pictures else "mlp")
    if (kind == "text") != ids:
        rows = "the ids of texts" if ids else f"numbers of shape {shape}"
        raise ConfigError(
            f"encoder kind {kind!r} does not fit the rows, which are {rows}",
            "leave out the kind of this modality's encoder",
        )
    if kind not in ("mlp", "text") and not pictures:
        raise ConfigError(
            f"encoder kind {kind!r} needs rows of shape (C, H, W) or (T, C, H, W), not {shape}",
            "use kind: mlp for this modality",
        )
    if len(shape) == 4 and config.frames is not None:
        if config.frames > shape[0]:
            raise ConfigError(
                f"encoder has frames {config.frames}, but only {shape[0]} are stored",
                f"use at most {shape[0]}, or decode more",
            )
        shape = (config.frames, *shape[1:])
    encoder = ENCODERS[kind](config, shape)
    whole = PerFrame(encoder) if len(shape) == 4 and kind != "mlp" else encoder
    whole.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return whole, encoder.channels[-1]
