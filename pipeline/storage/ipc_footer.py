"""How much memory the record batches of an Arrow IPC file take, from its footer and their headers alone.

Compressed, a file of a few KB can hold more than any machine has, and pyarrow has no bound on what it unpacks, nor does it tell beforehand.
The layout is Arrow's format/File.fbs and format/Message.fbs, in FlatBuffers; what is not laid out so raises struct.error or ValueError.
"""

import struct
from typing import Any

import pyarrow as pa

from pipeline.errors import DataError

MAX_BATCH_BYTES = 2**28
"""Of one record batch, unpacked: the most that is read."""
MAX_UNPACKED_BYTES = 2**32
"""Of all compressed record batches of a table that is read whole; one that is not compressed is mapped."""
VERSION = 4
"""V5 of the format, in the numbers of format/Schema.fbs."""
DAMAGED = (pa.ArrowException, OSError, ValueError, MemoryError, struct.error)
"""What reading a damaged file raises, here and in pyarrow."""
Block = tuple[int, int, int]
"""Where a record batch begins, the bytes of its header, those of its body."""


def find_blocks(source: Any) -> list[list[Block]]:
    """The dictionaries and the record batches that the footer of an Arrow IPC file names; pyarrow keeps them to itself (format/File.fbs)."""
    end = source.size() - 10  # the footer's length and "ARROW1" come last
    size = struct.unpack("<i", source.read_at(4, end))[0]
    if not 0 < size <= end:
        raise ValueError(f"its footer has {size} bytes")
    footer = source.read_at(size, end - size)
    root = int(struct.unpack_from("<I", footer)[0])
    found: list[list[Block]] = []
    for number in (2, 3):
        vector = _follow(footer, _field(footer, root, number))
        num = struct.unpack_from("<I", footer, vector)[0] if vector else 0
        found.append(list(struct.iter_unpack("<qi4xq", footer[vector + 4 : vector + 4 + 24 * num])))
    return found


def unpacked_bytes(source: Any, block: Block) -> int:
    """The bytes of a record batch or dictionary in memory, by its header (format/Message.fbs)."""
    start, header_bytes, body_bytes = block
    if min(block) < 0:
        raise ValueError("a size in the footer is negative")
    if header_bytes + body_bytes > source.size():
        raise ValueError("a record batch is larger than the file")
    if header_bytes > MAX_BATCH_BYTES:
        return header_bytes + body_bytes
    header = source.read_at(header_bytes, start)
    message = _follow(header, 8 if header[:4] == b"\xff" * 4 else 4)
    table = _follow(header, _field(header, message, 2))
    # a dictionary, in which a record batch lies
    if struct.unpack_from("<B", header, _field(header, message, 1))[0] == 2:
        table = _follow(header, _field(header, table, 1))
    buffers = _follow(header, _field(header, table, 2))
    version, own_metadata = _field(header, message, 0), _field(header, message, 4)
    if own_metadata and (not version or struct.unpack_from("<h", header, version)[0] != VERSION):
        # which said there, unseen by us, how it compresses
        raise ValueError("it is of a version of Arrow's format before 1.0")
    if not buffers or not _field(header, table, 3):
        return body_bytes
    total = 0
    for offset, size in struct.iter_unpack(
        "<qq", header[buffers + 4 : buffers + 4 + 16 * struct.unpack_from("<I", header, buffers)[0]]
    ):
        # a compressed buffer begins with its length, -1 where it was left as it is
        total += (
            max(struct.unpack("<q", source.read_at(8, start + header_bytes + offset))[0], size)
            if size
            else 0
        )
    return max(total, body_bytes)


def check_unpacked(source: Any, what: str) -> None:
    """Checks what a reader of the whole file would unpack against what a batch, and a table, may take.

    Raises DataError.
    """
    cure = "write the file again"
    try:
        dictionaries, batches = find_blocks(source)
    except DAMAGED as error:
        raise DataError(f"{what} is not an Arrow IPC file ({error})", cure) from error
    total = 0
    for number, block in enumerate([*dictionaries, *batches], -len(dictionaries)):
        try:
            num_bytes = unpacked_bytes(source, block)
        except DAMAGED as error:
            raise DataError(
                f"{what} is damaged in the header of record batch {number} ({error})", cure
            ) from error
        # as it is, a batch takes no more than the file
        total += num_bytes if num_bytes > block[2] else 0
        too_large = num_bytes > max(MAX_BATCH_BYTES, block[2])
        if too_large or (number < 0 and num_bytes > MAX_BATCH_BYTES) or total > MAX_UNPACKED_BYTES:
            raise DataError(
                f"{what}: unpacked, its record batches take {max(total, num_bytes)} bytes or more; "
                f"one may take {MAX_BATCH_BYTES}, all {MAX_UNPACKED_BYTES}",
                f"{cure} without compression",
            )


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a FlatBuffers table lies; 0 where it is left out."""
    fields = table - int(struct.unpack_from("<i", data, table)[0])
    known = 4 + 2 * number < struct.unpack_from("<H", data, fields)[0]
    offset = int(struct.unpack_from("<H", data, fields + 4 + 2 * number)[0]) if known else 0
    return table + offset if offset else 0


def _follow(data: bytes, position: int) -> int:
    """Where a FlatBuffers offset leads; 0 where it is left out."""
    return position + int(struct.unpack_from("<I", data, position)[0]) if position else 0
