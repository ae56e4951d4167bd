"""Finds and parses tar headers and their extension records.

Format: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; GNU tar for long names
and base-256 numbers.
"""

import re
from struct import Struct
from zlib import adler32

from pipeline.shards.decompress import BLOCK

FILES = b"\x00" + b"07"
"""Kinds of regular files."""
DIRECTORY = b"5"
WITHOUT_DATA = b"12346"
"""Kinds that have no data, whatever their size field contains: links, devices and pipes."""
EXTENSIONS = b"xgLK"
"""Kinds of headers that extend the next one: pax (x, g), GNU long name (L) and long link (K)."""

MTIME_RECORD = re.compile(rb"([0-9]{1,3}) mtime=[0-9.]{1,64}\n")
MAGIC = b"ustar"
MAGIC_AT = 257
"""Position of MAGIC in a header."""
_LAYOUT = Struct("100s 24x 12s 12x 8s 1s 100x 8s 80x 155s 12x")
"""name, size, checksum, kind, magic and version, prefix"""

Header = tuple[str, int, bytes]
"""Name, size and kind of an entry."""


def hidden_header(data: bytes, start: int, end: int) -> int | None:
    """Position of a valid header at a block boundary of a member's data [start, end), if any."""
    # a strided slice takes the first byte of MAGIC from every block, which filters all blocks at
    # the speed of memory
    candidates = data[start + MAGIC_AT : end : BLOCK]
    i = candidates.find(b"u")
    while i >= 0:
        at = start + i * BLOCK
        if data.startswith(MAGIC, at + MAGIC_AT) and parse_header(data, at) is not None:
            return at
        i = candidates.find(b"u", i + 1)
    return None


def find_header(data: bytes, start: int, end: int | None = None) -> int | None:
    """Position of the first valid header that begins in [start, end), at any byte, if any."""
    stop = len(data) if end is None else min(end + MAGIC_AT + len(MAGIC) - 1, len(data))
    at = data.find(MAGIC, start + MAGIC_AT, stop)
    while at >= 0:
        if parse_header(data, at - MAGIC_AT) is not None:
            return at - MAGIC_AT
        at = data.find(MAGIC, at + 1, stop)
    return None


def parse_header(data: bytes, at: int) -> Header | None:
    """Parse the header at a position; None if it is cut short, or checksum or size is invalid."""
    if len(data) < at + BLOCK:
        return None
    name, size_field, checksum, kind, magic, prefix = _LAYOUT.unpack_from(data, at)
    total = _checksum(data, at)
    # the usual spelling is compared as bytes, which is faster than parsing it
    if checksum != b"%06o\0 " % total and _number(checksum) != total:
        return None
    size = _number(size_field)
    if size is None or size < 0:
        return None
    text = text_of(name)
    # GNU tar ("ustar  ") uses the bytes of the prefix for other fields
    if prefix[0] and magic[:6] == b"ustar\0":
        text = f"{text_of(prefix)}/{text}"
    return text, size, kind


def _checksum(data: bytes, at: int) -> int:
    """Sum of a header's bytes, with the checksum field counted as eight spaces.

    The low half of Adler-32 (RFC 1950) is 1 plus the sum of the bytes modulo 65521, and zlib
    computes it in C. No part has more than 256 bytes, whose sum is below the modulus.
    """
    parts = (
        (adler32(data[at : at + 148]) & 0xFFFF)
        + (adler32(data[at + 156 : at + 404]) & 0xFFFF)
        + (adler32(data[at + 404 : at + BLOCK]) & 0xFFFF)
    )
    return parts - 3 + 8 * ord(" ")


def _number(field: bytes) -> int | None:
    """Parse an octal number, or a signed base-256 number (GNU tar, first byte 0x80 or 0xFF)."""
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
    """Decode a zero-terminated name; invalid UTF-8 becomes backslash escapes."""
    return str(field.partition(b"\0")[0], "utf-8", "backslashreplace")


def extension_records(kind: bytes, data: bytes) -> dict[str, str] | None:
    """Records of an extension header that apply to the next member, None if unreadable.

    Headers of kind g and K yield none: global records are ignored, and links are never followed.
    """
    if kind == b"L":
        return {"path": text_of(data)}
    if kind != b"x":
        return {}
    records = _pax_records(data)
    # the data of a sparse file is a map and fragments, not its content
    if records is None or "GNU.sparse.major" in records or not _is_size(records.get("size", "0")):
        return None
    return records


def _is_size(value: str) -> bool:
    return value.isascii() and value.isdecimal() and len(value) < 20


def _pax_records(data: bytes) -> dict[str, str] | None:
    """Parse the records "LENGTH KEY=VALUE\\n" of a pax header, None if malformed."""
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
