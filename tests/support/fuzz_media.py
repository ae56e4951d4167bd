"""Mutated media of every suffix for `benchmarks/fuzz.py`, and a judge of their decoding."""

import io
import random
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
from PIL import Image

from pipeline.decode.config import AudioSpec, ImageSpec, TensorSpec, VideoSpec
from pipeline.decode.media.shapes import AnySpec, shape_of
from pipeline.decode.sandbox.sandbox import Sandbox
from pipeline.errors import REASONS, SampleError
from pipeline.shards.limits import Limits
from tests.support.fuzzing import Case, Cases, harmed


def encode_media(container: str, video: str = "", audio: str = "", *, rate: int = 48_000) -> bytes:
    """Encode three small frames with audio of the same duration, reproducibly."""
    file = io.BytesIO()
    with av.open(file, "w", format=container, options={"fflags": "+bitexact"}) as out:
        tracks = [
            (
                out.add_stream(
                    name, rate=25 if name == video else rate, options={"strict": "experimental"}
                ),
                name == video,
            )
            for name in (video, audio)
            if name
        ]
        for stream, is_video in tracks:
            stream.codec_context.flags |= av.codec.context.Flags.bitexact
            if is_video:
                stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            else:
                stream.layout = "stereo"
        for stream, is_video in tracks:
            for frame in _frames() if is_video else _audio(stream, rate):
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return file.getvalue()


def _frames() -> Iterator[av.VideoFrame]:
    for i in range(3):
        frame = av.VideoFrame.from_ndarray(
            np.roll(
                np.arange(32 * 32 * 3, dtype=np.uint32).reshape(32, 32, 3) % 251, 5 * i, 0
            ).astype(np.uint8),
            format="rgb24",
        )
        frame.pts, frame.time_base = i, Fraction(1, 25)
        yield frame


def _audio(stream: av.AudioStream, rate: int) -> Iterator[av.AudioFrame]:
    wave = (8000 * np.sin(np.arange(2 * rate * 3 // 25) / 9)).astype(np.int16)
    block = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="stereo")
    block.sample_rate, block.pts, block.time_base = rate, 0, Fraction(1, rate)
    resampler = av.AudioResampler(
        format=stream.codec_context.format,
        layout="stereo",
        rate=rate,
        frame_size=stream.codec_context.frame_size or 0,
    )
    yield from resampler.resample(block)
    yield from resampler.resample(None)


_CLIPS = {
    "mp4": ("mp4", "libx264", "aac"),
    "webm": ("webm", "libvpx", "libopus"),
    "mkv": ("matroska", "libx264", "libopus"),
    "avi": ("avi", "mpeg4", "mp2"),
    "mpg": ("mpeg", "mpeg1video", "mp2"),
    "flv": ("flv", "flv", "aac"),
    "wav": ("wav", "", "pcm_s16le"),
    "flac": ("flac", "", "flac"),
    "ogg": ("ogg", "", "vorbis"),
    "opus": ("ogg", "", "libopus"),
    "mp3": ("mp3", "", "libmp3lame"),
}
_IMAGES = {"jpg": "JPEG", "png": "PNG", "gif": "GIF", "webp": "WEBP", "bmp": "BMP"}
_VIDEOS = ("mp4", "webm", "mkv", "avi", "mpg", "flv")
SPECS: dict[str, AnySpec] = {
    "film": VideoSpec(kind="video", member=_VIDEOS, frames=2, size=16),
    "sound": AudioSpec(
        kind="audio", member=tuple(_CLIPS), sample_rate=16_000, seconds=0.1, num_mels=8
    ),
    "picture": ImageSpec(kind="image", member=tuple(_IMAGES), size=16),
    "touch": TensorSpec(kind="tensor", member=("npy",), shape=(3, 5)),
}


def media() -> dict[str, bytes]:
    """A small file of every suffix."""
    encoded = {suffix: encode_media(*how) for suffix, how in _CLIPS.items()}
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    for suffix, name in _IMAGES.items():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, name)
        encoded[suffix] = file.getvalue()
    file = io.BytesIO()
    np.save(file, np.arange(15, dtype=np.float32).reshape(3, 5))
    return encoded | {"npy": file.getvalue()}


def clip_cases(_: Path) -> Cases:
    """Cases with mutated media of each suffix in turn, decoded in a sandbox."""
    encoded, sandbox = media(), Sandbox(SPECS, Limits(timeout=5, memory=2**29))
    suffixes = list(encoded)
    for suffix, data in encoded.items():
        assert judge_clip(data, suffix, sandbox) == "decoded", suffix

    def case(seed: int, number: int) -> Case:
        rng = random.Random(f"clip {seed} {number}")
        suffix = suffixes[number % len(suffixes)]
        data, num = encoded[suffix], rng.choice((1, 1, 2, 4))
        for _ in range(num):
            near = rng.random() < 0.4
            # Headers at the start determine how the rest is read, so they are mutated more often.
            head, rest = (data[:200], data[200:]) if near else (data, b"")
            data = harmed(head, rng, encoded[rng.choice(suffixes)]) + rest
        return Case(
            name=f"x.{suffix}", data=data, judge=partial(judge_clip, suffix=suffix, sandbox=sandbox)
        )

    return case


def judge_clip(data: bytes, suffix: str, sandbox: Sandbox) -> str:
    """Check that decoding gives complete, finite arrays or a reason."""
    try:
        arrays = sandbox.decode({suffix: data})
    except SampleError as error:
        assert error.reason in REASONS and error.detail, error
        return error.reason
    _check_arrays(arrays)
    absent = [
        name for name, spec in SPECS.items() if suffix in spec.member and arrays[name] is None
    ]
    assert any(array is not None for array in arrays.values()), "no array and no rejection"
    return f"decoded without {', '.join(absent)}" if absent else "decoded"


def _check_arrays(arrays: Mapping[str, np.ndarray | None]) -> None:
    for name, array in arrays.items():
        if array is not None:
            shape, dtype = shape_of(name, SPECS[name])
            assert array.shape == shape and array.dtype == dtype, (name, array.shape, array.dtype)
            assert np.isfinite(array).all(), f"{name} is not finite"
