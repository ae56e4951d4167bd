"""The multimodal classifier: encoders, fusion, a head per modality, and the masking of modalities that a step does not train.

A masked modality, and one that a row lacks, is a feature of zeros wherever features go. The masks differ in what runs:
`skip` does not run a masked encoder, so nothing of it moves; `feature` runs it and cuts its feature to zero, as the public code
does, so that optimizer moments, weight decay and BatchNorm statistics still move it; `input` feeds it zeros and uses what it says.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, cast

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from pipeline.config import Name, StrictModel
from pipeline.decode.media.shapes import is_ids
from pipeline.errors import ConfigError
from pipeline.features.feature_set import FeatureSet
from pipeline.storage.schemas import ALL
from trainer.models.encoders import Encoder, EncoderConfig, Shape, Stages, build_encoder, finish
from trainer.models.fusion import FUSIONS, Entropy
from trainer.models.midfusion import MIDFUSIONS, MidFusion
from trainer.models.shared_head import shared_heads

Mask = Literal["skip", "feature", "input"]
FUSED = "fused"


class ModelConfig(StrictModel):
    """The model: its fusion, its masking, and an encoder per modality."""

    fusion: Literal[
        "concat", "sum", "decision", "film", "gated", "entropy", "mmtm", "centralnet"
    ] = "concat"
    heads: Literal["own", "shared"] = "own"
    """Of the modalities: one each, or one for all, whose features then have one length (MLA)."""
    mask: Mask = "skip"
    hidden: int = Field(default=512, ge=1, le=65_536)
    """Width of the gated fusion and of centralnet's central network."""
    encoder: EncoderConfig = EncoderConfig()
    """Of every modality that `encoders` does not name; where its kind does not fit the rows, an mlp, or text for texts."""
    encoders: dict[Name, EncoderConfig] = Field(default_factory=dict)

    def encoder_of(self, name: str, shape: Shape, *, ids: bool = False) -> EncoderConfig:
        """The encoder of a modality whose rows have this shape, or are the ids of texts."""
        if name in self.encoders:
            return self.encoders[name]
        return (
            self.encoder
            if len(shape) in (3, 4)
            else self.encoder.model_copy(update={"kind": "text" if ids else "mlp"})
        )


@dataclass(frozen=True, slots=True)
class Outputs:
    """Logits of B rows: `fused` (B, C), and `unimodal` (B, C) of each trained modality; those of a row without the modality mean nothing."""

    fused: Tensor
    unimodal: dict[str, Tensor]
    features: dict[str, Tensor]
    """(B, D_k) of every modality, zeros where it is masked or missing, without gradient."""


@dataclass(frozen=True, slots=True)
class _Given:
    name: str
    x: Tensor  # (n, ...): the rows that the encoder runs on
    rows: Tensor | None  # (n,) which they are; None: all of B
    hidden: Tensor | None  # (B,) bool: those that are masked nevertheless

    def placed(self, found: Tensor, zeros: Tensor) -> Tensor:
        """(B, D): what was found of the rows (n, D), and zeros elsewhere."""
        found = found.to(zeros.dtype)
        whole = found if self.rows is None else zeros.index_copy(0, self.rows, found)
        # masked_fill, not zeros: the encoder's gradient is then zero instead of none, so that the optimizer moves it as in the public code
        return whole if self.hidden is None else whole.masked_fill(self.hidden[:, None], 0)


