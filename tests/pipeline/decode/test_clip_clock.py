"""Audio and video of a clip share one clock, whose zero is the start of the earlier stream."""

import numpy as np
import pytest

from pipeline.decode.media.sample import decode_sample
from pipeline.shards.limits import Limits
from tests.support.decoding import audio, decode, video
from tests.support.media_files import SAMPLE_RATE, encode_film, tone

# 20 segments of 0.1 s, and windows every 0.01 s.
VIDEO, WINDOWS = video(20, 16, "clip"), 100
AUDIO = audio("clip", seconds=2.0, features="log_spectrogram")
STARTS = {"together": (0, 0), "late audio": (0, 7), "late video": (7, 0), "late clip": (50, 57)}
"""Start of the video and of the audio in units of 0.1 s."""


def clip(container: str, starts: tuple[int, int]) -> bytes:
    """A clip of 2 s with a flash from 1.0 to 1.2 s and a tone from 1.0 s."""
    origin = min(starts)
    lead, silence = starts[0] - origin, starts[1] - origin
    frames = [
        np.full((48, 64, 3), 250 if 10 <= time < 12 else 10, np.uint8) for time in range(lead, 20)
    ]
    sound = np.concatenate([np.zeros(SAMPLE_RATE, np.float32), tone(1000, 1.0)])
    return encode_film(
        frames,
        container=container,
        times=range(starts[0], origin + 20),
        sound=sound[silence * SAMPLE_RATE // 10 :],
        sound_start=starts[1] * SAMPLE_RATE // 10,
    )


def onset(spectrogram: np.ndarray) -> float:
    """Time in seconds at which the tone begins."""
    level = spectrogram[0, 32].astype(np.float32)
    return int(np.argmax(level > (level.min() + level.max()) / 2)) / WINDOWS


@pytest.mark.parametrize("starts", STARTS)
@pytest.mark.parametrize(
    ("container", "priming"),
    # MPEG-TS and FLV do not say that AAC starts with 1,024 samples of priming.
    [("mp4", 0), ("mov", 0), ("matroska", 0), ("mpegts", 0.064), ("flv", 0.064)],
)
def test_tone_and_flash_at_one_second(container: str, priming: float, starts: str) -> None:
    data = clip(container, STARTS[starts])
    arrays = decode_sample({"clip": data}, {"v": VIDEO, "a": AUDIO}, Limits())
    bright = [int(i) for i in np.flatnonzero(arrays["v"].mean((1, 2, 3)) > 128)]
    assert bright == [10, 11]
    assert 0.97 <= onset(arrays["a"]) <= 1.03 + priming
    np.testing.assert_array_equal(decode(data, VIDEO), arrays["v"])
    np.testing.assert_array_equal(decode(data, AUDIO), arrays["a"])


def test_audio_that_starts_after_its_duration_is_silent() -> None:
    data = clip("mp4", (0, 12))
    short = decode(data, AUDIO.model_copy(update={"seconds": 1.0}))
    assert (short == short.min()).all()


def test_repeated_audio_repeats_its_silence() -> None:
    """The audio starts at 0.7 s and ends at 2.0 s; the tone begins at 1.0 and at 3.0 s."""
    spec = AUDIO.model_copy(update={"seconds": 4.0, "pad": "repeat"})
    spectrogram = decode(clip("mov", (0, 7)), spec)
    assert onset(spectrogram[:, :, 210:]) == pytest.approx(3.0 - 2.1, abs=0.1)
