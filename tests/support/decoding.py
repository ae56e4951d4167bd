"""Helpers to decode one sample in this process and check the result."""

import io
import wave

import numpy as np
import pytest

from pipeline.decode.config import AudioSpec, VideoSpec
from pipeline.decode.media.sample import decode_sample
from pipeline.decode.media.shapes import AnySpec, shape_of
from pipeline.errors import SampleError
from pipeline.shards.limits import Limits
from tests.support.media_files import LEVEL, SAMPLE_RATE, encode_sound, tone

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def decode(data: bytes, spec: AnySpec) -> np.ndarray:
    (suffix,) = spec.member
    array = decode_sample({suffix: data}, {"m": spec}, Limits())["m"]
    assert array is not None
    assert (array.shape, str(array.dtype)) == shape_of("m", spec)
    return array


def reason(members: dict[str, bytes], **specs: AnySpec) -> str:
    with pytest.raises(SampleError) as caught:
        decode_sample(members, specs, Limits())
    return caught.value.reason


def video(frames: int = 4, size: int = 32, member: str = "mp4") -> VideoSpec:
    return VideoSpec(kind="video", member=member, frames=frames, size=size)


def audio(member: str = "wav", **options: object) -> AudioSpec:
    return AudioSpec(kind="audio", member=member, **options)


def levels(frames: np.ndarray) -> list[int]:
    return [round(float(frame.mean()) / LEVEL) for frame in frames]


def sound(
    container: str, codec: str, sample_rate: int = SAMPLE_RATE, channels: int = 2, **options: object
) -> bytes:
    return encode_sound(
        np.stack([tone(1000, 1.2, sample_rate)] * channels),
        container,
        codec,
        sample_rate,
        **options,
    )


def bin_of(data: bytes, suffix: str) -> int:
    """Loudest frequency of the first second, in bins of 31.25 Hz."""
    return int(
        decode(data, audio(suffix, seconds=1.0, features="log_spectrogram"))[0]
        .astype(np.float32)
        .mean(1)
        .argmax()
    )


def grey(num: int = 4, width: int = 64, height: int = 48) -> list[np.ndarray]:
    return [np.full((height, width, 3), LEVEL * i, np.uint8) for i in range(num)]


def silent_wav(num: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, SAMPLE_RATE, num, "NONE", ""))
        out.writeframes(bytes(2 * num))
    return file.getvalue()
