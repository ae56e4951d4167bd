"""Decoding of .npy arrays to float32, without pickle."""

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

# Errors that NumPy raises for malformed headers: a header should be a Python literal, but may be
# any text, or be nested too deeply.
_HEADER_ERRORS = (
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    OverflowError,
    RecursionError,
    tokenize.TokenError,
)


def decode_tensor(data: bytes, spec: TensorSpec, limits: Limits) -> Array:
    """Decode an .npy file of shape `spec.shape` to float32. Raises SampleError."""
    shape, dtype = npy_header(data)
    if dtype.kind not in "biuf":
        raise SampleError("wrong_type", f"Array of dtype {dtype}, which is not numeric.")
    check_array(shape, dtype.itemsize, limits)
    if shape != spec.shape:
        raise SampleError("wrong_type", f"Array of shape {shape} instead of {spec.shape}.")
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes > len(data):
        raise SampleError(
            "truncated", f"File cut short: {len(data):,} of at least {num_bytes:,} bytes."
        )
    try:
        values = np.load(io.BytesIO(data), allow_pickle=False)
    except ValueError as error:
        raise SampleError("truncated", f"File cut short ({error}).") from error
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise SampleError(
            "non_finite",
            f"{np.count_nonzero(~np.isfinite(values))} of {values.size} values are not finite"
            " as float32.",
        )
    return np.asarray(values)


def npy_header(data: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read shape and dtype from the header of an .npy file. Raises SampleError."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
    except ValueError as error:
        raise SampleError("undecodable", f"Not an .npy file ({error}).") from error
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    try:
        shape, _, dtype = read(file)
    except _HEADER_ERRORS as error:
        raise SampleError(
            "truncated" if "EOF: reading" in str(error) else "bad_header",
            f"Unreadable header of the .npy file ({error}).",
        ) from error
    return tuple(shape), dtype
