"""Encoders that map a row of a modality to a feature vector.

ResNet-18 or a small CNN for images, spectrograms and video frames; a CNN over bytes for text; an
MLP for anything else.
"""

from collections.abc import Callable, Generator
from itertools import pairwise
from math import prod
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field, JsonValue, model_validator
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from pipeline.config import StrictModel
from pipeline.errors import ConfigError
from pipeline.extensions import check_name, is_import_path, load_extension
from trainer.models.torchvision_models import torchvision_encoder

Shape = tuple[int, ...]
NUM_IDS = 257
"""Number of token ids of a text: padding (0) and the 256 bytes."""


class EncoderConfig(StrictModel):
    """Augmentation, normalisation and encoder of a modality."""

    kind: Annotated[str, AfterValidator(lambda name: check_name(name, ENCODERS))] | None = None
    """resnet18, cnn, mlp, text, torchvision (args: {name: resnet34}), or the import path of an own
    encoder, "package.module:name"; null: cnn for images, spectrograms and frames, text for text,
    mlp for the rest."""
    args: dict[str, JsonValue] = Field(default={})
    """Keyword arguments of torchvision or of an own encoder."""
    width: int = Field(default=32, ge=1, le=1024)
    """Channels of the cnn's first block, or size of the text encoder's byte embedding.

    The feature of either has 8 * width numbers."""
    hidden: int = Field(default=256, ge=1, le=65_536)
    """Size of the mlp's layers and of its feature."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation layers of resnet18 and cnn. batch mixes rows of a batch: for the same result
    with any number of workers use group or none, or set train.sync_batchnorm."""
    frames: int | None = Field(default=None, ge=1)
    """Frames used per video, one per equal segment: random in training, central in evaluation.

    null: all stored frames."""
    crop: bool = False
    """Random resized crop in training. Applies to uint8 images and frames only."""
    crop_area: float = Field(default=0.08, gt=0, le=1)
    """Minimum share of the image's area that a crop keeps."""
    flip: bool = False
    """Random horizontal flip in training. Applies to uint8 images and frames only."""
    normalize: Literal["dataset", "imagenet", "none"] = "dataset"
    """dataset: mean and SD of the training rows; imagenet: ImageNet's mean and SD for uint8 images
    with three channels, dataset for other modalities; none: only scale uint8 to [0, 1]."""

    @model_validator(mode="after")
    def _takes_args(self) -> "EncoderConfig":
        if self.args and self.kind != "torchvision" and not is_import_path(self.kind):
            raise ValueError("args are for torchvision or an import path; remove them")
        return self


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm2d that accepts a single value per channel in training.

    Such a batch has no variance, so the running statistics are used and not updated.
    """

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        if self.training and x.numel() == x.shape[1]:
            mean, variance = self.running_mean, self.running_var
            return F.batch_norm(x, mean, variance, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


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

    def stage(self, number: int, x: Tensor) -> Tensor:
        """Run one stage on the previous stage's output, or on the input: (B, C, ...)."""
        raise NotImplementedError

    def stages(self, x: Tensor) -> Stages:
        """Run the stages, multiplying each stage's channels by the received gates."""
        for number in range(len(self.channels)):
            x = self.stage(number, x)
            x = _gated(x, (yield _mean(x)))
        return _mean(x)

    def compile_stages(self) -> None:
        """Compile each stage, for an encoder that runs stage by stage."""
        # one graph per stage and kind of batch; the limit is global to torch
        torch.compiler.config.recompile_limit = 64
        self.stage = torch.compile(self.stage)  # type: ignore[method-assign]


def _mean(x: Tensor) -> Tensor:
    return x.flatten(2).mean(2) if x.ndim > 2 else x


def _gated(x: Tensor, gates: Tensor | None) -> Tensor:
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


class Blocks(Encoder, nn.Sequential):
    """A sequence of layers; three form a stage."""

    def stage(self, number: int, x: Tensor) -> Tensor:
        for layer in list(self)[3 * number : 3 * number + 3]:
            x = layer(x)
        return x


class Cnn(Blocks):
    """Four blocks of a 3x3 convolution of stride 2, norm and ReLU, then global average pooling.

    (B, C, H, W) -> (B, 8 * width).
    """

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
    """Two linear layers with LayerNorm and ReLU: (B, ...) -> (B, hidden).

    LayerNorm allows batches of one row.
    """

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
    """Byte embedding, two blocks of convolution, LayerNorm and ReLU, then average pooling.

    Token ids (B, L) -> (B, 8 * width). Padding (id 0) is zero in every convolution and is left out
    of the mean, so that a feature depends neither on L nor on other rows.
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
        x, is_text = self._embedded(ids)
        for number in range(len(self.channels)):
            x = self.stage(number, x) * is_text
        total: Tensor = x.sum(2)
        return total / is_text.sum(2).clamp_min(1)

    def stage(self, number: int, x: Tensor) -> Tensor:  # (B, C, L) -> (B, C', L)
        normed = self.norms[number](self.convolutions[number](x).transpose(1, 2))
        return F.relu(normed).transpose(1, 2)

    def stages(self, ids: Tensor) -> Stages:
        x, is_text = self._embedded(ids)
        num = is_text.sum(2).clamp_min(1)
        for number in range(len(self.channels)):
            x = self.stage(number, x) * is_text
            x = _gated(x, (yield x.sum(2) / num))
        total: Tensor = x.sum(2)
        return total / num

    def _embedded(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding (B, C, L), and which positions are not padding, (B, 1, L)."""
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
        output: Tensor = self.get_submodule(f"layer{number + 1}")(x)
        return output


