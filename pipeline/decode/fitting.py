"""Decode settings that fit media: sizes, rates and durations from what their headers say."""

from collections.abc import Sequence
from math import ceil
from statistics import mode
from typing import Any

import numpy as np

MAX_SIZE = 112
MAX_SAMPLE_RATE = 16_000
MAX_SECONDS = 10.0
MAX_LENGTH = 1024


def video_fields(short_sides: Sequence[int]) -> dict[str, Any]:
    """Fields of a VideoSpec for videos with these short sides, in pixels."""
    return {"size": _size(short_sides)}


def image_fields(images: Sequence[tuple[int, bool]]) -> dict[str, Any]:
    """Fields of an ImageSpec for images with these short sides, and whether each is grey."""
    return {
        "size": _size([side for side, _ in images]),
        "channels": 1 if all(grey for _, grey in images) else 3,
    }


def audio_fields(tracks: Sequence[tuple[int, float | None]]) -> dict[str, Any]:
    """Fields of an AudioSpec for audio with these sample rates in Hz and durations in seconds."""
    fields: dict[str, Any] = {"sample_rate": min(mode(rate for rate, _ in tracks), MAX_SAMPLE_RATE)}
    if lengths := [seconds for _, seconds in tracks if seconds is not None]:
        fields["seconds"] = min(max(ceil(10 * _quantile(lengths)) / 10, 0.1), MAX_SECONDS)
    return fields


def text_fields(lengths: Sequence[int]) -> dict[str, Any]:
    """Fields of a TextSpec for texts of these lengths in bytes."""
    return {"length": min(max(ceil(_quantile(lengths)), 16), MAX_LENGTH)}


def _quantile(lengths: Sequence[float]) -> float:
    """95th percentile; the maximum would pad all samples to the length of a few long ones."""
    return float(np.quantile(lengths, 0.95))


def _size(short_sides: Sequence[int]) -> int:
    return max(8, min(MAX_SIZE, mode(short_sides)))
