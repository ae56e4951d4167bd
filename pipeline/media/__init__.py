"""Bytes of a sample -> one array a modality."""

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from pipeline.config import AudioSpec, ImageSpec, TensorSpec, VideoSpec
from pipeline.errors import ConfigError, SampleError
from pipeline.media.clip import decode_clip
from pipeline.media.image import decode_image
from pipeline.media.limits import check_member
from pipeline.media.sound import num_samples
from pipeline.media.tensor import decode_tensor

Array = npt.NDArray[Any]
AnySpec = VideoSpec | AudioSpec | ImageSpec | TensorSpec


def decode_sample(members: Mapping[str, bytes], specs: Mapping[str, AnySpec]) -> dict[str, Array | None]:
    """The array of each modality as `shape_of` says, None where the sample lacks it; modalities that read one container share a pass (raises SampleError)."""
    out: dict[str, Array | None] = dict.fromkeys(specs)
    clips: dict[str, dict[str, VideoSpec | AudioSpec]] = {}
    for name, spec in specs.items():
        suffix = next((suffix for suffix in spec.member if suffix in members), None)
        if suffix is None:
            continue
        try:
            check_member(members[suffix], suffix)
            if isinstance(spec, ImageSpec):
                out[name] = decode_image(members[suffix], spec)
            elif isinstance(spec, TensorSpec):
                out[name] = decode_tensor(members[suffix], spec)
            else:
                clips.setdefault(suffix, {})[name] = spec
        except SampleError as error:
            raise SampleError(error.reason, f"{name} ({suffix}): {error.detail}") from error
    for suffix, wanted in clips.items():
        try:
            out |= decode_clip(members[suffix], wanted)
        except SampleError as error:
            raise SampleError(error.reason, f"{', '.join(wanted)} ({suffix}): {error.detail}") from error
    return out


def shape_of(name: str, spec: AnySpec) -> tuple[tuple[int, ...], str]:
    """Shape and NumPy type of a row of the modality (raises ConfigError where the sound is shorter than half a window)."""
    match spec:
        case VideoSpec():
            return (spec.frames, 3, spec.size, spec.size), "uint8"
        case ImageSpec():
            return (spec.channels, spec.size, spec.size), "uint8"
        case TensorSpec():
            return spec.shape, "float32"
    num, bins = num_samples(spec), spec.num_mels if spec.features == "log_mel" else spec.n_fft // 2 + 1
    if num <= spec.n_fft // 2:
        raise ConfigError(
            f"field 'modalities.{name}': {spec.seconds} s at {spec.sample_rate} Hz are {num} samples, too few for n_fft {spec.n_fft}", "lower n_fft"
        )
    return (1, bins, 1 + num // spec.hop), "float16"


def channel_axis(shape: tuple[int, ...]) -> int:
    """The axis along which mean and SD are taken apart: -3 of pictures and spectrograms, else the first."""
    return len(shape) - 3 if len(shape) >= 3 else 0


__all__ = ["AnySpec", "channel_axis", "decode_sample", "shape_of"]
