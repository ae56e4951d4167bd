"""Small media that the tests encode themselves, and the shards made of them."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

SAMPLE_RATE = 16_000
LEVEL = 12


def tone(hertz: float, seconds: float, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * sample_rate)) / sample_rate)).astype(np.float32)


def encode_clip(
    num_frames: int = 16,
    *,
    times: Sequence[int] | None = None,
    sound: np.ndarray | None = None,
    size: tuple[int, int] = (64, 48),
    container: str = "mp4",
    codec: str = "libx264",
    index_first: Path | None = None,
) -> bytes:
    """Frame i is grey of level LEVEL * i and shown at times[i] / 10 s; the sound is mono float at SAMPLE_RATE.

    With a path for `index_first`, the index of an MP4 stands before its media, as for streaming.
    """
    file = io.BytesIO()
    with av.open(str(index_first) if index_first else file, "w", format=container, options={"movflags": "faststart"} if index_first else {}) as out:
        video = out.add_stream(codec, rate=10, options={"crf": "8"} if codec == "libx264" else {})
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        video.codec_context.time_base = Fraction(1, 10)
        audio = out.add_stream("aac", rate=SAMPLE_RATE, layout="mono") if sound is not None else None
        for i in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), LEVEL * i, np.uint8), format="rgb24")
            frame.pts, frame.time_base = times[i] if times else i, Fraction(1, 10)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if audio is not None:
            block = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            block.sample_rate, block.pts = SAMPLE_RATE, 0
            out.mux(audio.encode(block))
            out.mux(audio.encode(None))
    return index_first.read_bytes() if index_first else file.getvalue()


def encode_wav(wave: np.ndarray, sample_rate: int = SAMPLE_RATE, codec: str = "pcm_f32le") -> bytes:
    """(samples,) mono or (samples, 2) stereo, float."""
    file = io.BytesIO()
    layout = "mono" if wave.ndim == 1 else "stereo"
    with av.open(file, "w", format="wav") as out:
        stream = out.add_stream(codec, rate=sample_rate, layout=layout)
        block = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave.reshape(1, -1)), format="flt", layout=layout)
        block.sample_rate, block.pts = sample_rate, 0
        out.mux(stream.encode(block))
        out.mux(stream.encode(None))
    return file.getvalue()


def encode_image(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def encode_npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def make_tar(members: Mapping[str, bytes] | Sequence[tuple[str, bytes]], fmt: int = tarfile.USTAR_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=fmt) as tar:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def facts(label: object, split: str = "train", **more: object) -> bytes:
    return json.dumps({"label": label, "split": split, **more}).encode()


def write_shard(path: Path, samples: Mapping[str, Mapping[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make_tar([(f"{key}.{suffix}", data) for key, members in samples.items() for suffix, data in members.items()]))
    return path
