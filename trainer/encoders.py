"""Encoders: one row of a modality to one feature vector; pictures by a ResNet-18 or a small CNN, anything else by an MLP."""

from collections.abc import Callable
from itertools import pairwise
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torchvision.models import resnet18

from pipeline.config import Config
from pipeline.errors import ConfigError

Shape = tuple[int, ...]


class EncoderConfig(Config):
    """How a modality is prepared and encoded."""

    kind: Literal["resnet18", "cnn", "mlp"] | None = None
    """By default a cnn for pictures, spectrograms and frames, an mlp for anything else."""
    width: int = Field(default=32, ge=1, le=1024)
    """Channels of the cnn's first block; each of the four doubles them, so its feature has 8 * width numbers."""
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
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps)
        return super().forward(x)


def group_norm(channels: int) -> nn.Module:
    """GroupNorm with 8 channels a group, where they divide so."""
    return nn.GroupNorm(channels // 8 if channels % 8 == 0 else 1, channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": BatchNorm, "group": group_norm, "none": lambda channels: nn.Identity()}


class PerFrame(nn.Module):
    """A picture encoder over frames, its features averaged over them."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, frames: Tensor) -> Tensor:  # (B, T, C, H, W) -> (B, D)
        features: Tensor = self.encoder(frames.flatten(0, 1))  # (B * T, D)
        return features.unflatten(0, frames.shape[:2]).mean(1)


class Cnn(nn.Sequential):
    """Four blocks of a 3x3 convolution of stride 2, norm and ReLU, then the mean over positions: (B, C, H, W) -> (B, 8 * width)."""

    def __init__(self, config: EncoderConfig, channels: int) -> None:
        widths = [channels] + [config.width * 2**i for i in range(4)]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=config.norm == "none"), NORMS[config.norm](after), nn.ReLU(inplace=True)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


class Mlp(nn.Sequential):
    """Two layers with LayerNorm, which looks at one row alone, so that a batch of one row trains: (B, ...) -> (B, hidden)."""

    def __init__(self, config: EncoderConfig, num_inputs: int) -> None:
        super().__init__()
        for before in (num_inputs, config.hidden):
            self.extend([nn.Linear(before, config.hidden), nn.LayerNorm(config.hidden), nn.ReLU(inplace=True)])

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = super().forward(x.reshape(len(x), -1))
        return features


def _resnet18(config: EncoderConfig, shape: Shape) -> tuple[nn.Module, int]:
    net = resnet18(weights=None, norm_layer=NORMS[config.norm])
    if shape[-3] != 3:
        net.conv1 = nn.Conv2d(shape[-3], 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    feature_dim: int = net.fc.in_features
    net.fc = nn.Identity()
    return net, feature_dim


ENCODERS: dict[str, Callable[[EncoderConfig, Shape], tuple[nn.Module, int]]] = {
    "resnet18": _resnet18,
    "cnn": lambda config, shape: (Cnn(config, shape[-3]), 8 * config.width),
    "mlp": lambda config, shape: (Mlp(config, prod(shape)), config.hidden),
}


def build_encoder(config: EncoderConfig, shape: Shape) -> tuple[nn.Module, int]:
    """The encoder of rows of one shape, (T, C, H, W) frames, (C, H, W) pictures or any other, and the length of its feature (raises ConfigError)."""
    pictures = len(shape) in (3, 4)
    kind = config.kind or ("cnn" if pictures else "mlp")
    if kind != "mlp" and not pictures:
        raise ConfigError(f"encoder kind {kind!r} needs rows of shape (C, H, W) or (T, C, H, W), not {shape}", "use kind: mlp for this modality")
    if len(shape) == 4 and config.frames is not None:
        if config.frames > shape[0]:
            raise ConfigError(f"encoder has frames {config.frames}, but only {shape[0]} are stored", f"use at most {shape[0]}, or decode more")
        shape = (config.frames, *shape[1:])
    encoder, feature_dim = ENCODERS[kind](config, shape)
    folds = len(shape) == 4 and kind != "mlp"
    return (PerFrame(encoder) if folds else encoder).to(memory_format=torch.channels_last), feature_dim
