"""How shards become a feature set: a spec per modality, classes, and how much may be rejected."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.config import Name, StrictModel
from pipeline.shards.limits import Limits
from pipeline.storage.schemas import ALL


class Spec(StrictModel):
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


class DecodeConfig(StrictModel):
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
