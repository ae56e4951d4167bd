"""Tar bytes -> members, with every damage named and every byte accounted for. Nothing is extracted, and no name and no size is trusted.

Other readers take the first bad header for the end of the archive and say nothing. This one looks for the next valid header, at whatever byte it
lies, goes on behind zero blocks, and checks that the archive ends with two of them. A size that leads past another member's header is a lie.
"""

import re
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple
from zlib import adler32

from pipeline.shards.decompress import BLOCK, WINDOW, Stream

MAX_EXTENSION_BYTES = 2**20

_ZERO = bytes(BLOCK)
_NEAR = WINDOW // 4
"""Bytes in which most members lie with what follows them."""
_FILES = b"\x00" + b"07"
_EXTENSIONS = b"xgLK"
_DIRECTORY = b"5"
_WITHOUT_DATA = b"12346"
_TIME = re.compile(rb"([0-9]{1,3}) mtime=[0-9.]{1,64}\n")
_MAGIC = b"ustar"
_MAGIC_AT = 257
_LAYOUT = Struct("100s 24x 12s 12x 8s 1s 100x 8s 80x 155s 12x")
"""name, size, checksum, kind, magic and version, prefix (POSIX.1-2017, pax: ustar Interchange Format)"""


class Member(NamedTuple):
    """A whole file of the archive: `size` bytes from `start` of the stream's window on, as long as that does not move; `num_bytes` with headers and padding."""

    name: str
    offset: int
    num_bytes: int
    start: int
    size: int


class Damage(NamedTuple):
    """A stretch of the archive that gives no member; `named` says that a valid header gave the name, else it is a guess or empty."""

    name: str
    offset: int
    num_bytes: int
    reason: str
    detail: str
    named: bool


class Framing(NamedTuple):
    """Bytes that hold no file: directories, and the blocks of zeros at the end."""

    num_bytes: int


Item = Member | Damage | Framing


_Header = tuple[str, int, bytes]
"""Name, size and kind of an entry."""


def read_members(stream: Stream, max_bytes: int) -> Iterator[Item]:
    """The archive (ustar, pax and GNU long names) item by item, no byte left out; a member of more than `max_bytes` is never held."""
    return iter(_Tar(stream, max_bytes))


