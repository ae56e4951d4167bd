"""Arrays: .npy bytes -> float32, without pickle."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import TensorSpec
from pipeline.errors import SampleError

Array = npt.NDArray[Any]


def decode_tensor(data: bytes, spec: TensorSpec) -> Array:
    """An .npy file of exactly the shape asked for, as float32 (raises SampleError)."""
    shape, dtype = npy_header(data)
    if dtype.kind not in "biuf":
        raise SampleError("wrong_type", f"an array of {dtype}, not of numbers")
    if shape != spec.shape:
        raise SampleError("wrong_type", f"an array of shape {shape}, not {spec.shape}")
    try:
        with np.errstate(over="ignore"):
            values = np.load(io.BytesIO(data), allow_pickle=False).astype(np.float32)
    except (ValueError, EOFError) as error:
        raise SampleError("truncated", str(error)) from error
    if not np.isfinite(values).all():
        raise SampleError("non_finite", f"{np.count_nonzero(~np.isfinite(values))} of {values.size} values are not finite as float32")
    return np.asarray(values)


def npy_header(data: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type that an .npy file states (raises SampleError)."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except (ValueError, EOFError, SyntaxError, TypeError) as error:
        raise SampleError("undecodable", f"not an .npy file ({error})") from error
    return tuple(shape), dtype
