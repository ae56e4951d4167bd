"""Arrays: .npy bytes -> float32, without pickle."""

import io
import math
import tokenize
from typing import Any

import numpy as np

from pipeline.arrays import Array
from pipeline.decode.config import TensorSpec
from pipeline.decode.media.limits import check_array
from pipeline.errors import SampleError
from pipeline.shards.limits import Limits

# What NumPy's reader raises on hostile bytes: the header is a Python literal, which may nest too deep or not be one.
_HOSTILE = (
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    OverflowError,
    RecursionError,
    tokenize.TokenError,
)


def decode_tensor(data: bytes, spec: TensorSpec, limits: Limits) -> Array:
    """An .npy file of exactly the shape asked for, as float32 (raises SampleError)."""
    shape, dtype = npy_header(data)
    if dtype.kind not in "biuf":
        raise SampleError("wrong_type", f"an array of {dtype}, not of numbers")
    check_array(shape, dtype.itemsize, limits)
    if shape != spec.shape:
        raise SampleError("wrong_type", f"an array of shape {shape}, not {spec.shape}")
    if math.prod(shape) * dtype.itemsize > len(data):
        raise SampleError(
            "truncated",
            f"an array of {math.prod(shape) * dtype.itemsize} bytes in a file of {len(data)}",
        )
    try:
        values = np.load(io.BytesIO(data), allow_pickle=False)
    except ValueError as error:
        raise SampleError("truncated", str(error)) from error
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise SampleError(
            "non_finite",
            f"{np.count_nonzero(~np.isfinite(values))} of {values.size} values are not finite as float32",
        )
    return np.asarray(values)


def npy_header(data: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type that an .npy file states (raises SampleError)."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
    except ValueError as error:
        raise SampleError("undecodable", f"not an .npy file ({error})") from error
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    try:
        shape, _, dtype = read(file)
    except _HOSTILE as error:
        raise SampleError(
            "truncated" if "EOF: reading" in str(error) else "bad_header",
            f"the header of the .npy file cannot be read ({error})",
        ) from error
    return tuple(shape), dtype
