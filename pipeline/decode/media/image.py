"""Pictures: bytes -> a square of pixels."""

import io
import struct

import av
import numpy as np
from av.codec import CodecContext
from av.video.codeccontext import VideoCodecContext
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.arrays import Array
from pipeline.decode.config import ImageSpec
from pipeline.decode.media.limits import check_pixels
from pipeline.errors import SampleError
from pipeline.shards.limits import Limits

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# What Pillow's readers raise on hostile bytes: struct, KeyError and IndexError from headers, SyntaxError from PNG chunks.
_HOSTILE = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    ArithmeticError,
    NotImplementedError,
    struct.error,
)


def decode_image(data: bytes, spec: ImageSpec, limits: Limits) -> Array:
    """(channels, size, size) uint8: the first picture, upright as its EXIF data says, short side resized, centre crop (raises SampleError)."""
    picture = _open(data, limits)
    try:
        picture = picture.convert("RGB" if spec.channels == 3 else "L")
    except ValueError as error:
        raise SampleError(
            "wrong_type", f"a picture in the colours {picture.mode}: {error}"
        ) from error
    width, height = picture.size
    side = min(width, height)
    square = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    pixels = np.asarray(
        picture.resize((spec.size, spec.size), Image.Resampling.BICUBIC, box=square)
    )
    return np.ascontiguousarray(
        pixels.reshape(spec.size, spec.size, spec.channels).transpose(2, 0, 1)
    )


def _open(data: bytes, limits: Limits) -> Image.Image:
    """The decoded picture, upright, in a mode of 8 bits (raises SampleError)."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as file:
            check_pixels(*file.size, limits)
            file.load()
            picture = ImageOps.exif_transpose(file)
            kind = file.format
    except Image.DecompressionBombError as error:
        raise SampleError("oversize", str(error)) from error
    except UnidentifiedImageError as error:
        raise SampleError(
            "undecodable", f"no picture that Pillow knows ({len(data)} bytes)"
        ) from error
    except _HOSTILE as error:
        raise SampleError(
            "truncated" if "truncated" in str(error).lower() else "undecodable",
            f"{type(error).__name__}: {error}",
        ) from error
    if kind == "JPEG":
        _check_jpeg(data, limits)
    return _eight_bits(picture)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Pillow cuts grey of 16 bits off at 255 where it should scale."""
    if picture.mode == "F":
        raise SampleError(
            "wrong_type", "a picture of floating-point numbers, whose range is unknown"
        )
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > 2**16 - 1:
        raise SampleError(
            "wrong_type",
            f"a picture of whole numbers from {values.min()} to {values.max()}, which are not 16 bits",
        )
    return Image.fromarray((values.astype(np.uint32) * 255 // (2**16 - 1)).astype(np.uint8))


def _check_jpeg(data: bytes, limits: Limits) -> None:
    """Pillow paints over wrong Huffman codes; FFmpeg tells of them (raises SampleError)."""
    context = CodecContext.create("mjpeg", "r")
    assert isinstance(context, VideoCodecContext)
    context.thread_count, context.options = (
        1,
        {"err_detect": "explode", "max_pixels": str(limits.pixels)},
    )
    try:
        damaged = any(
            frame.is_corrupt
            for packet in (av.Packet(data), None)
            for frame in context.decode(packet)
        )
    except av.InvalidDataError as error:
        raise SampleError("undecodable", f"the JPEG's codes are wrong: {error}") from error
    except av.FFmpegError:
        # Kinds of JPEG that FFmpeg does not know, which Pillow has read whole.
        return
    if damaged:
        raise SampleError("undecodable", "the JPEG is damaged")
