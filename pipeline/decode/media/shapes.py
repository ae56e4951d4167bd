"""What a decoded sample looks like: the shape and type of each modality's rows; no media library is needed to tell."""

from pipeline.decode.config import AudioSpec, ImageSpec, TensorSpec, TextSpec, VideoSpec
from pipeline.errors import ConfigError

AnySpec = VideoSpec | AudioSpec | ImageSpec | TensorSpec | TextSpec
IDS = "int16"
"""The type of rows (L,) that are ids, names rather than numbers, with 0 as padding: those of texts, and of no other kind."""


def num_samples(spec: AudioSpec) -> int:
    """The length of the waveform that a spectrogram is made of."""
    return round(spec.sample_rate * spec.seconds)


def shape_of(name: str, spec: AnySpec) -> tuple[tuple[int, ...], str]:
    """Shape and NumPy type of a row of the modality (raises ConfigError where the sound is shorter than half a window)."""
    match spec:
        case VideoSpec():
            return (spec.frames, 3, spec.size, spec.size), "uint8"
        case ImageSpec():
            return (spec.channels, spec.size, spec.size), "uint8"
        case TensorSpec():
            return spec.shape, "float32"
        case TextSpec():
            return (spec.length,), IDS
    num, bins = (
        num_samples(spec),
        spec.num_mels if spec.features == "log_mel" else spec.n_fft // 2 + 1,
    )
    if num <= spec.n_fft // 2:
        raise ConfigError(
            f"field 'modalities.{name}': {spec.seconds} s at {spec.sample_rate} Hz are {num} samples, too few for n_fft {spec.n_fft}",
            "lower n_fft",
        )
    return (1, bins, 1 + num // spec.hop), "float16"


def channel_axis(shape: tuple[int, ...]) -> int:
    """The axis along which mean and SD are taken apart: -3 of pictures and spectrograms, else the first."""
    return len(shape) - 3 if len(shape) >= 3 else 0


def is_ids(shape: tuple[int, ...], dtype: str) -> bool:
    """Whether rows are the ids of texts."""
    return dtype == IDS and len(shape) == 1
