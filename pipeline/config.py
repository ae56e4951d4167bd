"""What decode and plan were asked to do; the YAML files and their errors."""

from collections import Counter
from difflib import get_close_matches
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ConfigError, MissingError
from pipeline.storage.schemas import ALL

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
"""A modality, run or feature set: it becomes a file name, a column name and a part of a URL."""

M = TypeVar("M", bound=BaseModel)
MAX_BYTES, MAX_NODES = 2**20, 10**6
"""Of a YAML file, and of the values in it."""
MAX_TOLD = 20
"""Errors of one file that are told."""
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = 10


class Config(BaseModel):
    """A frozen part of a configuration; a field that it does not have is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Spec(Config):
    """What every modality says: the members of a sample that it reads, by suffix; the first one present counts."""

    member: tuple[str, ...]

    @model_validator(mode="before")
    @classmethod
    def _one_member(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("member"), str):
            return {**value, "member": (value["member"],)}
        return value


class VideoSpec(Spec):
    """`frames` frames at the centres of equal segments by presentation time, short side resized to `size`, centre crop: (T, 3, size, size) uint8."""

    kind: Literal["video"]
    frames: int = Field(default=8, ge=1, le=1024)
    size: int = Field(default=112, ge=8, le=1024)


class AudioSpec(Spec):
    """Mono sound of `seconds`, resampled, cut or padded, as a log spectrogram: (1, bins, time) float16."""

    kind: Literal["audio"]
    sample_rate: int = Field(default=16_000, ge=1_000, le=192_000)
    seconds: float = Field(default=2.0, gt=0, le=600)
    pad: Literal["zero", "repeat"] = "zero"
    features: Literal["log_mel", "log_spectrogram"] = "log_mel"
    num_mels: int = Field(default=64, ge=1, le=512)
    n_fft: int = Field(default=512, ge=16, le=16_384)
    hop: int = Field(default=160, ge=1, le=16_384)


class ImageSpec(Spec):
    """A picture, short side resized to `size`, centre crop: (channels, size, size) uint8."""

    kind: Literal["image"]
    size: int = Field(default=112, ge=8, le=4096)
    channels: Literal[1, 3] = 3


class TensorSpec(Spec):
    """An .npy array of exactly this shape, as float32."""

    kind: Literal["tensor"]
    shape: tuple[Annotated[int, Field(ge=1)], ...]


class TextSpec(Spec):
    """UTF-8 text, cut to `length` bytes before the first character that does not fit, as byte values + 1 and behind them zeros: (length,) int16."""

    kind: Literal["text"]
    length: int = Field(default=256, ge=4, le=65_536)
    """Four bytes hold any character."""


ModalitySpec = Annotated[
    VideoSpec | AudioSpec | ImageSpec | TensorSpec | TextSpec, Field(discriminator="kind")
]


class Limits(Config):
    """The most that a sample may be or take; one that is more is rejected as `oversize`, or as `timeout`."""

    member_bytes: int = Field(default=2**28, ge=1)
    """Of one member of a shard."""
    sample_bytes: int = Field(default=2**29, ge=1)
    """Of the members of a sample together, and of all samples whose members lie apart in a shard."""
    shard_bytes: int = Field(default=2**36, ge=1)
    """Of a compressed shard, unpacked."""
    seconds: float = Field(default=3600.0, gt=0)
    """Of a film or a sound, by its container."""
    pixels: int = Field(default=2**26, ge=1)
    """Width times height of a picture."""
    fps: float = Field(default=1000.0, gt=0)
    """Frames a second of a film, on average."""
    frames: int = Field(default=1_000_000, ge=1)
    """Of a film."""
    channels: int = Field(default=64, ge=1)
    """Of a sound."""
    timeout: float = Field(default=60.0, gt=0)
    """Seconds that decoding a sample may take."""
    memory: int = Field(default=2**31, ge=2**26)
    """Bytes that decoding a sample may take."""


class DecodeConfig(Config):
    """How shards become a feature set."""

    modalities: dict[Name, ModalitySpec] = Field(min_length=1)
    classes: tuple[str, ...] | None = None
    """The class names in the order of their numbers; by default those that occur, sorted."""
    max_rejected_share: float = Field(default=0.01, ge=0, le=1)
    """The job fails where a larger share of the samples is rejected."""
    max_rejected_in_a_row: int = Field(default=100, ge=1)
    """The job fails where more samples of a shard than this are rejected one after the other."""
    limits: Limits = Limits()

    @property
    def members(self) -> frozenset[str]:
        """The suffixes of the members that are read."""
        return frozenset(suffix for spec in self.modalities.values() for suffix in spec.member)

    @model_validator(mode="after")
    def _names(self) -> "DecodeConfig":
        if ALL in self.modalities:
            raise ValueError(
                f"a modality cannot be called {ALL!r}: plans use that name for warm-up; choose another"
            )
        return self


class PlanConfig(Config):
    """How scores become a plan."""

    policy: Literal["kl", "loss", "easy", "random"] = "kl"
    """kl: to the modality of lowest ability (the paper); loss: of lowest probability of the label; easy: of highest ability; random: the control."""
    relative: Literal["none", "spread", "validation"] = "none"
    """What an ability is measured against: nothing; the modality's own mean and SD; what its validation accuracy is worth in bits."""
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    """The weight of the earlier epochs' scores in a moving average."""
    temperature: float = Field(default=0.0, ge=0, le=1e6)
    """Soft assignment: a modality is drawn with probability proportional to exp(-cost / temperature); 0: the lowest cost."""
    joint_share: float = Field(default=0.0, ge=0, le=1)
    """Of the rows, drawn anew each epoch, that keep all modalities, in batches of their own."""
    copies: Literal["none", "resample"] = "none"
    """resample: rows come again, as often as their Shapley values say, in the modality that contributes little (CVPR 2024)."""
    order: Literal["sequential", "interleaved", "mixed"] = "sequential"
    """mixed: batches are not of one modality, and their rows are masked one by one (the paper's ablation)."""
    shares: (
        Literal["natural", "equal", "validation"] | dict[Name, Annotated[float, Field(ge=0, le=1)]]
    ) = "natural"
    """natural: as the policy says (the paper); equal; validation: in proportion to validation accuracy above chance; or targets that sum to 1."""
    min_share: float = Field(default=0.0, ge=0, le=0.5)
    """A floor under every modality's natural share."""
    stratify: bool = False
    """Whether each batch has the class mix of its subset."""
    locality: int | None = Field(default=None, ge=1)
    """Shuffle within windows of this many rows of the feature table, windows in random order; by default over the whole epoch."""

    @model_validator(mode="after")
    def _has_abilities(self) -> "PlanConfig":
        if self.policy == "loss" and (self.relative == "validation" or self.smoothing):
            raise ValueError(
                "policy 'loss' knows no abilities, which relative 'validation' and smoothing need; choose policy kl or easy, or leave those"
            )
        return self


