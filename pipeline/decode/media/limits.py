"""Checks of sizes and counts against `Limits`, before anything is decoded."""

import math

from pipeline.errors import SampleError
from pipeline.shards.limits import Limits


def check_pixels(width: int, height: int, limits: Limits) -> None:
    """Raise SampleError if an image has no area or more pixels than the limit."""
    if width <= 0 or height <= 0:
        raise SampleError("bad_header", f"Image without area: {width} x {height} pixels.")
    if width * height > limits.pixels:
        raise SampleError(
            "oversize",
            f"Image too large: {width} x {height} pixels (limits.pixels: {limits.pixels}).",
        )


def check_limit(value: float, field: str, limits: Limits, unit: str) -> None:
    """Raise SampleError if a number of units is above a field of the limits."""
    limit = getattr(limits, field)
    if value > limit:
        raise SampleError(
            "oversize", f"Too many {unit}: {value:.10g} (limits.{field}: {limit:.10g})."
        )


def check_array(shape: tuple[int, ...], itemsize: int, limits: Limits) -> None:
    """Raise SampleError if an array of this shape exceeds the size limit of a member."""
    num_bytes = math.prod(shape) * itemsize
    check_limit(num_bytes, "member_bytes", limits, f"bytes in an array of shape {shape}")
