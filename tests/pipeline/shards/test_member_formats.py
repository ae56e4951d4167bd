"""File formats by content, and counts of members whose suffix names another one."""

import numpy as np
import pytest

from pipeline.shards.member_formats import MislabelledCounts, format_of, mislabelled_text
from tests.support.decoding import sound
from tests.support.media_files import encode_clip, encode_image, encode_npy, encode_wav, tone

PIXELS = np.zeros((8, 8, 3), np.uint8)
FILES = {
    "mp4": lambda: encode_clip(2),
    "mkv": lambda: encode_clip(2, container="matroska"),
    "avi": lambda: encode_clip(2, container="avi", codec="mpeg4"),
    "flv": lambda: encode_clip(2, container="flv"),
    "ts": lambda: encode_clip(2, container="mpegts"),
    "mpg": lambda: sound("mpeg", "mp2"),
    "wmv": lambda: encode_clip(2, container="asf", codec="wmv2"),
    "wav": lambda: encode_wav(tone(800, 0.1)),
    "flac": lambda: sound("flac", "flac"),
    "ogg": lambda: sound("ogg", "libopus"),
    "mp3": lambda: sound("mp3", "libmp3lame"),
    "aac": lambda: sound("adts", "aac"),
    "aiff": lambda: sound("aiff", "pcm_s16be"),
    "au": lambda: sound("au", "pcm_s16be"),
    "caf": lambda: sound("caf", "pcm_s16be"),
    "w64": lambda: sound("w64", "pcm_s16le"),
    **{
        suffix: lambda kind=kind: encode_image(PIXELS, kind)
        for suffix, kind in (
            ("jpg", "JPEG"),
            ("png", "PNG"),
            ("webp", "WEBP"),
            ("bmp", "BMP"),
            ("gif", "GIF"),
            ("tif", "TIFF"),
            ("ppm", "PPM"),
        )
    },
}
OTHER_NAMES = {
    "mp4": ("mov", "m4a", "3gp", "m4v"),
    "mkv": ("webm", "mka"),
    "ogg": ("opus", "oga", "ogv"),
    "mpg": ("mpeg",),
    "wmv": ("wma",),
    "mp3": ("mp2",),
    "aiff": ("aif",),
    "jpg": ("jpeg",),
    "tif": ("tiff",),
    "ppm": ("pgm",),
}


@pytest.mark.parametrize("suffix", FILES)
def test_format_by_content(suffix: str) -> None:
    data = FILES[suffix]()
    assert format_of(data)[0] == suffix
    counts = MislabelledCounts()
    counts.add({f"cam.{name}": data for name in (suffix, *OTHER_NAMES.get(suffix, ()))})
    assert counts.by_suffix == {}
    wrong = "png" if suffix == "mp4" else "mp4"
    counts.add({wrong: data})
    assert counts.by_suffix == {wrong: {suffix: 1}}


def test_counts_by_suffix_and_format() -> None:
    png, wav = FILES["png"](), FILES["wav"]()
    counts, total = MislabelledCounts(), MislabelledCounts()
    counts.add({"left.jpg": png, "right.jpg": png, "mp3": wav, "png": png})
    counts.add({"jpg": FILES["gif"](), "npy": encode_npy(np.zeros(1)), "txt": b"BM", "json": png})
    total.merge(counts.by_suffix)
    total.merge({"jpg": {"png": 1}, "wav": {"mp3": 1}})
    assert total.by_suffix == {"jpg": {"png": 3, "gif": 1}, "mp3": {"wav": 1}, "wav": {"mp3": 1}}
    assert mislabelled_text({"jpg": {"png": 3, "gif": 1}, "mp3": {"wav": 1}}) == (
        "jpg: 3 are png, 1 is gif; mp3: 1 is wav"
    )


@pytest.mark.parametrize("data", [b"", b"G", b"no media at all" * 9, b"\xff\xfeh\0i\0", bytes(999)])
def test_other_bytes_have_no_format(data: bytes) -> None:
    assert format_of(data) == ("", "")
