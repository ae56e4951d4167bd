"""The multimodal classifier: encoders, fusion, unimodal heads, and masking.

A masked or missing modality has a feature of zeros. The masks differ in what runs:
- skip: a masked encoder does not run, so that nothing of it changes.
- feature: it runs and its feature is set to zero, as in the paper's public code, so that optimizer
  moments, weight decay and BatchNorm statistics still change it.
- input: it runs on zeros, and its output is used.

Words for the rows of a batch, each a (B,) bool per modality:
- present: the sample has the modality.
- unmasked: the plan does not mask the modality in this row; given only if rows differ in that.
- visible: the fusion sees the modality: present and unmasked, or present with mask `input`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.decode.media.shapes import Vocabulary, vocabularies
from pipeline.errors import ConfigError
from pipeline.features.feature_set import FeatureSet
from pipeline.storage.schemas import ALL
from trainer.models.encoder import Encoder, Stages, finish
from trainer.models.encoder_config import Shape
from trainer.models.encoders import build_encoder
from trainer.models.fusion import FUSIONS, Decision, Entropy
from trainer.models.midfusion import MIDFUSIONS, MidFusion, Mmtm
from trainer.models.model_config import Mask, ModelConfig
from trainer.models.shared_head import shared_heads

FUSED = "fused"
USE_LOGITS = (Decision, Entropy, Mmtm)
"""Fusions of the unimodal heads' logits."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """Logits of B rows; undefined for a modality that a row does not have."""

    fused: Tensor
    """(B, C)."""
    unimodal: dict[str, Tensor]
    """(B, C) of each active modality."""
    features: dict[str, Tensor]
    """(B, D_k) of each modality, detached; zeros where it is masked or missing."""