class OwnEncoder(Encoder):
    """A user's module, as an encoder of one stage: (B, *shape) -> (B, out_dim).

    Raises:
        ConfigError: the module cannot be built, or does not map rows of the shape to features.
    """

    def __init__(self, config: EncoderConfig, shape: Shape, *, ids: bool) -> None:
        super().__init__()
        kind = str(config.kind)
        factory: Any = load_extension(kind) if is_import_path(kind) else torchvision_encoder
        try:
            module: Any = factory(shape, **config.args)
        except Exception as error:  # whatever the user's function raises
            raise ConfigError(
                f"{kind} failed for rows of shape {shape}, args {config.args} "
                f"({type(error).__name__}: {error})",
                "correct model.encoder.args or the function",
            ) from error
        out_dim = getattr(module, "out_dim", None)
        if not isinstance(module, nn.Module) or not isinstance(out_dim, int) or out_dim < 1:
            raise ConfigError(
                f"{kind} returned {type(module).__name__} with out_dim {out_dim!r}",
                "return an nn.Module whose attribute out_dim is the length of its feature",
            )
        self.module = module
        self.channels = (out_dim,)
        rows = torch.zeros(2, *shape, dtype=torch.long if ids else torch.float32)
        try:
            with torch.no_grad():
                output: Any = module.eval()(rows)
        except Exception as error:  # whatever the user's module raises
            raise ConfigError(
                f"{kind} cannot encode rows of shape {tuple(rows.shape)} "
                f"({type(error).__name__}: {error})",
                "correct the module, or choose another encoder for this modality",
            ) from error
        module.train()
        if not isinstance(output, Tensor) or output.shape != (2, out_dim):
            given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ConfigError(
                f"{kind} maps rows of shape {tuple(rows.shape)} to {given}, not {(2, out_dim)}",
                "correct out_dim or the module's forward",
            )

    def stage(self, number: int, x: Tensor) -> Tensor:
        output: Tensor = self.module(x)
        return output

    def forward(self, x: Tensor) -> Tensor:
        return self.stage(0, x)


def _torchvision(config: EncoderConfig, shape: Shape) -> OwnEncoder:
    """A model of torchvision whose BatchNorm layers accept a single row."""
    encoder = OwnEncoder(config, shape, ids=False)
    for module in encoder.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = BatchNorm  # the same layer but for such a batch
    return encoder


ENCODERS: dict[str, Callable[[EncoderConfig, Shape], Encoder]] = {
    "resnet18": lambda config, shape: ResNet18(config, shape[-3]),
    "cnn": lambda config, shape: Cnn(config, shape[-3]),
    "mlp": lambda config, shape: Mlp(config, prod(shape)),
    "text": lambda config, shape: Text(config),
    "torchvision": lambda config, shape: _torchvision(config, shape[-3:]),
}


def build_encoder(config: EncoderConfig, shape: Shape, *, ids: bool = False) -> tuple[Encoder, int]:
    """Build the encoder of a modality.

    Args:
        shape: of a row: (T, C, H, W), (C, H, W), (L,) for token ids, or any other.
        ids: whether the rows are token ids of text.
    Returns:
        The encoder and the length of its feature.
    Raises:
        ConfigError: the configured kind does not fit the rows.
    """
    is_image = len(shape) in (3, 4)
    kind = config.kind or ("text" if ids else "cnn" if is_image else "mlp")
    own = is_import_path(kind)
    if (kind == "text") != ids and not own:
        rows = "token ids of text" if ids else f"numbers of shape {shape}"
        raise ConfigError(
            f"encoder kind {kind!r} does not fit the rows: {rows}",
            "remove kind from this modality's encoder",
        )
    if kind not in ("mlp", "text") and not is_image and not own:
        raise ConfigError(
            f"encoder kind {kind!r} needs rows of shape (C, H, W) or (T, C, H, W), not {shape}",
            "use kind: mlp for this modality",
        )
    if len(shape) == 4 and config.frames is not None:
        if config.frames > shape[0]:
            raise ConfigError(
                f"encoder frames is {config.frames}, but only {shape[0]} are stored",
                f"set it to {shape[0]} or less, or decode more frames",
            )
        shape = (config.frames, *shape[1:])
    if own:
        own_encoder = OwnEncoder(config, shape, ids=ids)
        return own_encoder, own_encoder.channels[-1]
    encoder = ENCODERS[kind](config, shape)
    module = PerFrame(encoder) if len(shape) == 4 and kind != "mlp" else encoder
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module, encoder.channels[-1]