class MultimodalModel(nn.Module):
    """Encoders, heads and a fusion of modalities in a fixed order."""

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        heads: Mapping[str, nn.Linear],
        fusion: nn.Module,
        mask: Mask,
    ) -> None:
        super().__init__()
        self.modalities = list(encoders)
        self.encoders = nn.ModuleDict({_key(name): encoder for name, encoder in encoders.items()})
        self.heads = nn.ModuleDict({_key(name): head for name, head in heads.items()})
        self.fusion = fusion
        self.mask = mask

    def encoder(self, name: str) -> Encoder:
        """The encoder of a modality."""
        return cast(Encoder, self.encoders[_key(name)])

    def head(self, name: str) -> nn.Linear:
        """The unimodal head of a modality."""
        return cast(nn.Linear, self.heads[_key(name)])

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        has: Mapping[str, Tensor],
        train: str = ALL,
        keep: Mapping[str, Tensor] | None = None,
        learn: Collection[str] | None = None,
    ) -> Outputs:
        """Logits of B rows, 0 included, from normalised `inputs` (B, ...) and `has` (B,) bool, best on the CPU.

        `train`: the modality that is not masked, or "all"; `keep` (B,) bool: where the rows differ in that, which of them each modality is not masked in;
        `learn`: the modalities, and "fused", whose logits the loss will use: DistributedDataParallel waits for the gradient of all that is not detached.
        """
        names = self.modalities
        assert train == ALL or train in names, f"{train!r} is not one of {names}"
        trained = names if train == ALL else [train]
        kept = {name: keep[name] if keep else torch.ones_like(has[name]) for name in trained}
        features, state = self._features(inputs, has, kept)  # (B, D_k)
        logits = {name: self.head(name)(x) for name, x in features.items()}  # (B, C)
        # what mask `input` shows of a masked modality is what its encoder makes of zeros
        none = torch.zeros_like(has[names[0]])
        shown = has if self.mask == "input" else {name: has[name] & kept[name] for name in trained}
        present = torch.stack([shown.get(name, none) for name in names])
        fused = self.fuse(list(features.values()), list(logits.values()), present, state)
        return Outputs(
            _learnt(fused, FUSED, learn),
            {name: _learnt(logits[name], name, learn) for name in trained},
            {name: x.detach() for name, x in features.items()},
        )

    def fuse(
        self,
        features: list[Tensor],
        logits: list[Tensor],
        present: Tensor,
        state: Tensor | None = None,
    ) -> Tensor:
        """Fused logits (B, C) of K features (B, D_k) and unimodal logits (B, C).

        `present` (K, B) bool: which modalities each row shows; `state`: what the meetings of a mid-fusion left.
        """
        if isinstance(self.fusion, MidFusion):
            fused: Tensor = self.fusion(state, logits)
        elif isinstance(self.fusion, Entropy):
            fused = self.fusion(features, logits, present.to(features[0].device))
        else:
            fused = self.fusion(features, logits)
        return fused

    def predict(self, inputs: Mapping[str, Tensor], has: Mapping[str, Tensor]) -> Outputs:
        """As `forward`, but each modality's logits are those of when it shows alone, since a mid-fusion's heads would else tell of the others too."""
        outputs: Outputs = self(inputs, has)
        if not self._gates:
            return outputs
        alone = self.features(inputs, has)
        return Outputs(
            outputs.fused, {name: self.head(name)(x) for name, x in alone.items()}, alone
        )

    def compile_encoders(self) -> None:
        """Compiles the encoders, stage by stage where others meet them there."""
        for name in self.modalities:
            if isinstance(self.fusion, MidFusion):
                self.encoder(name).compile_stages()
            else:
                self.encoder(name).compile()

    def features(
        self, inputs: Mapping[str, Tensor], has: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Each modality's features of B rows (B, D_k), as its unimodal head gets them when it shows alone; those of a row without it mean nothing."""
        every = {name: torch.ones_like(value) for name, value in has.items()}
        if not self._gates:
            return self._features(inputs, has, every)[0]
        none = {name: torch.zeros_like(value) for name, value in has.items()}
        return {
            name: self._features(inputs, {**none, name: has[name]}, every)[0][name]
            for name in self.modalities
        }

    @property
    def _gates(self) -> bool:
        return isinstance(self.fusion, MidFusion) and self.fusion.gates

    def _features(
        self, inputs: Mapping[str, Tensor], has: Mapping[str, Tensor], kept: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Features (B, D_k) by modality, and what a mid-fusion's meetings left; `kept` as for `_given`."""
        zeros = {name: self._zeros(name, len(has[name])) for name in self.modalities}
        given = {name: self._given(name, inputs, has[name], kept.get(name)) for name in zeros}
        running = {name: each for name, each in given.items() if each is not None}
        if isinstance(self.fusion, MidFusion):
            num_rows = len(next(iter(has.values())))
            stages = {name: self._stages(each, zeros[name]) for name, each in running.items()}
            found, state = self.fusion.meet([stages.get(name) for name in zeros], num_rows)
            return zeros | {
                name: x for name, x in zip(zeros, found, strict=True) if x is not None
            }, state
        return zeros | {
            name: each.placed(self.encoder(name)(each.x), zeros[name])
            for name, each in running.items()
        }, None

    def _given(
        self, name: str, inputs: Mapping[str, Tensor], has: Tensor, kept: Tensor | None
    ) -> "_Given | None":
        """What the encoder of a modality runs on, None where it does not run; `kept` (B,) bool: the rows that it is not masked in, None of a masked modality."""
        if self.mask == "skip":
            if kept is None:
                return None
            rows, hidden = has & kept, None
        else:
            rows = has
            hidden = torch.ones_like(has) if kept is None else ~kept
        if not rows.any() and not _synchronised(self.encoder(name)):
            return None
        x = inputs[name]
        where = None if rows.all() else rows.nonzero().squeeze(1).to(x.device)
        hidden = None if hidden is None else hidden.to(x.device)
        if self.mask == "input" and hidden is not None:
            x, hidden = x.masked_fill(hidden.view(-1, *[1] * (x.ndim - 1)), 0), None
        return _Given(name, x if where is None else x[where], where, hidden)

    def _stages(self, given: "_Given", zeros: Tensor) -> Stages:
        """The stages of an encoder as the other modalities see them: (B, C), zeros where it has no rows or is masked."""
        encoder = self.encoder(given.name)
        stages, gates = encoder.stages(given.x), None
        for num in encoder.channels:
            gates = yield given.placed(stages.send(gates), zeros.new_zeros(len(zeros), num))
            gates = gates if gates is None or given.rows is None else gates[given.rows]
        return given.placed(finish(stages, gates), zeros)

    def _zeros(self, name: str, num_rows: int) -> Tensor:
        # one dtype for all features, also under autocast, or skip and feature would round differently
        weight = self.head(name).weight
        return weight.new_zeros(num_rows, weight.shape[1])


def _learnt(logits: Tensor, name: str, learn: Collection[str] | None) -> Tensor:
    return logits if learn is None or name in learn else logits.detach()


def _key(name: str) -> str:
    # no attribute of a ModuleDict has a hyphen, so that a modality may be called `type` or `values`
    return f"modality-{name}"


def _synchronised(encoder: nn.Module) -> bool:
    """Whether the other ranks wait for this one inside the encoder, rows or not."""
    return (
        dist.is_initialized()
        and dist.get_world_size() > 1
        and encoder.training
        and any(isinstance(m, nn.SyncBatchNorm) for m in encoder.modules())
    )


def build_model(
    config: ModelConfig,
    shapes: Mapping[str, Shape],
    num_classes: int,
    seed: int,
    *,
    ids: Collection[str] = (),
) -> MultimodalModel:
    """A model on the CPU for modalities with rows of these shapes; a part's weights depend on the seed and its name alone (raises ConfigError).

    `ids` names those whose rows are the ids of texts.
    """
    if unknown := sorted(set(config.encoders) - set(shapes)):
        raise ConfigError(
            f"field 'model.encoders' names {unknown[0]!r}, which is no modality of the features",
            f"choose from {', '.join(shapes)}",
        )
    encoders: dict[str, Encoder] = {}
    heads: dict[str, nn.Linear] = {}
    dims: dict[str, int] = {}
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        for name, shape in shapes.items():
            _seed(seed, "modality", name)
            own = config.encoder_of(name, shape, ids=name in ids)
            try:
                encoders[name], dims[name] = build_encoder(own, shape, ids=name in ids)
            except ConfigError as error:
                raise ConfigError(f"modality {name!r}: {error}") from error
            heads[name] = nn.Linear(dims[name], num_classes)
        if config.heads == "shared":
            _seed(seed, "head")
            heads = shared_heads(dims, num_classes)
        _seed(seed, "fusion", config.fusion)
        fusion: nn.Module
        if config.fusion in MIDFUSIONS:
            channels = [encoder.channels for encoder in encoders.values()]
            fusion = MIDFUSIONS[config.fusion](channels, num_classes, config.hidden)
        else:
            fusion = FUSIONS[config.fusion](list(dims.values()), num_classes, config.hidden)
    return MultimodalModel(encoders, heads, fusion, config.mask)


def model_for(config: ModelConfig, features: FeatureSet, seed: int) -> MultimodalModel:
    """A model on the CPU for the modalities and classes of a feature set (raises ConfigError)."""
    shapes = {name: features.shape(name) for name in features.modalities}
    ids = [name for name, shape in shapes.items() if is_ids(shape, str(features.dtype(name)))]
    return build_model(config, shapes, len(features.classes), seed, ids=ids)


def _seed(*parts: object) -> None:
    torch.manual_seed(int.from_bytes(sha256(repr(parts).encode()).digest()[:8], "big") >> 1)
