"""Decode configuration: a spec per modality, the classes, and how many samples may be rejected."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.config import Name, StrictModel
from pipeline.shards.limits import Limits
from pipeline.shards.member_suffixes import CLIPS
from pipeline.shards.reading import Reading
from pipeline.shards.sample_rules import SampleRules
from pipeline.storage.schemas import RESERVED

CONFIG = "decode.yaml"
"""Name of the configuration's file next to the shards."""


class Spec(StrictModel):
    """Base class of the modality specs."""

    member: tuple[str, ...]
    """Suffix of the sample's member to decode, such as `mp4`, or a list of suffixes: the first one
    that a sample has is used."""

    @model_validator(mode="before")
    @classmethod
    def _one_member(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("member"), str):
            return {**value, "member": (value["member"],)}
        return value


class VideoSpec(Spec):
    """Video frames, (frames, 3, size, size) uint8.

    The clip is divided into `frames` segments of equal duration; the frame displayed at the centre
    of each segment is resized so that its short side is `size`, and centre-cropped.
    """

    kind: Literal["video"]
    """Must be `video`."""
    frames: int = Field(default=8, ge=1, le=1024)
    """Number of frames per clip. Raise it if the classes differ in motion."""
    size: int = Field(default=112, ge=8, le=1024)
    """Height and width of the decoded frames in pixels. Set it to the encoder's input size."""


class AudioSpec(Spec):
    """Log spectrogram of mono audio, (1, bins, windows) float16."""

    kind: Literal["audio"]
    """Must be `audio`."""
    sample_rate: int = Field(default=16_000, ge=1_000, le=192_000)
    """Sample rate in Hz to which the audio is resampled. Frequencies above half of it are lost."""
    seconds: float = Field(default=2.0, gt=0, le=600)
    """Duration in seconds; longer audio is cut, shorter audio is padded."""
    pad: Literal["zero", "repeat"] = "zero"
    """Padding of audio shorter than `seconds`: silence, or the audio itself repeated."""
    features: Literal["log_mel", "log_spectrogram"] = "log_mel"
    """Mel spectrogram with `num_mels` bins, or magnitude spectrogram with n_fft / 2 + 1 bins."""
    num_mels: int = Field(default=64, ge=1, le=512)
    """Number of mel bins. Only used by `log_mel`."""
    n_fft: int = Field(default=512, ge=16, le=16_384)
    """Window length of the Fourier transform in samples."""
    hop: int = Field(default=160, ge=1, le=16_384)
    """Distance between the starts of consecutive windows in samples. A smaller value gives more
    windows."""


class ImageSpec(Spec):
    """Image, (channels, size, size) uint8.

    The short side is resized to `size`, and the image is centre-cropped.
    """

    kind: Literal["image"]
    """Must be `image`."""
    size: int = Field(default=112, ge=8, le=4096)
    """Height and width of the decoded image in pixels. Set it to the encoder's input size."""
    channels: Literal[1, 3] = 3
    """1 for greyscale, 3 for RGB."""


class TensorSpec(Spec):
    """Numeric array from an .npy file, converted to float32."""

    kind: Literal["tensor"]
    """Must be `tensor`."""
    shape: tuple[Annotated[int, Field(ge=1)], ...]
    """Shape that the array of every sample must have."""


class TextSpec(Spec):
    """UTF-8 text as byte values + 1, padded with zeros, (length,) int16.

    Text longer than `length` bytes is cut at a character boundary. With a tokenizer: token ids,
    padded with its padding token, (length,) int64; text of more tokens is cut.
    """

    kind: Literal["text"]
    """Must be `text`."""
    length: int = Field(default=256, ge=4, le=65_536)
    """Maximum length in bytes, or in tokens. The minimum of 4 fits any UTF-8 character."""
    tokenizer: str | None = Field(default=None, exclude_if=lambda name: name is None)
    """Fast tokenizer of transformers: a folder of save_pretrained, or an id of the Hugging Face
    hub. It needs the extra [hf]. null: bytes."""


ModalitySpec = Annotated[
    VideoSpec | AudioSpec | ImageSpec | TensorSpec | TextSpec, Field(discriminator="kind")
]


class DecodeConfig(StrictModel):
    """How to decode shards into a feature set."""

    modalities: dict[Name, ModalitySpec] = Field(min_length=1)
    """The modalities by name, in the order that ties and the `sequential` order use. `all` is
    reserved."""
    classes: tuple[str, ...] | None = None
    """Class names in the order of their numbers. Default: the labels that occur, sorted."""
    sample: SampleRules = SampleRules()
    """Where a sample's id, label and split come from."""
    ignore: tuple[str, ...] = ()
    """Suffixes of media that are left out on purpose."""
    max_unread_share: float = Field(default=0.01, ge=0, le=1)
    """Maximum fraction of the members with media that no modality reads, without those in
    `ignore`, before the job fails."""
    max_rejected_share: float = Field(default=0.01, ge=0, le=1)
    """Maximum fraction of samples that may be rejected before the job fails."""
    max_rejected_in_a_row: int = Field(default=100, ge=1)
    """Maximum number of consecutive samples of a shard that may be rejected before the job
    fails."""
    limits: Limits = Limits()
    """Limits per sample; samples that exceed one are rejected."""

    @property
    def members(self) -> frozenset[str]:
        """Suffixes of the members that any modality decodes."""
        return frozenset(suffix for spec in self.modalities.values() for suffix in spec.member)

    @property
    def half_read(self) -> dict[str, Literal["audio", "video"]]:
        """Suffixes of clips that modalities read for one kind of stream only, with the other."""
        kinds: dict[str, set[str]] = {}
        for spec in self.modalities.values():
            for suffix in spec.member:
                kinds.setdefault(suffix, set()).add(spec.kind)
        return {
            suffix: "video" if "audio" in read else "audio"
            for suffix, read in kinds.items()
            if suffix.rpartition(".")[2] in CLIPS and len(read & {"audio", "video"}) == 1
        }

    @property
    def reading(self) -> Reading:
        """How shards are read."""
        return Reading(
            limits=self.limits,
            rules=self.sample,
            members=self.members,
            ignore=frozenset(self.ignore),
            max_unread_share=self.max_unread_share,
        )

    @model_validator(mode="after")
    def _names(self) -> "DecodeConfig":
        for name in self.modalities:
            if RESERVED.fullmatch(name):
                raise ValueError(f"{name!r} is reserved. Choose another modality name.")
        return self
