"""Tar bytes -> members, with every damage named. Nothing is extracted, and no name and no size is trusted.

Other readers take the first bad header for the end of the archive and say nothing. This one scans on in blocks to the next
valid header, goes on behind zero blocks, and checks that the archive ends with two of them.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

BLOCK = 512
CHUNK = 2**20
MAX_MEMBER_BYTES = 2**28
MAX_EXTENSION_BYTES = 2**20

_ZERO = bytes(BLOCK)
_FILES = b"\x00" + b"07"
_EXTENSIONS = b"xgLK"
_DIRECTORY = b"5"


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A whole file of the archive; `data` is None where it was not asked for."""

    name: str
    offset: int
    size: int
    data: bytes | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """A stretch of the archive that gives no member; `named` says that a valid header gave the name, else it is a guess or empty."""

    name: str
    offset: int
    reason: str
    detail: str
    named: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Header:
    name: str
    size: int
    kind: bytes


def read_members(
    file: BinaryIO, load: Callable[[str], bool], *, max_bytes: int = MAX_MEMBER_BYTES, observe: Callable[[bytes], object] | None = None
) -> Iterator[Member | Damage]:
    """The members of a seekable tar (ustar, pax and GNU long names) in order, one in memory at a time; `load` says by name whose data is wanted.

    `observe` is fed name, size and data of each whole member; without it, data that nobody wants is skipped by seeking.
    """
    return iter(_Tar(file, load, max_bytes, observe))


class _Tar:
    def __init__(self, file: BinaryIO, load: Callable[[str], bool], max_bytes: int, observe: Callable[[bytes], object] | None) -> None:
        self._file, self._load, self._max_bytes, self._observe = file, load, max_bytes, observe
        self._end = file.seek(0, io.SEEK_END)
        self._at = 0
        self._zeros = 0
        self._cut = False
        self._extension: dict[str, str] = {}

    def __iter__(self) -> Iterator[Member | Damage]:
        while self._at < self._end:
            block = self._read(self._at, BLOCK)
            if block == _ZERO:
                self._zeros += 1
                self._at += BLOCK
                continue
            header = _parse(block)
            if header is None:
                yield self._bad_header(block)
                continue
            if self._zeros == 1:
                yield Damage(name="", offset=self._at - BLOCK, reason="bad_header", detail="one zero block between members", named=False)
            self._zeros = 0
            yield from self._entry(header)
        if self._zeros < 2 and not self._cut:
            yield Damage(name="", offset=self._end, reason="truncated", detail="the archive does not end with two zero blocks", named=False)

    def _entry(self, header: _Header) -> Iterator[Member | Damage]:
        offset, data_at = self._at, self._at + BLOCK
        name, size = header.name, header.size
        if header.kind not in _EXTENSIONS:
            extension, self._extension = self._extension, {}
            name = extension.get("path", name)
            size = int(extension.get("size", size))
        problem = self._problem(header.kind, name, size)
        if header.kind not in _FILES + _EXTENSIONS + _DIRECTORY:
            self._at = data_at
        elif data_at + size > self._end:
            problem = ("truncated", f"{self._end - data_at} of its {size} bytes are there")
            self._at = self._next_header(data_at)
            self._cut = self._at >= self._end
        else:
            self._at = data_at + -(-size // BLOCK) * BLOCK
        if problem:
            yield Damage(name=name, offset=offset, reason=problem[0], detail=problem[1], named=True)
        elif header.kind in _EXTENSIONS:
            yield from self._extend(header.kind, offset, size)
        elif header.kind != _DIRECTORY:
            yield Member(name=name, offset=offset, size=size, data=self._data(name, data_at, size))

    def _problem(self, kind: bytes, name: str, size: int) -> tuple[str, str] | None:
        if kind in _EXTENSIONS:
            return ("bad_header", f"an extension header of {size} bytes") if size > MAX_EXTENSION_BYTES else None
        if kind == _DIRECTORY:
            return None
        if kind not in _FILES:
            return "wrong_type", f"a link, device or other special entry (type {kind!r}) is never followed"
        if name.startswith("/") or ".." in name.split("/"):
            return "bad_header", "an absolute name or one with .. is refused"
        return ("oversize", f"{size} bytes, more than {self._max_bytes}") if size > self._max_bytes else None

    def _extend(self, kind: bytes, offset: int, size: int) -> Iterator[Damage]:
        data = self._read(offset + BLOCK, size)
        if kind == b"L":
            self._extension["path"] = _text(data)
        elif kind == b"x":
            records = _pax(data)
            if records is None or "GNU.sparse.major" in records or not records.get("size", "0").isdecimal():
                self._extension = {}
                yield Damage(name="", offset=offset, reason="bad_header", detail="a pax header that cannot be read", named=False)
            else:
                self._extension |= records

    def _data(self, name: str, at: int, size: int) -> bytes | None:
        wanted = self._load(name)
        if self._observe is None:
            return self._read(at, size) if wanted else None
        self._observe(f"{name}\0{size}\0".encode())
        if wanted:
            data = self._read(at, size)
            self._observe(data)
            return data
        for start in range(at, at + size, CHUNK):
            self._observe(self._read(start, min(CHUNK, at + size - start)))
        return None

    def _read(self, at: int, size: int) -> bytes:
        self._file.seek(at)
        return self._file.read(size)

    def _bad_header(self, block: bytes) -> Damage:
        start = self._at - BLOCK * (self._zeros == 1)
        if len(block) < BLOCK:
            self._at, self._cut = self._end, True
            return Damage(name="", offset=start, reason="truncated", detail="the archive is cut inside a header", named=False)
        self._extension = {}
        self._at = self._next_header(self._at + BLOCK)
        name = _text(block[:100]) if block[257:262] == b"ustar" else ""
        return Damage(name=name, offset=start, reason="bad_header", detail=f"{self._at - start} bytes without a valid header", named=False)

    def _next_header(self, at: int) -> int:
        """The offset of the next valid ustar header at or behind `at`, or the end; counts the zero blocks right before it."""
        self._zeros = 0
        while at < self._end:
            chunk = self._read(at, CHUNK)
            for i in range(0, len(chunk), BLOCK):
                block = chunk[i : i + BLOCK]
                if block[257:262] == b"ustar" and _parse(block) is not None:
                    self._zeros = 0
                    return at + i
                self._zeros = self._zeros + 1 if block == _ZERO else 0
            at += len(chunk)
        return self._end


def _parse(block: bytes) -> _Header | None:
    if len(block) < BLOCK:
        return None
    checksum, size = _number(block[148:156]), _number(block[124:136])
    if size is None or size < 0 or checksum != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        return None
    name, prefix = _text(block[:100]), _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    return _Header(name=f"{prefix}/{name}" if prefix else name, size=size, kind=block[156:157])


def _number(field: bytes) -> int | None:
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big") - (256 ** (len(field) - 1) if field[0] == 0xFF else 0)
    try:
        return int(field.split(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        return None


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "backslashreplace")


def _pax(data: bytes) -> dict[str, str] | None:
    """The records "LENGTH KEY=VALUE\\n" of a pax header, None where they cannot be read."""
    records = {}
    while data:
        length = data.partition(b" ")[0]
        if not length.isdigit() or not len(length) + 1 < int(length) <= len(data):
            return None
        key, equals, value = data[len(length) + 1 : int(length)].partition(b"=")
        if not equals or not value.endswith(b"\n"):
            return None
        records[_text(key)] = _text(value[:-1])
        data = data[int(length) :]
    return records
