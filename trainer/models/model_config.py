"""Configuration of the model.

It is read without importing torch, so that errors are reported at once.
"""

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from pipeline.config import Name, StrictModel
from pipeline.extensions import Identity, is_import_path
from trainer.models.encoder_config import SOURCES, EncoderConfig, Shape

Mask = Literal["skip", "feature", "input"]


class ModelConfig(StrictModel):
    """Fusion, masking, and an encoder per modality."""

    fusion: Literal[
        "concat", "sum", "decision", "film", "gated", "entropy", "mmtm", "centralnet"
    ] = "concat"
    """How modalities are combined. mmtm and centralnet combine them between the encoders' stages;
    decision and entropy average the unimodal predictions."""
    heads: Literal["own", "shared"] = "own"
    """Unimodal heads: own, one per modality; shared, one for all (needed by strategy mla), which
    requires features of the same length."""
    mask: Mask = "skip"
    """How a modality is masked: skip, its encoder does not run (fastest); feature, its feature is
    set to zero after the encoder; input, its encoder runs on zeros."""
    hidden: int = Field(default=512, ge=1, le=65_536)
    """Size of the hidden layer of fusion gated and of centralnet's central network."""
    encoder: EncoderConfig = EncoderConfig()
    """Encoder of all modalities that are not in `encoders`.

    Modalities that are not images or video use an mlp, or text for text, unless kind is an import
    path."""
    encoders: dict[Name, EncoderConfig] = Field(default_factory=dict)
    """Encoders by modality."""

    @property
    def import_paths(self) -> list[str]:
        """The import paths of encoders that are not of Remix."""
        kinds = [each.kind for each in (self.encoder, *self.encoders.values())]
        paths = [SOURCES.get(kind, kind) if kind else None for kind in kinds]
        return [path for path in paths if path and is_import_path(path)]

    @property
    def gates(self) -> bool:
        """Whether the fusion changes what the encoders compute."""
        from trainer.models.midfusion import MIDFUSIONS

        return self.fusion in MIDFUSIONS and MIDFUSIONS[self.fusion].gates

    @property
    def weights(self) -> dict[str, Identity]:
        """The pretrained weights by the field that names them. Raises ConfigError."""
        if not any(each.pretrained for each in (self.encoder, *self.encoders.values())):
            return {}
        from trainer.models.weights import weights_hash, weights_path

        configs = {"model.encoder": self.encoder}
        configs |= {f"model.encoders.{name}": each for name, each in self.encoders.items()}
        return {
            f"{field}.pretrained": {"package": None, "sha256": weights_hash(path)}
            for field, each in configs.items()
            if (path := weights_path(each))
        }

    def map_encoders(self, function: Callable[[EncoderConfig], EncoderConfig]) -> "ModelConfig":
        """This configuration with `function` applied to each encoder's."""
        encoders = {name: function(each) for name, each in self.encoders.items()}
        return self.model_copy(update={"encoder": function(self.encoder), "encoders": encoders})

    @property
    def without_paths(self) -> "ModelConfig":
        """This configuration without the paths of pretrained weights, which may be moved."""
        return self.map_encoders(
            lambda each: each.model_copy(update={"pretrained": True}) if each.pretrained else each
        )

    def encoder_of(self, name: str, shape: Shape, *, ids: bool = False) -> EncoderConfig:
        """Encoder configuration of a modality, from the shape of its rows.

        `ids`: whether the rows are token ids of text.
        """
        if name in self.encoders:
            return self.encoders[name]
        return (
            self.encoder
            if len(shape) in (3, 4) or is_import_path(self.encoder.kind)
            else self.encoder.model_copy(
                # the rest belongs to the encoder that these rows do not have
                update={"kind": "text" if ids else "mlp", "pretrained": False, "freeze": False}
            )
        )
