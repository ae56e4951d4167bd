"""The headers of a tar: found, parsed, and their extended records read."""

import re
from struct import Struct
from zlib import adler32

from pipeline.shards.decompress import BLOCK

EXTENSIONS = b"xgLK"

TIME = re.compile(rb"([0-9]{1,3}) mtime=[0-9.]{1,64}\n")

MAGIC = b"ustar"

MAGIC_AT = 257

_LAYOUT = Struct("100s 24x 12s 12x 8s 1s 100x 8s 80x 155s 12x")
"""name, size, checksum, kind, magic and version, prefix (POSIX.1-2017, pax: ustar Interchange Format)"""

Header = tuple[str, int, bytes]
"""Name, size and kind of an entry."""


def hidden_header(data: bytes, start: int, end: int) -> int | None:
    """Where a block of a member's data, which lies from `start` to `end`, is the header of another member."""
    column = data[start + MAGIC_AT : end : BLOCK]
    i = column.find(b"u")
    while i >= 0:
        at = start + i * BLOCK
        if data.startswith(MAGIC, at + MAGIC_AT) and parse_header(data, at) is not None:
            return at
        i = column.find(b"u", i + 1)
    return None


def find_header(data: bytes, start: int, end: int | None = None) -> int | None:
    """Where, from `start` on and before `end`, the first valid header lies, at whatever byte."""
    stop = len(data) if end is None else min(end + MAGIC_AT + len(MAGIC) - 1, len(data))
    at = data.find(MAGIC, start + MAGIC_AT, stop)
    while at >= 0:
        if parse_header(data, at - MAGIC_AT) is not None:
            return at - MAGIC_AT
        at = data.find(MAGIC, at + 1, stop)
    return None


def parse_header(data: bytes, at: int) -> Header | None:
    if len(data) < at + BLOCK:
        return None
    name, size_field, checksum, kind, magic, prefix = _LAYOUT.unpack_from(data, at)
    total = _sum(data, at)
    if checksum != b"%06o\0 " % total and _number(checksum) != total:
        return None
    size = _number(size_field)
    if size is None or size < 0:
        return None
    text = text_of(name)
    if prefix[0] and magic[:6] == b"ustar\0":
        text = f"{text_of(prefix)}/{text}"
    return text, size, kind


def _sum(data: bytes, at: int) -> int:
    """The checksum of a header: the sum of its bytes, those of the checksum itself taken for spaces.

    The low half of Adler-32 (RFC 1950) is 1 plus the sum, modulo 65521, which the sum of 256 bytes does not reach.
    """
    parts = (
        (adler32(data[at : at + 148]) & 0xFFFF)
        + (adler32(data[at + 156 : at + 404]) & 0xFFFF)
        + (adler32(data[at + 404 : at + BLOCK]) & 0xFFFF)
    )
    return parts - 3 + 8 * ord(" ")


def _number(field: bytes) -> int | None:
    digits = field.strip(b" \0")
    if digits.isdigit():
        try:
            return int(digits, 8)
        except ValueError:
            return None
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big") - (
            256 ** (len(field) - 1) if field[0] == 0xFF else 0
        )
    return None if digits else 0


def text_of(field: bytes) -> str:
    return str(field.partition(b"\0")[0], "utf-8", "backslashreplace")


def extension_records(kind: bytes, data: bytes) -> dict[str, str] | None:
    """What an extension header says of the member behind it, None where it cannot be read."""
    if kind == b"L":
        return {"path": text_of(data)}
    if kind != b"x":
        return {}
    records = _pax(data)
    if records is None or "GNU.sparse.major" in records or not _is_size(records.get("size", "0")):
        return None
    return records


def _is_size(value: str) -> bool:
    return value.isascii() and value.isdecimal() and len(value) < 20


def _pax(data: bytes) -> dict[str, str] | None:
    """The records "LENGTH KEY=VALUE\\n" of a pax header, None where they cannot be read."""
    records = {}
    while data:
        length = data.partition(b" ")[0]
        if (
            not length.isdigit()
            or len(length) > 8
            or not len(length) + 1 < int(length) <= len(data)
        ):
            return None
        key, equals, value = data[len(length) + 1 : int(length)].partition(b"=")
        if not equals or not value.endswith(b"\n"):
            return None
        records[text_of(key)] = text_of(value[:-1])
        data = data[int(length) :]
    return records


FILES = b"\x00" + b"07"

DIRECTORY = b"5"

WITHOUT_DATA = b"12346"
