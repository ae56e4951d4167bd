"""Features of one sample as a picture of bounded size, and a writer of PNG files."""

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Array, UInt8Array
from pipeline.errors import MissingError

MAX_SIDE = 512
"""Maximum width and height of a picture in pixels."""
MIN_SIDE = 96
"""Smaller pictures are enlarged by a whole factor up to this width or height."""
MAX_FRAMES = 12
"""Maximum frames of a contact sheet."""
MAX_BYTES = 32 * 2**20
"""Maximum size of the features that a picture is made of."""
STRIP = 24
"""Height of a vector in pixels, before it is enlarged."""
COLOURS = np.array(
    [(0, 0, 4), (51, 16, 104), (136, 34, 106), (203, 65, 73), (247, 131, 16), (252, 255, 164)]
)
"""Colours of a heat map from low to high (inferno), between which the others are interpolated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """RGB pixels (H, W, 3) uint8, at most MAX_SIDE on a side, and what they show."""

    pixels: UInt8Array
    about: str


def picture_of(kind: str, values: Array) -> Picture:
    """Draw the features of a sample. Raises MissingError if they are text or too large.

    Frames (T, C, H, W) become a contact sheet, an image (C, H, W) itself, other arrays of two
    dimensions or more a heat map, and vectors a strip.
    """
    if kind == "text":
        raise MissingError("Text has no picture", "Read `text` of its description")
    if values.nbytes > MAX_BYTES:
        raise MissingError(
            f"Features of {values.nbytes:,} bytes are too large for a picture, whose maximum is"
            f" {MAX_BYTES:,}",
            "Read them with FeatureSet.read",
        )
    if values.ndim == 4 and kind == "video" and values.shape[1] in (1, 3):
        chosen = np.unique(np.linspace(0, len(values) - 1, min(len(values), MAX_FRAMES)).round())
        frames = values[chosen.astype(int)]
        about = f"{len(frames)} of {len(values)} frames, in order"
        return Picture(pixels=_bounded(_sheet(_rgb(frames))), about=about)
    if values.ndim == 3 and kind == "image" and values.shape[0] in (1, 3):
        return Picture(pixels=_bounded(_rgb(values[None])[0]), about="the image")
    if values.ndim <= 1:
        strip = np.repeat(np.atleast_1d(values)[None], STRIP, axis=0)
        return Picture(pixels=_heat(strip), about=f"{values.size} values as a strip, low to high")
    flat = values.reshape(-1, values.shape[-1])
    if kind == "audio":  # spectrograms have the lowest frequency first
        about = "spectrogram: time to the right, frequency upwards, light is loud"
        return Picture(pixels=_heat(flat[::-1]), about=about)
    return Picture(pixels=_heat(flat), about="heat map, dark is low")


def _rgb(images: Array) -> UInt8Array:
    """Images (N, 1 or 3, H, W) as (N, H, W, 3) uint8; other types are scaled to their range."""
    images = _sampled(_sampled(images, 2), 3)
    if images.dtype != np.uint8:
        images = (_scaled(images) * 255).round().astype(np.uint8)
    return np.broadcast_to(images.transpose(0, 2, 3, 1), (*images.shape[:1], *images.shape[2:], 3))


def _sheet(frames: UInt8Array) -> UInt8Array:
    """Frames (N, H, W, 3) in rows of a nearly square sheet."""
    num, height, width, _ = frames.shape
    columns = min(num, max(1, round((num * height / width) ** 0.5)))
    rows = -(-num // columns)
    sheet = np.zeros((rows * columns, height, width, 3), np.uint8)
    sheet[:num] = frames
    cells = sheet.reshape(rows, columns, height, width, 3)
    return cells.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)


def _heat(values: Array) -> UInt8Array:
    """A heat map of (H, W) numbers; what is not finite is grey."""
    values = _sampled(_sampled(values, 0), 1)
    positions = np.linspace(0, 1, len(COLOURS))
    scaled = _scaled(values)
    pixels = np.stack([np.interp(scaled, positions, channel) for channel in COLOURS.T], axis=-1)
    pixels[~np.isfinite(values.astype(np.float64))] = 128
    return _bounded(pixels.round().astype(np.uint8))


def _scaled(values: Array) -> Array:
    """Values from 0 to 1 over the range of the finite ones; 0 if they are equal."""
    values = values.astype(np.float64)
    finite = np.isfinite(values)
    low = values.min(where=finite, initial=np.inf)
    high = values.max(where=finite, initial=-np.inf)
    span = high - low
    return np.where(finite, values - low, 0) / span if 0 < span < np.inf else np.zeros_like(values)


def _sampled(values: Array, axis: int) -> Array:
    """At most MAX_SIDE entries of an axis, evenly spaced."""
    size = values.shape[axis]
    if size <= MAX_SIDE:
        return values
    return values.take(np.linspace(0, size - 1, MAX_SIDE).round().astype(int), axis=axis)


def _bounded(pixels: UInt8Array) -> UInt8Array:
    """Pixels (H, W, 3) reduced to MAX_SIDE in proportion, or enlarged if they are few."""
    height, width = pixels.shape[:2]
    reduction = -(-max(height, width) // MAX_SIDE)
    pixels = pixels[::reduction, ::reduction]
    factor = max(1, MIN_SIDE // max(pixels.shape[:2]))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def png(pixels: UInt8Array) -> bytes:
    """Encode RGB pixels (H, W, 3) as PNG."""
    height, width = pixels.shape[:2]
    lines = np.zeros((height, 1 + width * 3), np.uint8)  # each line begins with its filter, none
    lines[:, 1:] = pixels.reshape(height, width * 3)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.tobytes(), 6)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
