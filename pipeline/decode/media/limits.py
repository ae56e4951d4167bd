"""What is looked at before anything is decoded: members that are no media at all, and how large the rest may be."""

import math

from pipeline.errors import SampleError
from pipeline.shards.limits import Limits


def check_pixels(width: int, height: int, limits: Limits) -> None:
    """Raises SampleError where a picture has no area or more pixels than the limit."""
    if width <= 0 or height <= 0:
        raise SampleError("bad_header", f"a picture of {width} x {height} has no area")
    if width * height > limits.pixels:
        raise SampleError(
            "oversize", f"a picture of {width} x {height} (at most {limits.pixels} pixels)"
        )


def check_most(value: float, most: float, what: str) -> None:
    """Raises SampleError where the value is above the limit."""
    if value > most:
        raise SampleError("oversize", f"{value:.10g} {what} (at most {most:.10g})")


def check_array(shape: tuple[int, ...], itemsize: int, limits: Limits) -> None:
    """Raises SampleError where an array of this shape is larger than a member may be."""
    check_most(
        math.prod(shape) * itemsize, limits.member_bytes, f"bytes in an array of shape {shape}"
    )
