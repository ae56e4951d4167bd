"""WAV files whose writer did not know their length, as in a pipe."""

import struct

import numpy as np
import pytest

from tests.support.decoding import audio, decode, reason

LIST = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf61.7.100\0\0"
WRITERS = {
    "ffmpeg": (2**32 - 1, 2**32 - 1, LIST),
    "sox": (0x7FFFF024, 0x7FFFF000, b""),
    "arecord": (2**31 + 36, 2**31, b""),
    "signed maximum": (2**31 - 1, 2**31 - 1 - 36, b""),
    "zeros": (0, 0, b""),
    "header of an empty file": (36, 0, b""),
}
"""Sizes of the RIFF and data chunks, and a chunk before the data."""


def wav(num: int, channels: int, sizes: tuple[int, int] | None, chunk: bytes = b"") -> bytes:
    """A WAV of `num` 16-bit samples per channel at 16 kHz; by default its sizes are right."""
    samples = (9000 * np.sin(np.arange(num * channels) / 7)).astype("<i2").tobytes()
    header = struct.pack(
        "<4sIHHIIHH", b"fmt ", 16, 1, channels, 16_000, 32_000 * channels, 2 * channels, 16
    )
    riff, size = sizes or (36 + len(chunk) + len(samples), len(samples))
    return (
        struct.pack("<4sI4s", b"RIFF", riff, b"WAVE")
        + header
        + chunk
        + struct.pack("<4sI", b"data", size)
        + samples
    )


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("num", [1, 16_000, 16_384, 32_000, 32_001])
@pytest.mark.parametrize("writer", WRITERS)
def test_all_samples_of_a_wav_of_unknown_length_are_decoded(
    writer: str, num: int, channels: int
) -> None:
    riff, size, chunk = WRITERS[writer]
    spec = audio(seconds=2.5)
    np.testing.assert_array_equal(
        decode(wav(num, channels, (riff, size), chunk), spec),
        decode(wav(num, channels, None), spec),
    )


@pytest.mark.parametrize("riff", [36 + 40_000, 0, 2**32 - 1])
@pytest.mark.parametrize("size", [32_002, 40_000, 2**30, 2**31 - 8192, 2**32 - 8192])
def test_a_wav_shorter_than_its_length_is_truncated(riff: int, size: int) -> None:
    assert reason({"wav": wav(16_000, 1, (riff, size))}, a=audio(seconds=0.1)) == "truncated"
