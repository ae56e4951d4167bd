"""A user's module, or a model of a library, as an encoder."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.decode.media.shapes import Vocabulary
from pipeline.errors import ConfigError
from pipeline.extensions import load_extension
from trainer.models.encoder import Encoder, OneValue
from trainer.models.encoder_config import SOURCES, EncoderConfig, Shape


class OwnEncoder(Encoder):
    """A user's module, as an encoder of one stage: (B, *shape) -> (B, out_dim).

    Args:
        config: names the module.
        shape: of a row.
        vocabulary: of token ids, else None.
        weights: pretrained weights of a library's model.
    Raises:
        ConfigError: the module cannot be built, or does not map rows of the shape to features.
    """

    def __init__(
        self,
        config: EncoderConfig,
        shape: Shape,
        vocabulary: Vocabulary | None = None,
        weights: Path | None = None,
    ) -> None:
        super().__init__()
        kind = str(config.kind)
        load_extension(SOURCES.get(kind, kind))
        try:
            module = _module(config, shape, vocabulary, weights)
        except Exception as error:  # whatever the user's function raises
            name = f"{kind}, {config.name}," if config.name else kind
            raise ConfigError(
                f"{name} failed for rows of shape {shape}, args {config.args} "
                f"({type(error).__name__}: {error})",
                "correct the encoder's configuration or the function",
            ) from error
        out_dim = getattr(module, "out_dim", None)
        if not isinstance(module, nn.Module) or not isinstance(out_dim, int) or out_dim < 1:
            raise ConfigError(
                f"{kind} returned {type(module).__name__} with out_dim {out_dim!r}",
                "return an nn.Module whose attribute out_dim is the length of its feature",
            )
        self.module = module
        self.channels = (out_dim,)
        rows = torch.zeros(2, *shape, dtype=torch.long if vocabulary else torch.float32)
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


def _module(
    config: EncoderConfig, shape: Shape, vocabulary: Vocabulary | None, weights: Path | None
) -> Any:
    """Build the module that a configuration names."""
    args: dict[str, Any] = config.args
    model: nn.Module
    if config.kind == "torchvision":
        from trainer.models.torchvision_models import torchvision_encoder

        model = torchvision_encoder(shape, str(config.name), weights, **args)
    elif config.kind == "timm":
        from trainer.models.timm_models import timm_encoder

        model = timm_encoder(shape, str(config.name), weights, **args)
    elif config.kind == "transformers":
        from trainer.models.transformers_models import TransformersEncoder

        fit = not config.pretrained
        model = TransformersEncoder(
            shape, vocabulary, config.name, weights, args, with_defaults=fit
        )
    else:
        return load_extension(str(config.kind))(shape, **args)
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):  # the same layer, but for a batch of one value
            kind = type(layer)
            layer.__class__ = type(kind.__name__, (OneValue, kind), {})
    return model