def parse(model: type[M], value: Any, what: str) -> M:
    """Checks a mapping against a model (raises ConfigError naming field, value and cure)."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = error.errors()
        more = f"; and {len(found) - MAX_TOLD} more" if len(found) > MAX_TOLD else ""
        raise ConfigError(
            f"{what}: "
            + "; ".join(_explain(model, dict(e), value) for e in found[:MAX_TOLD])
            + more
        ) from error
    except (OverflowError, RecursionError, TypeError) as error:
        raise ConfigError(
            f"{what}: a value is out of all range ({type(error).__name__}: {error})",
            "mend the file",
        ) from error


def load(model: type[M], path: str | Path) -> M:
    """Reads a YAML file into a model (raises ConfigError, MissingError)."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(
                f"config {path} has more than {MAX_BYTES} bytes",
                "give a YAML file that a person wrote",
            )
        value = yaml.load(data.decode(), _Loader)
    except FileNotFoundError as error:
        raise MissingError(
            f"config {path} does not exist", "give the path of a YAML file"
        ) from error
    except (
        OSError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        ArithmeticError,
        RecursionError,
        yaml.YAMLError,
    ) as error:
        raise ConfigError(
            f"config {path} is not readable YAML ({error})", "mend the file"
        ) from error
    return parse(model, value if value is not None else {}, str(path))


class _Loader(yaml.SafeLoader):
    """Plain data; keys that occur twice and aliases that multiply are refused."""

    def get_single_data(self) -> Any:
        """The one document of the file."""
        node = self.get_single_node()
        if node is None:
            return None
        _check_size(node, {})
        return self.construct_document(node)


def _check_size(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """The nodes below and with a node, aliases as often as they are used; no mapping has a key twice (raises YAMLError)."""
    known = sizes.get(id(node), 0)
    if known is None:
        raise yaml.YAMLError("an alias leads into itself")
    if known:
        return known
    sizes[id(node)] = None
    keys = (
        Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if isinstance(node, yaml.MappingNode)
        else Counter[str]()
    )
    if keys and keys.most_common(1)[0][1] > 1:
        raise yaml.constructor.ConstructorError(
            "while reading a mapping",
            node.start_mark,
            f"the key {keys.most_common(1)[0][0]!r} occurs twice",
        )
    below = (
        [each for pair in node.value for each in pair]
        if isinstance(node, yaml.MappingNode)
        else node.value
        if isinstance(node, yaml.SequenceNode)
        else []
    )
    size = 1 + sum(_check_size(each, sizes) for each in below)
    if size > MAX_NODES:
        raise yaml.YAMLError(
            f"it has more than {MAX_NODES} values, aliases as often as they are used"
        )
    sizes[id(node)] = size
    return size


def _explain(model: type[BaseModel], error: dict[str, Any], value: Any) -> str:
    field, given = _path(error["loc"], value) or "the document", _SHORT.repr(error["input"])
    if error["type"] == "extra_forbidden":
        close = get_close_matches(str(error["loc"][-1]), _field_names(model), n=1)
        return f"field {field!r} (value {given}) is unknown; " + (
            f"did you mean {close[0]!r}?" if close else "remove it"
        )
    if error["type"] == "missing":
        return f"field {field!r} is missing; add it"
    return f"field {field!r} has the value {given}: {error['msg'].removeprefix('Value error, ')}"


def _path(loc: tuple[str | int, ...], value: Any) -> str:
    """Where in the document an error is: pydantic's path without its names of union members, which the document does not have."""
    parts = []
    for i, part in enumerate(loc):
        inside = (isinstance(value, dict) and part in value) or (
            isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)
        )
        if inside or (i + 1 == len(loc) and isinstance(value, dict)):
            parts.append(str(part))
            value = value[part] if inside else None
    return ".".join(parts)


def _field_names(model: type[BaseModel]) -> list[str]:
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(name)
        for part in _models_in(field.annotation):
            names += _field_names(part)
    return names


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]