class _Tar:
    def __init__(self, stream: Stream, max_bytes: int) -> None:
        self._stream, self._max_bytes = stream, max_bytes
        self._zeros = 0
        self._cut = False
        self._next: tuple[int, _Header | None] = (-1, None)
        # of the extension headers before a member: what they say (None: unreadable), and their bytes
        self._extension: dict[str, str] | None = {}
        self._pending = 0

    def __iter__(self) -> Iterator[Item]:
        stream = self._stream
        while have := stream.ahead(_NEAR):
            self._cut = False
            offset, header = self._next
            if offset != stream.offset:
                header = _parse(stream.data, stream.at)
            if header is not None:
                if self._zeros:
                    yield self._end_of_zeros()
                yield from self._usual(header)
            elif have >= BLOCK and stream.data[stream.at : stream.at + BLOCK] == _ZERO:
                self._zeros += 1
                stream.at += BLOCK
            else:
                yield from self._bad_header(have)
        yield from self._end()

    def _usual(self, header: _Header | None) -> Iterator[Item]:
        """Members of which nothing is to be said, which lie in the window with what follows them: `_entry` in short, for nearly all that there are."""
        stream, first = self._stream, header
        data, at, base, held = (
            stream.data,
            stream.at,
            stream.offset - stream.at,
            self._extension == {} and not self._pending,
        )
        while header is not None:
            start, (name, size, kind) = at, header
            if kind == b"x" and (timed := self._timed(data, at, size)):
                start, (name, size, kind) = at + 2 * BLOCK, timed
            behind = start + BLOCK + size + -size % BLOCK
            if (
                behind + BLOCK > len(data)
                or kind != b"0"
                or not held
                or size > self._max_bytes
                or ".." in name
                or name[:1] == "/"
            ):
                break
            following = _parse(data, behind)
            if following is None and data[behind : behind + BLOCK] != _ZERO:
                break
            if _hidden_header(data, start + BLOCK, start + BLOCK + size) is not None:
                break
            stream.at = behind
            yield Member(name, base + start, behind - at, start + BLOCK, size)
            at, header = behind, following
        self._next = (base + at, header)
        if header is first and header is not None:
            if header[2] in _EXTENSIONS:
                yield from self._extend(header[2], header[1])
            else:
                yield self._entry(header)

    def _timed(self, data: bytes, at: int, size: int) -> _Header | None:
        """The header behind an extension header that tells the time alone, as webdataset writes one before every member."""
        told = _TIME.match(data, at + BLOCK, at + BLOCK + min(size, BLOCK))
        return (
            _parse(data, at + 2 * BLOCK)
            if told and told.end() - told.start() == size == int(told[1])
            else None
        )

    def _end_of_zeros(self) -> Item:
        """Tells of the blocks of zeros before the position."""
        zeros, self._zeros = self._zeros, 0
        if zeros > 1:
            return Framing(zeros * BLOCK)
        return Damage(
            "",
            self._stream.offset - BLOCK,
            BLOCK,
            "bad_header",
            "one zero block between members",
            False,
        )

    def _end(self) -> Iterator[Item]:
        offset = self._stream.offset
        if self._pending:
            name = (self._extension or {}).get("path", "")
            yield self._damage(
                name,
                offset - self._zeros * BLOCK,
                0,
                "truncated",
                "an extension header without its member",
                named=False,
            )
        if self._zeros:
            yield Framing(self._zeros * BLOCK)
        if self._stream.problem:
            reason, detail = self._stream.problem
            yield self._damage("", offset, 0, reason, f"the shard ends here: {detail}", named=False)
        elif self._zeros < 2 and not self._cut:
            yield self._damage(
                "",
                offset,
                0,
                "truncated",
                "the archive does not end with two zero blocks",
                named=False,
            )

    def _entry(self, header: _Header) -> Item:
        stream, offset = self._stream, self._stream.offset
        name, size, kind = header
        problem = (
            None
            if kind in _FILES or kind == _DIRECTORY
            else (
                "wrong_type",
                f"a link, device or other special entry (type {kind!r}) is never followed",
            )
        )
        guessed = False
        if self._extension != {}:
            extension, self._extension = self._extension, {}
            if extension is None:
                problem, guessed = (
                    problem or ("bad_header", "its extension header cannot be read"),
                    True,
                )
            else:
                name, size = extension.get("path", name), int(extension.get("size", size))
        if kind in _WITHOUT_DATA:
            size = 0
        if (
            (".." in name or name.startswith("/"))
            and not problem
            and kind != _DIRECTORY
            and (name.startswith("/") or ".." in name.split("/"))
        ):
            problem = ("bad_header", "an absolute name or one with .. is refused")
        if size > self._max_bytes:
            return self._oversize(name, offset, size)
        short = self._bring(size, name)
        start = stream.at + BLOCK
        if short is not None:
            stream.at = start + short
            detail = f"of its {size} bytes {min(short, size)} are there" + (
                "" if self._cut else ", where another member begins"
            )
            return self._damage(name, offset, BLOCK + short, "truncated", detail)
        stream.at = min(start + size + -size % BLOCK, len(stream.data))
        if not problem and self._goes_on(start + size):
            problem = (
                "truncated",
                f"its size of {size} bytes is too small: what is behind them is neither padding nor a header",
            )
        num_bytes = stream.offset - offset
        if self._pending:
            num_bytes = self._with_pending(num_bytes)
        if problem:
            return Damage(name, offset, num_bytes, *problem, not guessed)
        if kind == _DIRECTORY:
            return Framing(num_bytes)
        return Member(name, offset, num_bytes, start, size)

    def _bring(self, size: int, name: str = "") -> int | None:
        """Brings a member's data into the window; returns how many bytes of it are there if some are not, or if another member begins inside.

        Then the size is wrong, or bytes went missing.
        """
        stream, padded, searched = self._stream, size + -size % BLOCK, BLOCK
        wanted = 2 * BLOCK + padded
        have = stream.ahead(wanted if wanted < WINDOW else WINDOW)
        nested = name.endswith(".tar")  # an archive may hold others
        while have < wanted and not stream.ended:
            # a long one is searched as it comes, so that a size that is a lie does not cost its reading
            found = None if nested else _find_header(stream.data, stream.at + searched)
            if found is not None and found < stream.at + BLOCK + padded:
                return found - stream.at - BLOCK
            searched = max(BLOCK, have - BLOCK)
            have = stream.ahead(min(wanted, 2 * have))
        start, there = stream.at + BLOCK, have - BLOCK
        hidden = None if nested else _hidden_header(stream.data, start, start + min(there, size))
        if hidden is None and not nested and (there < size or not self._followed(start + padded)):
            hidden = _find_header(stream.data, start, start + min(there, padded))
        if hidden is not None:
            return hidden - start
        self._cut = there < size
        return there if there < size else None

    def _followed(self, at: int) -> bool:
        """Whether what stands behind a member is what may stand there."""
        data = self._stream.data
        if at + BLOCK > len(data):
            return True
        header = _parse(data, at)
        self._next = (self._stream.offset + at - self._stream.at, header)
        return header is not None or data[at : at + BLOCK] == _ZERO

    def _goes_on(self, end: int) -> bool:
        """Whether a member does not end where its size says: no zeros pad it up to the position, and no header follows."""
        return bool(self._stream.data[end : self._stream.at].strip(b"\0")) and not self._followed(
            self._stream.at
        )

    def _oversize(self, name: str, offset: int, size: int) -> Damage:
        """A member whose size is not believed: its end is where the next header is found."""
        self._stream.at += BLOCK
        self._skip()
        self._cut = self._stream.at == len(self._stream.data)
        there = self._stream.offset - offset - BLOCK
        detail = (
            f"{size} bytes, more than {self._max_bytes}; {there} bytes are before the next member"
        )
        return self._damage(
            name, offset, BLOCK + there, "oversize" if there >= size else "truncated", detail
        )

    def _extend(self, kind: bytes, size: int) -> Iterator[Damage]:
        stream, offset = self._stream, self._stream.offset
        if size > MAX_EXTENSION_BYTES:
            stream.at += BLOCK
            self._skip()
            yield self._damage(
                "",
                offset,
                stream.offset - offset,
                "bad_header",
                f"an extension header of {size} bytes",
                named=False,
            )
            self._extension = None
            return
        short = self._bring(size)
        start = stream.at + BLOCK
        records = _records(kind, stream.data[start : start + size]) if short is None else None
        stream.at = min(
            start + (size + -size % BLOCK if short is None else short), len(stream.data)
        )
        if records is not None:
            self._pending += stream.offset - offset
            self._extension = None if self._extension is None else self._extension | records
            return
        detail = (
            "an extension header that is cut"
            if self._cut
            else "an extension header that cannot be read"
        )
        yield self._damage(
            "",
            offset,
            stream.offset - offset,
            "truncated" if self._cut else "bad_header",
            detail,
            named=False,
        )
        self._extension = None

    def _bad_header(self, have: int) -> Iterator[Item]:
        stream = self._stream
        num_zeros = self._zeros == 1
        if num_zeros:
            self._zeros = 0
        elif self._zeros:
            yield self._end_of_zeros()
        start = stream.offset - num_zeros * BLOCK
        name = (
            _text(stream.data[stream.at : stream.at + 100])
            if stream.data.startswith(_MAGIC, stream.at + _MAGIC_AT)
            else ""
        )
        if have < BLOCK:
            self._cut = True
            stream.at += have
            yield self._damage(
                "",
                start,
                stream.offset - start,
                "truncated",
                "the archive is cut inside a header",
                named=False,
            )
            return
        stream.at += 1
        self._skip()
        num_bytes = stream.offset - start
        yield self._damage(
            name,
            start,
            num_bytes,
            "bad_header",
            f"{num_bytes} bytes without a valid header",
            named=False,
        )
        self._extension = {}

    def _skip(self) -> None:
        """Goes to the next valid header, or to the blocks of zeros at the end."""
        stream = self._stream
        while True:
            stream.ahead(8 * BLOCK)
            found = _find_header(stream.data, stream.at)
            if found is not None:
                stream.at = found
                return
            if stream.ended:
                zeros = len(stream.data) - max(stream.at, len(stream.data.rstrip(b"\0")))
                stream.at = len(stream.data) - (zeros - zeros % BLOCK if zeros >= 2 * BLOCK else 0)
                return
            stream.at = max(stream.at, len(stream.data) - 4 * BLOCK)

    def _damage(
        self,
        name: str,
        offset: int,
        num_bytes: int,
        reason: str,
        detail: str,
        *,
        named: bool = True,
    ) -> Damage:
        return Damage(name, offset, self._with_pending(num_bytes), reason, detail, named)

    def _with_pending(self, num_bytes: int) -> int:
        pending, self._pending = self._pending, 0
        return pending + num_bytes


