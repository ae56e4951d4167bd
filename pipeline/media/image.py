"""Pictures: bytes -> a square of pixels."""

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.config import ImageSpec
from pipeline.errors import SampleError
from pipeline.media.limits import check_pixels

Array = npt.NDArray[Any]
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def decode_image(data: bytes, spec: ImageSpec) -> Array:
    """(channels, size, size) uint8: upright as its EXIF data says, short side resized, centre crop (raises SampleError)."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as file:
            check_pixels(*file.size)
            picture = ImageOps.exif_transpose(file).convert("RGB" if spec.channels == 3 else "L")
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise SampleError("undecodable", str(error).split("<")[0] + f"(of {len(data)} bytes)") from error
    except (OSError, ValueError, SyntaxError, TypeError, IndexError, KeyError, ZeroDivisionError, struct.error) as error:
        raise SampleError("truncated" if "truncated" in str(error) else "undecodable", f"{type(error).__name__}: {error}") from error
    width, height = picture.size
    side = min(width, height)
    square = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    pixels = np.asarray(picture.resize((spec.size, spec.size), Image.Resampling.BICUBIC, box=square))
    return np.ascontiguousarray(pixels.reshape(spec.size, spec.size, spec.channels).transpose(2, 0, 1))