@dataclass(frozen=True, slots=True)
class _EncoderInput:
    """Rows of one modality that its encoder runs on."""

    name: str
    x: Tensor  # (n, ...)
    rows: Tensor | None  # (n,) positions in the batch; None: all B rows
    hidden: Tensor | None  # (B,) bool: rows to mask after the encoder

    def scatter(self, values: Tensor, zeros: Tensor) -> Tensor:
        """Place values (n, D) of the rows into (B, D), with zeros elsewhere."""
        values = values.to(zeros.dtype)
        batch = values if self.rows is None else zeros.index_copy(0, self.rows, values)
        # masked_fill keeps the encoder in the graph with a gradient of zero, so that the optimizer
        # changes it as in the public code
        return batch if self.hidden is None else batch.masked_fill(self.hidden[:, None], 0)


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
        self.encoded: frozenset[str] = frozenset()
        """Modalities whose inputs are features of their encoders, (B, D)."""

    def encoder(self, name: str) -> Encoder:
        """Encoder of a modality."""
        return cast(Encoder, self.encoders[_key(name)])

    def head(self, name: str) -> nn.Linear:
        """Unimodal head of a modality."""
        return cast(nn.Linear, self.heads[_key(name)])

    def part(self, name: str) -> dict[str, Tensor]:
        """The entries of `state_dict()` of a modality's encoder and head."""
        prefixes = (f"encoders.{_key(name)}.", f"heads.{_key(name)}.")
        return {key: x for key, x in self.state_dict().items() if key.startswith(prefixes)}

    def trained_by(self, active: str, loss_outputs: Collection[str]) -> list[nn.Parameter]:
        """Parameters that may get a gradient in a step, as for `forward`; in its order.

        All that can get one on some rank: a modality may have no rows on another.
        """
        names = self.modalities if active == ALL else [active]
        encoders = names if self.mask == "skip" else self.modalities
        heads = [name for name in names if name in loss_outputs]
        modules: list[nn.Module] = [self.encoder(name) for name in encoders]
        if FUSED in loss_outputs:
            heads = self.modalities if isinstance(self.fusion, USE_LOGITS) else heads
            modules.append(self.fusion)
        modules += [self.head(name) for name in heads]
        weights = dict.fromkeys(x for module in modules for x in module.parameters())
        return [x for x in weights if x.requires_grad]

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        active: str = ALL,
        unmasked: Mapping[str, Tensor] | None = None,
        loss_outputs: Collection[str] | None = None,
    ) -> Outputs:
        """Compute the logits of B rows; B may be 0.

        Args:
            inputs: modality -> (B, ...), normalised.
            present: modality -> (B,) bool, rows that have the modality; best on the CPU.
            active: the modality that is not masked, or "all".
            unmasked: modality -> (B,) bool, if rows of the batch differ in their masks.
            loss_outputs: outputs used by the loss, "fused" or modalities; the others are detached
                so that the parameters which only they use get no gradient.
        """
        names = self.modalities
        assert active == ALL or active in names, f"{active!r} is not one of {names}"
        active_names = names if active == ALL else [active]
        masks = {
            name: unmasked[name] if unmasked else torch.ones_like(present[name])
            for name in active_names
        }
        features, state = self._features(inputs, present, masks)  # (B, D_k)
        logits = {name: self.head(name)(x) for name, x in features.items()}  # (B, C)
        # with mask `input` a masked modality is visible: it shows the encoder's output for zeros
        none = torch.zeros_like(present[names[0]])
        shown = (
            present
            if self.mask == "input"
            else {name: present[name] & masks[name] for name in active_names}
        )
        visible = torch.stack([shown.get(name, none) for name in names])
        fused = self.fuse(list(features.values()), list(logits.values()), visible, state)
        return Outputs(
            _attached(fused, FUSED, loss_outputs),
            {name: _attached(logits[name], name, loss_outputs) for name in active_names},
            {name: x.detach() for name, x in features.items()},
        )

    def fuse(
        self,
        features: list[Tensor],
        logits: list[Tensor],
        visible: Tensor,
        state: Tensor | None = None,
    ) -> Tensor:
        """Compute fused logits (B, C) from K features (B, D_k) and unimodal logits (B, C).

        Args:
            visible: (K, B) bool, modalities that each row shows.
            state: final state of a mid-fusion.
        """
        if isinstance(self.fusion, MidFusion):
            fused: Tensor = self.fusion(state, logits)
        elif isinstance(self.fusion, Entropy):
            fused = self.fusion(features, logits, visible.to(features[0].device))
        else:
            fused = self.fusion(features, logits)
        return fused

    def predict(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Outputs:
        """As `forward`, but the unimodal logits of each modality do not depend on the others.

        A mid-fusion's gates would otherwise mix them.
        """
        outputs: Outputs = self(inputs, present)
        if not self.gates:
            return outputs
        alone = self.features(inputs, present)
        return Outputs(
            outputs.fused, {name: self.head(name)(x) for name, x in alone.items()}, alone
        )

    def compile_encoders(self) -> None:
        """Compile the encoders; stage by stage for a mid-fusion."""
        for name in self.modalities:
            if isinstance(self.fusion, MidFusion):
                self.encoder(name).compile_stages()
            else:
                self.encoder(name).compile()

    def features(
        self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Compute each modality's features (B, D_k) without the influence of the others.

        Undefined for rows that do not have the modality.
        """
        everything = {name: torch.ones_like(value) for name, value in present.items()}
        if not self.gates:
            return self._features(inputs, present, everything)[0]
        nothing = {name: torch.zeros_like(value) for name, value in present.items()}
        return {
            name: self._features(inputs, {**nothing, name: present[name]}, everything)[0][name]
            for name in self.modalities
        }

    @property
    def gates(self) -> bool:
        """Whether the fusion changes what the encoders compute."""
        return isinstance(self.fusion, MidFusion) and self.fusion.gates

    def _features(
        self,
        inputs: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        unmasked: Mapping[str, Tensor],
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Compute features (B, D_k) by modality, and the state of a mid-fusion.

        `unmasked`: as for `_encoder_input`; without the masked modalities.
        """
        zeros = {name: self._zeros(name, len(present[name])) for name in self.modalities}
        prepared = {
            name: self._encoder_input(name, inputs, present[name], unmasked.get(name))
            for name in zeros
        }
        running = {name: value for name, value in prepared.items() if value is not None}
        if isinstance(self.fusion, MidFusion):
            num_rows = len(next(iter(present.values())))
            stages = {name: self._stages(value, zeros[name]) for name, value in running.items()}
            features, state = self.fusion.meet([stages.get(name) for name in zeros], num_rows)
            return zeros | {
                name: x for name, x in zip(zeros, features, strict=True) if x is not None
            }, state
        return zeros | {
            name: value.scatter(
                value.x if name in self.encoded else self.encoder(name)(value.x), zeros[name]
            )
            for name, value in running.items()
        }, None

    def _encoder_input(
        self, name: str, inputs: Mapping[str, Tensor], present: Tensor, unmasked: Tensor | None
    ) -> _EncoderInput | None:
        """Select the rows that a modality's encoder runs on; None if it does not run.

        `unmasked`: (B,) bool; None if the modality is masked in all rows.
        """
        if self.mask == "skip":
            if unmasked is None:
                return None
            rows, hidden = present & unmasked, None
        else:
            rows = present
            hidden = torch.ones_like(present) if unmasked is None else ~unmasked
        if not rows.any() and not _synchronised(self.encoder(name)):
            return None
        x = inputs[name]
        positions = None if rows.all() else rows.nonzero().squeeze(1).to(x.device)
        hidden = None if hidden is None else hidden.to(x.device)
        if self.mask == "input" and hidden is not None:
            x, hidden = x.masked_fill(hidden.view(-1, *[1] * (x.ndim - 1)), 0), None
        return _EncoderInput(name, x if positions is None else x[positions], positions, hidden)

    def _stages(self, source: _EncoderInput, zeros: Tensor) -> Stages:
        """Run an encoder's stages on some rows; yields (B, C), zeros elsewhere or if masked."""
        encoder = self.encoder(source.name)
        stages, gates = encoder.stages(source.x), None
        for num in encoder.channels:
            gates = yield source.scatter(stages.send(gates), zeros.new_zeros(len(zeros), num))
            gates = gates if gates is None or source.rows is None else gates[source.rows]
        return source.scatter(finish(stages, gates), zeros)

    def _zeros(self, name: str, num_rows: int) -> Tensor:
        # all features have one dtype, also under autocast, or the masks would round differently
        weight = self.head(name).weight
        return weight.new_zeros(num_rows, weight.shape[1])


def _attached(logits: Tensor, name: str, loss_outputs: Collection[str] | None) -> Tensor:
    return logits if loss_outputs is None or name in loss_outputs else logits.detach()


def _key(name: str) -> str:
    # the hyphen keeps modalities such as `type` or `values` apart from attributes of ModuleDict
    return f"modality-{name}"


def _synchronised(encoder: nn.Module) -> bool:
    """Whether the encoder synchronises ranks, so that it must run even without rows."""
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
    ids: Mapping[str, Vocabulary] | None = None,
    pretrained: bool = True,
) -> MultimodalModel:
    """Build a model on the CPU.

    The weights of each part depend only on the seed and the part's name.

    Args:
        shapes: shape of a row by modality.
        ids: vocabularies of the modalities whose rows are token ids of text.
        pretrained: load the configured weights; false if others replace them.
    Raises:
        ConfigError: the configuration does not fit the modalities.
    """
    if unknown := sorted(set(config.encoders) - set(shapes)):
        raise ConfigError(
            f"model.encoders names {unknown[0]!r}, which is not a modality of the features",
            f"choose from {', '.join(shapes)}",
        )
    encoders: dict[str, Encoder] = {}
    heads: dict[str, nn.Linear] = {}
    dims: dict[str, int] = {}
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        for name, shape in shapes.items():
            _seed(seed, "modality", name)
            vocabulary = (ids or {}).get(name)
            own = config.encoder_of(name, shape, ids=vocabulary is not None)
            try:
                encoders[name], dims[name] = build_encoder(
                    own, shape, vocabulary, pretrained=pretrained
                )
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


def model_for(
    config: ModelConfig, features: FeatureSet, seed: int, *, pretrained: bool = True
) -> MultimodalModel:
    """Build a model on the CPU for a feature set, as `build_model` does. Raises ConfigError."""
    shapes = {name: features.shape(name) for name in features.modalities}
    ids = vocabularies(shapes, features.manifest["modalities"])
    num_classes = len(features.classes)
    model = build_model(config, shapes, num_classes, seed, ids=ids, pretrained=pretrained)
    model.encoded = features.encoded
    return model


def _seed(*parts: object) -> None:
    torch.manual_seed(int.from_bytes(sha256(repr(parts).encode()).digest()[:8], "big") >> 1)