def _hidden_header(data: bytes, start: int, end: int) -> int | None:
    """Where a block of a member's data, which lies from `start` to `end`, is the header of another member."""
    column = data[start + _MAGIC_AT : end : BLOCK]
    i = column.find(b"u")
    while i >= 0:
        at = start + i * BLOCK
        if data.startswith(_MAGIC, at + _MAGIC_AT) and _parse(data, at) is not None:
            return at
        i = column.find(b"u", i + 1)
    return None


def _find_header(data: bytes, start: int, end: int | None = None) -> int | None:
    """Where, from `start` on and before `end`, the first valid header lies, at whatever byte."""
    stop = len(data) if end is None else min(end + _MAGIC_AT + len(_MAGIC) - 1, len(data))
    at = data.find(_MAGIC, start + _MAGIC_AT, stop)
    while at >= 0:
        if _parse(data, at - _MAGIC_AT) is not None:
            return at - _MAGIC_AT
        at = data.find(_MAGIC, at + 1, stop)
    return None


def _parse(data: bytes, at: int) -> _Header | None:
    if len(data) < at + BLOCK:
        return None
    name, size_field, checksum, kind, magic, prefix = _LAYOUT.unpack_from(data, at)
    total = _sum(data, at)
    if checksum != b"%06o\0 " % total and _number(checksum) != total:
        return None
    size = _number(size_field)
    if size is None or size < 0:
        return None
    text = _text(name)
    if prefix[0] and magic[:6] == b"ustar\0":
        text = f"{_text(prefix)}/{text}"
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


def _text(field: bytes) -> str:
    return str(field.partition(b"\0")[0], "utf-8", "backslashreplace")


def _records(kind: bytes, data: bytes) -> dict[str, str] | None:
    """What an extension header says of the member behind it, None where it cannot be read."""
    if kind == b"L":
        return {"path": _text(data)}
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
        records[_text(key)] = _text(value[:-1])
        data = data[int(length) :]
    return records
