"""Arrays -> encoded bytes: MP4 with H.264 and AAC, PNG, .npy, UTF-8; the same arrays give the same bytes."""

import io
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
from PIL import Image


def mp4(
    frames: npt.NDArray[np.uint8] | None,
    fps: int,
    sound: npt.NDArray[np.float32] | None,
    sample_rate: int,
) -> bytes:
    """An MP4 of frames (T, H, W, 3) uint8, H and W even, and of mono sound (N,) float32 in [-1, 1]; None leaves the stream out."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        # Every stream has to be there before the first packet is muxed, for then the header is written.
        video: av.VideoStream | None = None
        audio: av.AudioStream | None = None
        if frames is not None:
            video = _video_stream(container, fps, frames.shape[2], frames.shape[1])
        if sound is not None:
            audio = container.add_stream("aac", rate=sample_rate, layout="mono", bit_rate=48_000)
        if video is not None and frames is not None:
            for number, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, fps)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio is not None and sound is not None:
            block = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = sample_rate, 0, Fraction(1, sample_rate)
            container.mux(audio.encode(block))
            container.mux(audio.encode(None))
    return file.getvalue()


def _video_stream(
    container: av.container.OutputContainer, fps: int, width: int, height: int
) -> av.VideoStream:
    # One thread, no macroblock tree: with more threads the bytes depend on the cores, and the tree reads memory that was never written.
    stream = container.add_stream(
        "libx264",
        rate=fps,
        options={"preset": "superfast", "crf": "26", "threads": "1", "x264-params": "mbtree=0"},
    )
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    return stream


def png(picture: npt.NDArray[np.uint8]) -> bytes:
    """A PNG of a picture (H, W, 3) uint8."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=6)
    return file.getvalue()


def npy(array: npt.NDArray[np.float32]) -> bytes:
    """An .npy file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def txt(words: npt.NDArray[np.str_]) -> bytes:
    """A line of words (N,) in UTF-8."""
    return " ".join(words.tolist()).encode()
