"""Shape and dtype of each modality's rows, without importing a media library."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.decode.config import AudioSpec, ImageSpec, TensorSpec, TextSpec, VideoSpec
from pipeline.errors import ConfigError

AnySpec = VideoSpec | AudioSpec | ImageSpec | TensorSpec | TextSpec
ID_DTYPE = "int16"
"""Dtype of the token ids that text is decoded to, its bytes: rows of shape (length,)."""
TOKEN_DTYPE = "int64"
"""As `ID_DTYPE`, for the token ids of a tokenizer. No other kind of modality has one-dimensional
rows of either."""


class Vocabulary(NamedTuple):
    """Token ids are in [0, size), and rows are padded with `pad`."""

    size: int
    pad: int


BYTES = Vocabulary(257, 0)
"""Padding (0) and the 256 bytes."""


def num_samples(spec: AudioSpec) -> int:
    """Number of audio samples that the spectrogram is computed from."""
    return round(spec.sample_rate * spec.seconds)


def shape_of(name: str, spec: AnySpec) -> tuple[tuple[int, ...], str]:
    """Return shape and dtype of a modality's rows.

    Raises ConfigError if the audio is shorter than half a window.
    """
    match spec:
        case VideoSpec():
            return (spec.frames, 3, spec.size, spec.size), "uint8"
        case ImageSpec():
            return (spec.channels, spec.size, spec.size), "uint8"
        case TensorSpec():
            return spec.shape, "float32"
        case TextSpec():
            return (spec.length,), TOKEN_DTYPE if spec.tokenizer else ID_DTYPE
    num, bins = (
        num_samples(spec),
        spec.num_mels if spec.features == "log_mel" else spec.n_fft // 2 + 1,
    )
    if num <= spec.n_fft // 2:
        raise ConfigError(
            f"Audio too short for n_fft {spec.n_fft} in modalities.{name}: {num} samples"
            f" ({spec.seconds} seconds at {spec.sample_rate} Hz)",
            "Raise seconds or lower n_fft.",
        )
    return (1, bins, 1 + num // spec.hop), "float16"


def channel_axis(shape: tuple[int, ...]) -> int:
    """Axis of the channels: third from last for images, video and spectrograms, else the first."""
    return len(shape) - 3 if len(shape) >= 3 else 0


def is_ids(shape: tuple[int, ...], dtype: str) -> bool:
    """Return whether rows of this shape and dtype are token ids."""
    return dtype in (ID_DTYPE, TOKEN_DTYPE) and len(shape) == 1


def vocabularies(
    shapes: Mapping[str, Sequence[int]], entries: Mapping[str, Mapping[str, Any]]
) -> dict[str, Vocabulary]:
    """The vocabularies of the modalities of token ids.

    `entries`: by modality, its `dtype` and, if it has one, its `tokenizer`.
    """
    return {
        name: Vocabulary(entry["tokenizer"]["size"], entry["tokenizer"]["pad"])
        if entry.get("tokenizer")
        else BYTES
        for name, entry in entries.items()
        if is_ids(tuple(shapes[name]), entry["dtype"])
    }
