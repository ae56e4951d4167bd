"""Where the rows of a mapped part are: the layout of its record batches, and copies by address."""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.arrays import Array, Int64Array, UInt8Array

BLOCK = np.dtype([("offset", "<i8"), ("head", "<i4"), ("padding", "<i4"), ("body", "<i8")])
"""Entry of the footer for a record batch (https://arrow.apache.org/docs/format/Columnar.html)."""
FOOTER_BATCHES = 3
"""Number of the field `recordBatches` in the table Footer of Arrow's File.fbs."""
MAX_BYTES = 2**63
"""NumPy refuses arrays of this size, even if their rows overlap."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Row i of a mapped part is at `first + i * row_bytes + i // batch_rows * gap`.

    The address is valid while the map exists.

    Attributes:
        first: address of row 0.
        gap: bytes between the rows of two record batches.
    """

    first: int
    gap: int


def contains(data: pa.Buffer, rows: Array) -> bool:
    """Whether rows are a view of the bytes of a file."""
    return bool(data.address <= rows.ctypes.data < data.address + data.size)


def layout_of(data: pa.Buffer, first: Array, last: Array) -> Layout | None:
    """The layout of a part whose first and last record batch contain these rows, (B, *shape).

    Returns None if the record batches do not all have the same form and distance, or are
    compressed.
    """
    address, blocks = first.ctypes.data, _blocks(data)
    complete = blocks[: max(1, len(blocks) - 1)]  # the last may be smaller
    stride = int(complete["head"][0] + complete["body"][0])
    steps = np.arange(len(blocks)) * stride
    if not (
        contains(data, first)
        and last.ctypes.data == address + int(steps[-1])
        and (blocks["offset"] == blocks["offset"][0] + steps).all()
    ):
        return None
    # equal bytes describe equal bodies, so that the first batch need only be checked for all
    heads = np.ndarray(
        (len(complete), int(complete["head"][0])),
        np.uint8,
        data,
        int(blocks["offset"][0]),
        (stride, 1),
    )
    same = (heads == heads[0]).all() and (complete["head"] == complete["head"][0]).all()
    return Layout(first=address, gap=stride - first.nbytes) if same else None


def copy_rows(addresses: Int64Array, num_bytes: int) -> UInt8Array:
    """Copy the bytes at each address (n,), (n, num_bytes), without a loop in Python or the GIL.

    All parts are in one address space, so one NumPy index gathers rows of any number of them. Only
    the given addresses are read; what is between them need not be mapped.
    """
    low = int(addresses.min())
    span = int(addresses.max()) - low + num_bytes
    size = num_bytes if span * num_bytes < MAX_BYTES else math.gcd(num_bytes, 2**15)
    index = addresses - low
    if size < num_bytes:
        index = index[:, None] + np.arange(0, num_bytes, size)
    copied: UInt8Array = np.asarray(_Windows(low, span, size))[index]
    return copied.reshape(len(addresses), num_bytes)


class _Windows:
    """All windows of `size` bytes in a range of memory as a read-only array, a byte apart."""

    def __init__(self, address: int, span: int, size: int) -> None:
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "data": (address, True),
            "shape": (span - size + 1, size),
            "strides": (1, 1),
        }


def _blocks(data: pa.Buffer) -> Array:
    """The footer's entries of the record batches; pyarrow has verified the footer."""
    end = data.size - 10  # 4 bytes of length, then the magic
    footer = end - int(np.frombuffer(data, "<i4", 1, end)[0])

    def number(at: int, kind: str = "<u4") -> int:
        return int(np.frombuffer(data, kind, 1, at)[0])

    table = footer + number(footer)
    fields = table - number(table, "<i4")
    field = table + number(fields + 4 + 2 * FOOTER_BATCHES, "<u2")
    vector = field + number(field)
    return np.frombuffer(data, BLOCK, number(vector), vector + 4)
