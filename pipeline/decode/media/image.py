"""Decoding of images to square pixel arrays."""

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
# Errors that Pillow raises for malformed files: struct.error, KeyError and IndexError for headers,
# SyntaxError for PNG chunks.
_DECODE_ERRORS = (
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
    """Decode an image, (channels, size, size) uint8. Raises SampleError.

    The image is rotated as its EXIF data says, its short side is resized to `spec.size`, and it is
    centre-cropped. Of an animation, the first frame is used.
    """
    image = _open(data, limits)
    try:
        image = image.convert("RGB" if spec.channels == 3 else "L")
    except ValueError as error:
        raise SampleError(
            "wrong_type", f"Unsupported colour mode {image.mode}: {error}."
        ) from error
    width, height = image.size
    side = min(width, height)
    square = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    pixels = np.asarray(image.resize((spec.size, spec.size), Image.Resampling.BICUBIC, box=square))
    return np.ascontiguousarray(
        pixels.reshape(spec.size, spec.size, spec.channels).transpose(2, 0, 1)
    )


def _open(data: bytes, limits: Limits) -> Image.Image:
    """Decode an image, upright, with 8 bits per channel. Raises SampleError."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as file:
            check_pixels(*file.size, limits)
            file.load()
            image = ImageOps.exif_transpose(file)
            file_format = file.format
    except Image.DecompressionBombError as error:
        raise SampleError("oversize", f"Image too large: {error}") from error
    except UnidentifiedImageError as error:
        raise SampleError("undecodable", f"Not a readable image ({len(data):,} bytes).") from error
    except _DECODE_ERRORS as error:
        if "truncated" in str(error).lower():
            raise SampleError("truncated", f"File cut short ({error}).") from error
        raise SampleError(
            "undecodable", f"Damaged image ({type(error).__name__}: {error})."
        ) from error
    if file_format == "JPEG":
        _check_jpeg(data, limits)
    return _to_eight_bits(image)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit greyscale to 8 bits; Pillow would clip it at 255. Raises SampleError."""
    if image.mode == "F":
        raise SampleError("wrong_type", "Floating-point image, whose value range is unknown.")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 2**16 - 1:
        raise SampleError(
            "wrong_type",
            f"Integer image with values from {values.min()} to {values.max()}, not 16 bits.",
        )
    return Image.fromarray((values.astype(np.uint32) * 255 // (2**16 - 1)).astype(np.uint8))


def _check_jpeg(data: bytes, limits: Limits) -> None:
    """Raise SampleError for invalid Huffman codes, which FFmpeg reports but Pillow ignores."""
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
        raise SampleError("undecodable", "Damaged JPEG: invalid Huffman codes.") from error
    except av.FFmpegError:
        # FFmpeg does not support all kinds of JPEG that Pillow has decoded.
        return
    if damaged:
        raise SampleError("undecodable", "Damaged JPEG.")
