"""Every suffix of the table of formats, by encoded files."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.decode.config import ImageSpec
from pipeline.shards.member_suffixes import KINDS_OF
from tests.support.decoding import audio, bin_of, decode, levels, sound, video
from tests.support.media_files import LEVEL

VIDEO = {
    "mp4 mov qt mj2 m4v f4v": ("mov", "libx264"),
    "3gp 3g2": ("3gp", "mpeg4"),
    "mkv mk3d": ("matroska", "libx264"),
    "webm": ("webm", "libvpx"),
    "avi divx": ("avi", "mpeg4"),
    "flv": ("flv", "flv1"),
    "mpg mpeg": ("mpeg", "mpeg1video"),
    "vob ps": ("vob", "mpeg2video"),
    "m1v": ("mpeg1video", "mpeg1video"),
    "m2v": ("mpeg2video", "mpeg2video"),
    "ts mts m2ts": ("mpegts", "libx264"),
    "ogv": ("ogg", "libvpx"),
    "wmv asf": ("asf", "wmv2"),
    "264 avc h264": ("h264", "libx264"),
    "265 h265 hevc": ("hevc", "libx265"),
    "ivf": ("ivf", "libvpx"),
}
AUDIO = {
    "wav wave": ("wav", "pcm_s16le"),
    "w64": ("w64", "pcm_s16le"),
    "flac": ("flac", "flac"),
    "ogg oga": ("ogg", "flac"),
    "opus spx": ("ogg", "libopus"),
    "mp3 mpa mpga": ("mp3", "libmp3lame"),
    "mp2": ("mp2", "mp2"),
    "m4a m4b mp4": ("ipod", "aac"),
    "mka": ("matroska", "libopus"),
    "weba": ("webm", "libopus"),
    "aac": ("adts", "aac"),
    "wma": ("asf", "libmp3lame"),
    "aif aiff aifc": ("aiff", "pcm_s16be"),
    "au snd": ("au", "pcm_s16be"),
    "caf": ("caf", "pcm_s16le"),
}
IMAGE = {
    "jpg jpeg jpe jfif": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "bmp dib": "BMP",
    "tif tiff": "TIFF",
    "ppm pgm pbm pnm": "PPM",
    "gif": "GIF",
}


def test_every_suffix_has_a_test() -> None:
    assert set(KINDS_OF) == set(" ".join([*VIDEO, *AUDIO, *IMAGE, "amr npy txt"]).split())


@pytest.mark.parametrize("suffixes", VIDEO)
def test_video(suffixes: str) -> None:
    container, codec = VIDEO[suffixes]
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 176, 144, "yuv420p"
        for i in range(12):
            pixels = np.full((144, 176, 3), LEVEL * (1 + i // 4 * 4), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels)
            frame.pts, frame.time_base = i, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    for suffix in suffixes.split():
        assert levels(decode(file.getvalue(), video(3, member=suffix))) == [1, 5, 9]


@pytest.mark.parametrize("suffixes", AUDIO)
def test_audio(suffixes: str) -> None:
    container, codec = AUDIO[suffixes]
    data = sound(container, codec, 48_000 if codec == "libopus" else 32_000)
    for suffix in suffixes.split():
        assert bin_of(data, suffix) == 32


def test_amr() -> None:
    frame = b"\x04" + bytes(12)  # of 20 ms
    spectrogram = decode(b"#!AMR\n" + 50 * frame, audio("amr", seconds=1.0))
    assert spectrogram.max() < -10


@pytest.mark.parametrize("suffixes", IMAGE)
def test_image(suffixes: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (120, 120, 120)).save(file, IMAGE[suffixes])
    for suffix in suffixes.split():
        pixels = decode(file.getvalue(), ImageSpec(kind="image", member=suffix, size=8))
        assert np.abs(pixels.astype(int) - 120).max() <= 1
