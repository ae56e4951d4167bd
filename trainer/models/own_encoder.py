"""A user's module as an encoder."""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.extensions import is_import_path, load_extension
from trainer.models.encoder import Encoder
from trainer.models.encoder_config import EncoderConfig, Shape

TORCHVISION_ENCODER = "trainer.models.torchvision_models:torchvision_encoder"


class OwnEncoder(Encoder):
    """A user's module, as an encoder of one stage: (B, *shape) -> (B, out_dim).

    Raises:
        ConfigError: the module cannot be built, or does not map rows of the shape to features.
    """

    def __init__(self, config: EncoderConfig, shape: Shape, *, ids: bool) -> None:
        super().__init__()
        kind = str(config.kind)
        factory: Any = load_extension(kind if is_import_path(kind) else TORCHVISION_ENCODER)
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
