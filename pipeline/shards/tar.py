"""Tar bytes -> members, with every damage named and every byte accounted for. Nothing is extracted, and no name and no size is trusted.

Other readers take the first bad header for the end of the archive and say nothing. This one looks for the next valid header, at whatever byte it
lies, goes on behind zero blocks, and checks that the archive ends with two of them. A size that leads past another member's header is a lie.
"""

from collections.abc import Iterator

from pipeline.shards.decompress import BLOCK, WINDOW, Stream
from pipeline.shards.tar_header import (
    DIRECTORY,
    EXTENSIONS,
    FILES,
    MAGIC,
    MAGIC_AT,
    TIME,
    WITHOUT_DATA,
    Header,
    extension_records,
    find_header,
    hidden_header,
    parse_header,
    text_of,
)
from pipeline.shards.tar_items import Framing, Item, Member, TarDamage

MAX_EXTENSION_BYTES = 2**20

_ZERO = bytes(BLOCK)
_NEAR = WINDOW // 4
"""Bytes in which most members lie with what follows them."""


def read_members(stream: Stream, max_bytes: int) -> Iterator[Item]:
    """The archive (ustar, pax and GNU long names) item by item, no byte left out; a member of more than `max_bytes` is never held."""
    return iter(_Tar(stream, max_bytes))


class _Tar:
    def __init__(self, stream: Stream, max_bytes: int) -> None:
        self._stream, self._max_bytes = stream, max_bytes
        self._zeros = 0
        self._cut = False
        self._next: tuple[int, Header | None] = (-1, None)
        # of the extension headers before a member: what they say (None: unreadable), and their bytes
        self._extension: dict[str, str] | None = {}
        self._pending = 0

    def __iter__(self) -> Iterator[Item]:
        stream = self._stream
        while have := stream.ahead(_NEAR):
            self._cut = False
            offset, header = self._next
            if offset != stream.offset:
                header = parse_header(stream.data, stream.at)
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

    def _usual(self, header: Header | None) -> Iterator[Item]:
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
            following = parse_header(data, behind)
            if following is None and data[behind : behind + BLOCK] != _ZERO:
                break
            if hidden_header(data, start + BLOCK, start + BLOCK + size) is not None:
                break
            stream.at = behind
            yield Member(name, base + start, behind - at, start + BLOCK, size)
            at, header = behind, following
        self._next = (base + at, header)
        if header is first and header is not None:
            if header[2] in EXTENSIONS:
                yield from self._extend(header[2], header[1])
            else:
                yield self._entry(header)

    def _timed(self, data: bytes, at: int, size: int) -> Header | None:
        """The header behind an extension header that tells the time alone, as webdataset writes one before every member."""
        told = TIME.match(data, at + BLOCK, at + BLOCK + min(size, BLOCK))
        return (
            parse_header(data, at + 2 * BLOCK)
            if told and told.end() - told.start() == size == int(told[1])
            else None
        )

    def _end_of_zeros(self) -> Item:
        """Tells of the blocks of zeros before the position."""
        zeros, self._zeros = self._zeros, 0
        if zeros > 1:
            return Framing(zeros * BLOCK)
        return TarDamage(
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

    def _entry(self, header: Header) -> Item:
        stream, offset = self._stream, self._stream.offset
        name, size, kind = header
        problem = (
            None
            if kind in FILES or kind == DIRECTORY
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
        if kind in WITHOUT_DATA:
            size = 0
        if (
            (".." in name or name.startswith("/"))
            and not problem
            and kind != DIRECTORY
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
            return TarDamage(name, offset, num_bytes, *problem, not guessed)
        if kind == DIRECTORY:
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
            found = None if nested else find_header(stream.data, stream.at + searched)
            if found is not None and found < stream.at + BLOCK + padded:
                return found - stream.at - BLOCK
            searched = max(BLOCK, have - BLOCK)
            have = stream.ahead(min(wanted, 2 * have))
        start, there = stream.at + BLOCK, have - BLOCK
        hidden = None if nested else hidden_header(stream.data, start, start + min(there, size))
        if hidden is None and not nested and (there < size or not self._followed(start + padded)):
            hidden = find_header(stream.data, start, start + min(there, padded))
        if hidden is not None:
            return hidden - start
        self._cut = there < size
        return there if there < size else None

    def _followed(self, at: int) -> bool:
        """Whether what stands behind a member is what may stand there."""
        data = self._stream.data
        if at + BLOCK > len(data):
            return True
        header = parse_header(data, at)
        self._next = (self._stream.offset + at - self._stream.at, header)
        return header is not None or data[at : at + BLOCK] == _ZERO

    def _goes_on(self, end: int) -> bool:
        """Whether a member does not end where its size says: no zeros pad it up to the position, and no header follows."""
        return bool(self._stream.data[end : self._stream.at].strip(b"\0")) and not self._followed(
            self._stream.at
        )

    def _oversize(self, name: str, offset: int, size: int) -> TarDamage:
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

    def _extend(self, kind: bytes, size: int) -> Iterator[TarDamage]:
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
        records = (
            extension_records(kind, stream.data[start : start + size]) if short is None else None
        )
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
            text_of(stream.data[stream.at : stream.at + 100])
            if stream.data.startswith(MAGIC, stream.at + MAGIC_AT)
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
            found = find_header(stream.data, stream.at)
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
    ) -> TarDamage:
        return TarDamage(name, offset, self._with_pending(num_bytes), reason, detail, named)

    def _with_pending(self, num_bytes: int) -> int:
        pending, self._pending = self._pending, 0
        return pending + num_bytes
