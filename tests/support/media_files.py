"""Encoders of small media files, and writers of shards."""

import io
import json
import struct
import tarfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

SAMPLE_RATE = 16_000
LEVEL = 12


def tone(hertz: float, seconds: float, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    return (
        0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * sample_rate)) / sample_rate)
    ).astype(np.float32)


def encode_clip(num_frames: int = 16, *, size: tuple[int, int] = (64, 48), **more: Any) -> bytes:
    """Encode a clip whose frame i is grey with value LEVEL * i; options as in `encode_film`."""
    frames = [np.full((*size[::-1], 3), LEVEL * i, np.uint8) for i in range(num_frames)]
    options = {} if "codec" in more else {"crf": "8"}
    return encode_film(frames, options=options, **more)


def encode_film(
    frames: Sequence[np.ndarray],
    *,
    container: str = "mp4",
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: Sequence[int] | None = None,
    sound: np.ndarray | None = None,
    sound_start: int = 0,
    options: Mapping[str, str] | None = None,
    colours: tuple[int, int, int] | None = None,
    index_first: Path | None = None,
) -> bytes:
    """Encode a video.

    Args:
        frames: (H, W, 3) or (H, W, 4) uint8.
        container, codec, pix_fmt, options: as in FFmpeg.
        times: presentation time of each frame in units of 0.1 s.
        sound: mono float audio at SAMPLE_RATE.
        sound_start: time of its first sample, in samples.
        colours: FFmpeg's numbers of primaries, transfer characteristics and matrix.
        index_first: path for a temporary file; the index of the MP4 comes before the media data.
    """
    file = io.BytesIO()
    flags = {"movflags": "faststart"} if index_first else {}
    with av.open(str(index_first or "") or file, "w", format=container, options=flags) as out:
        video = out.add_stream(codec, rate=10, options=dict(options or {}))
        video.width, video.height, video.pix_fmt = frames[0].shape[1], frames[0].shape[0], pix_fmt
        context = video.codec_context
        context.time_base = Fraction(1, 10)
        if colours:
            context.color_primaries, context.color_trc, context.colorspace = colours
        audio = (
            out.add_stream("aac", rate=SAMPLE_RATE, layout="mono") if sound is not None else None
        )
        for i, pixels in enumerate(frames):
            form = "rgba" if pixels.shape[2] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(pixels, format=form)
            if colours:
                frame = frame.reformat(format=pix_fmt, dst_colorspace=colours[2])
            frame.pts, frame.time_base = times[i] if times else i, Fraction(1, 10)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if audio is not None:
            block = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            block.sample_rate, block.pts = SAMPLE_RATE, sound_start
            block.time_base = Fraction(1, SAMPLE_RATE)
            out.mux(audio.encode(block))
            out.mux(audio.encode(None))
    return index_first.read_bytes() if index_first else file.getvalue()


def encode_wav(wave: np.ndarray, sample_rate: int = SAMPLE_RATE, codec: str = "pcm_f32le") -> bytes:
    """Encode float audio, (samples,) mono or (samples, 2) stereo."""
    file = io.BytesIO()
    layout = "mono" if wave.ndim == 1 else "stereo"
    with av.open(file, "w", format="wav") as out:
        stream = out.add_stream(codec, rate=sample_rate, layout=layout)
        block = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(wave.reshape(1, -1)), format="flt", layout=layout
        )
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


def make_tar(
    members: Mapping[str, bytes] | Sequence[tuple[str, bytes]], fmt: int = tarfile.USTAR_FORMAT
) -> bytes:
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
    path.write_bytes(
        make_tar(
            [
                (f"{key}.{suffix}", data)
                for key, members in samples.items()
                for suffix, data in members.items()
            ]
        )
    )
    return path


def encode_sound(
    waves: np.ndarray,
    container: str,
    codec: str,
    sample_rate: int = SAMPLE_RATE,
    *,
    cover: bytes | None = None,
    start: int = 0,
) -> bytes:
    """Encode audio (channels, samples) float in [-1, 1].

    `cover` is a JPEG added as cover art, `start` the time of the first sample.
    """
    file = io.BytesIO()
    layout = {1: "mono", 2: "stereo"}.get(len(waves), f"{len(waves)} channels")
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=sample_rate, layout=layout)
        picture = None
        if cover:
            with av.open(io.BytesIO(cover)) as source:
                packet = next(packet for packet in source.demux() if packet.size)
                picture = out.add_stream_from_template(source.streams.video[0])
                picture.disposition = av.stream.Disposition.attached_pic
        packed = (waves.T * (2**15 - 1)).round().astype(np.int16).reshape(1, -1)
        block = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
        block.sample_rate, block.pts, block.time_base = sample_rate, start, Fraction(1, sample_rate)
        out.start_encoding()
        if picture:
            packet.stream, packet.pts, packet.dts = picture, 0, 0
            out.mux(packet)
        for frame in av.AudioResampler(
            format=stream.codec_context.format, layout=layout, rate=sample_rate
        ).resample(block):
            frame.pts = start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def turn(clip: bytes, degrees: int) -> bytes:
    """Add a display matrix to an MP4 that rotates it clockwise."""
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    start = clip.index(b"tkhd") + 44
    return (
        clip[:start]
        + struct.pack(">9i", cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
        + clip[start + 36 :]
    )
