"""The multimodal classifier: encoders, fusion, a head per modality, and the masking of modalities that a step does not train.

A masked modality, and one that a row lacks, is a feature of zeros wherever features go. The masks differ in what runs:
`skip` does not run a masked encoder, so nothing of it moves; `feature` runs it and cuts its feature to zero, as the public code
does, so that optimizer moments, weight decay and BatchNorm statistics still move it; `input` feeds it zeros and uses what it says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, cast

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from pipeline.config import Config, Name
from pipeline.errors import ConfigError
from pipeline.schema import ALL
from trainer.encoders import EncoderConfig, Shape, build_encoder
from trainer.fusion import FUSIONS

Mask = Literal["skip", "feature", "input"]


class ModelConfig(Config):
    """The model: its fusion, its masking, and an encoder per modality."""

    fusion: Literal["concat", "sum", "decision", "film", "gated"] = "concat"
    mask: Mask = "skip"
    hidden: int = Field(default=512, ge=1, le=65_536)
    """Width of the gated fusion."""
    encoder: EncoderConfig = EncoderConfig()
    """Of every modality that `encoders` does not name; where its kind does not fit the shape of the rows, an mlp."""
    encoders: dict[Name, EncoderConfig] = Field(default_factory=dict)

    def encoder_of(self, name: str, shape: Shape) -> EncoderConfig:
        """The encoder of a modality whose rows have this shape."""
        if name in self.encoders:
            return self.encoders[name]
        return self.encoder if len(shape) in (3, 4) else self.encoder.model_copy(update={"kind": "mlp"})


@dataclass(frozen=True, slots=True)
class Outputs:
    """Logits of B rows: `fused` (B, C), and `unimodal` (B, C) of each trained modality; those of a row without the modality mean nothing."""

    fused: Tensor
    unimodal: dict[str, Tensor]


class MultimodalModel(nn.Module):
    """Encoders, heads and a fusion of modalities in a fixed order."""

    def __init__(self, encoders: Mapping[str, nn.Module], heads: Mapping[str, nn.Linear], fusion: nn.Module, mask: Mask) -> None:
        super().__init__()
        self.modalities = list(encoders)
        self.encoders = nn.ModuleDict({_key(name): encoder for name, encoder in encoders.items()})
        self.heads = nn.ModuleDict({_key(name): head for name, head in heads.items()})
        self.fusion = fusion
        self.mask = mask

    def encoder(self, name: str) -> nn.Module:
        """The encoder of a modality."""
        return self.encoders[_key(name)]

    def head(self, name: str) -> nn.Linear:
        """The unimodal head of a modality."""
        return cast(nn.Linear, self.heads[_key(name)])

    def forward(self, inputs: Mapping[str, Tensor], has: Mapping[str, Tensor], train: str = ALL) -> Outputs:
        """Logits of B rows, 0 included, from normalised `inputs` (B, ...) and `has` (B,) bool, best on the CPU; `train`: the modality not masked, or "all"."""
        names = self.modalities
        assert train == ALL or train in names, f"{train!r} is not one of {names}"
        features = [self._feature(name, inputs, has[name], masked=train not in (ALL, name)) for name in names]  # K x (B, D_k)
        logits = [self.head(name)(x) for name, x in zip(names, features, strict=True)]  # K x (B, C)
        unimodal = {name: x for name, x in zip(names, logits, strict=True) if train in (ALL, name)}
        return Outputs(self.fusion(features, logits), unimodal)

    def _feature(self, name: str, inputs: Mapping[str, Tensor], has: Tensor, *, masked: bool) -> Tensor:
        if masked and self.mask == "skip":
            return self._zeros(name, len(has))
        x = torch.zeros_like(inputs[name]) if masked and self.mask == "input" else inputs[name]
        feature = self._encode(name, x, has)
        # masked_fill, not zeros_like: the encoder's gradient is then zero instead of none, so that the optimizer moves it as in the public code
        return feature.masked_fill(torch.ones_like(feature, dtype=torch.bool), 0) if masked and self.mask == "feature" else feature

    def _encode(self, name: str, x: Tensor, has: Tensor) -> Tensor:
        """(B, D): the features of the rows that have the modality, zeros for the others."""
        zeros = self._zeros(name, len(has))
        encoder = self.encoder(name)
        if not has.any() and not _synchronised(encoder):
            return zeros
        if has.all():
            return cast(Tensor, encoder(x)).to(zeros.dtype)
        rows = has.nonzero().squeeze(1).to(x.device)
        return zeros.index_copy(0, rows, encoder(x[rows]).to(zeros.dtype))

    def _zeros(self, name: str, num_rows: int) -> Tensor:
        weight = self.head(name).weight  # one dtype for all features, also under autocast, or skip and feature would round differently
        return weight.new_zeros(num_rows, weight.shape[1])


def _key(name: str) -> str:
    return f"modality-{name}"  # no attribute of a ModuleDict has a hyphen, so that a modality may be called `type` or `values`


def _synchronised(encoder: nn.Module) -> bool:
    """Whether the other ranks wait for this one inside the encoder, rows or not."""
    return dist.is_initialized() and dist.get_world_size() > 1 and encoder.training and any(isinstance(m, nn.SyncBatchNorm) for m in encoder.modules())


def build_model(config: ModelConfig, shapes: Mapping[str, Shape], num_classes: int, seed: int) -> MultimodalModel:
    """A model on the CPU for modalities with rows of these shapes; a part's weights depend on the seed and its name alone (raises ConfigError)."""
    if unknown := sorted(set(config.encoders) - set(shapes)):
        raise ConfigError(f"field 'model.encoders' names {unknown[0]!r}, which is no modality of the features", f"choose from {', '.join(shapes)}")
    encoders: dict[str, nn.Module] = {}
    heads: dict[str, nn.Linear] = {}
    dims: list[int] = []
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        for name, shape in shapes.items():
            _seed(seed, "modality", name)
            try:
                encoders[name], dim = build_encoder(config.encoder_of(name, shape), shape)
            except ConfigError as error:
                raise ConfigError(f"modality {name!r}: {error}") from error
            heads[name] = nn.Linear(dim, num_classes)
            dims.append(dim)
        _seed(seed, "fusion", config.fusion)
        fusion = FUSIONS[config.fusion](dims, num_classes, config.hidden)
    return MultimodalModel(encoders, heads, fusion, config.mask)


def _seed(*parts: object) -> None:
    torch.manual_seed(int.from_bytes(sha256(repr(parts).encode()).digest()[:8], "big") >> 1)
