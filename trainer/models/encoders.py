"""Encoders by their name in a configuration.

By default a CNN for images, spectrograms and video frames, convolutions over bytes for text, and an
MLP for anything else.
"""

from collections.abc import Callable
from math import prod

import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.extensions import is_import_path
from trainer.models.encoder import BatchNorm, Encoder, PerFrame
from trainer.models.encoder_config import EncoderConfig, Shape
from trainer.models.own_encoder import OwnEncoder
from trainer.models.small_encoders import Cnn, Mlp, Text


def _torchvision(config: EncoderConfig, shape: Shape) -> OwnEncoder:
    """A model of torchvision whose BatchNorm layers accept a single row."""
    encoder = OwnEncoder(config, shape, ids=False)
    for module in encoder.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = BatchNorm  # the same layer but for such a batch
    return encoder


def _resnet18(config: EncoderConfig, shape: Shape) -> Encoder:
    from trainer.models.resnet import ResNet18  # torchvision takes more than a second to import

    return ResNet18(config, shape[-3])


ENCODERS: dict[str, Callable[[EncoderConfig, Shape], Encoder]] = {
    "resnet18": _resnet18,
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
