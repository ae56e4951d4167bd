"""Encoders by their name in a configuration.

By default a CNN for images, spectrograms and video frames, convolutions over bytes for text, and an
MLP for anything else.
"""

from collections.abc import Callable
from math import prod

import torch

from pipeline.decode.media.shapes import BYTES, Vocabulary
from pipeline.errors import ConfigError
from pipeline.extensions import is_import_path
from trainer.models.encoder import Encoder, PerFrame
from trainer.models.encoder_config import SOURCES, EncoderConfig, Shape
from trainer.models.own_encoder import OwnEncoder
from trainer.models.small_encoders import Cnn, Mlp, Text
from trainer.models.weights import weights_path


def _resnet18(config: EncoderConfig, shape: Shape) -> Encoder:
    from trainer.models.resnet import ResNet18  # torchvision takes more than a second to import

    return ResNet18(config, shape[-3])


ENCODERS: dict[str, Callable[[EncoderConfig, Shape], Encoder]] = {
    "resnet18": _resnet18,
    "cnn": lambda config, shape: Cnn(config, shape[-3]),
    "mlp": lambda config, shape: Mlp(config, prod(shape)),
}


def build_encoder(
    config: EncoderConfig,
    shape: Shape,
    vocabulary: Vocabulary | None = None,
    *,
    pretrained: bool = True,
) -> tuple[Encoder, int]:
    """Build the encoder of a modality.

    Args:
        config: the modality's.
        shape: of a row: (T, C, H, W), (C, H, W), (L,) for token ids, or any other.
        vocabulary: if the rows are token ids of text.
        pretrained: load the configured weights; false if others replace them.
    Returns:
        The encoder and the length of its feature.
    Raises:
        ConfigError: the configured kind does not fit the rows.
    """
    is_image = len(shape) in (3, 4)
    kind = config.kind or ("text" if vocabulary else "cnn" if is_image else "mlp")
    own = is_import_path(kind)
    any_rows = own or kind == "transformers"
    if (kind == "text") != bool(vocabulary) and not any_rows:
        rows = "token ids of text" if vocabulary else f"numbers of shape {shape}"
        raise ConfigError(
            f"encoder kind {kind!r} does not fit the rows: {rows}",
            "remove kind from this modality's encoder",
        )
    if kind not in ("mlp", "text") and not is_image and not any_rows:
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
        encoder: Encoder = OwnEncoder(config, shape, vocabulary)
    elif kind in SOURCES:
        weights = weights_path(config) if pretrained else None
        encoder = OwnEncoder(config, shape[-3:], vocabulary, weights)
    elif kind == "text":
        encoder = Text(config, vocabulary or BYTES)
    else:
        encoder = ENCODERS[kind](config, shape)
    if len(shape) == 4 and kind != "mlp" and not own:
        encoder = PerFrame(encoder)
    if not own:
        encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    encoder.lr_scale = config.lr_scale
    if config.freeze:
        encoder.freeze()
    return encoder, encoder.channels[-1]
