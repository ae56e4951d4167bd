"""Encoding of arrays as MP4 (H.264 and AAC), PNG, .npy and UTF-8, with reproducible bytes."""

import io
from fractions import Fraction

import av
import numpy as np
from PIL import Image

from pipeline.arrays import Float32Array, StrArray, UInt8Array


def mp4(
    frames: UInt8Array | None,
    fps: int,
    waveform: Float32Array | None,
    sample_rate: int,
    *,
    crf: int = 26,
) -> bytes:
    """Encode an MP4; a stream that is None is left out.

    Args:
        frames: (T, H, W, 3) uint8, H and W even.
        fps: frame rate.
        waveform: mono audio (N,) float32 in [-1, 1].
        sample_rate: of the audio, in Hz.
        crf: x264's rate factor of constant quality; smaller is finer.
    """
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        # The first packet writes the header, so all streams must be added before.
        video: av.VideoStream | None = None
        audio: av.AudioStream | None = None
        if frames is not None:
            video = _video_stream(container, fps, frames.shape[2], frames.shape[1], crf)
        if waveform is not None:
            audio = container.add_stream("aac", rate=sample_rate, layout="mono", bit_rate=48_000)
        if video is not None and frames is not None:
            for number, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, fps)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio is not None and waveform is not None:
            samples = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
            samples.sample_rate, samples.pts = sample_rate, 0
            samples.time_base = Fraction(1, sample_rate)
            container.mux(audio.encode(samples))
            container.mux(audio.encode(None))
    return file.getvalue()


def _video_stream(
    container: av.container.OutputContainer, fps: int, width: int, height: int, crf: int
) -> av.VideoStream:
    # For reproducible bytes: with more threads they depend on the number of cores, and x264's
    # macroblock tree reads uninitialized memory.
    stream = container.add_stream(
        "libx264",
        rate=fps,
        options={
            "preset": "superfast",
            "crf": str(crf),
            "threads": "1",
            "x264-params": "mbtree=0",
        },
    )
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    return stream


def png(pixels: UInt8Array) -> bytes:
    """Encode an image (H, W, 3) uint8 as PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=6)
    return file.getvalue()


def npy(array: Float32Array) -> bytes:
    """Encode an array as an .npy file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def txt(words: StrArray) -> bytes:
    """Encode words (N,) as a line of UTF-8 text."""
    return " ".join(words.tolist()).encode()
