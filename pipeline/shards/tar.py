"""A tar reader that resynchronises after damage and accounts for every byte.

Other readers take the first invalid header for the end of the archive and drop the rest silently.
This one searches for the next valid header at any byte, continues after zero blocks, and checks
that the archive ends with two of them. It extracts nothing and trusts no name and no size: a size
that spans the header of another member is wrong. Format: POSIX.1-2017 (ustar, pax), GNU long names.
"""

from collections.abc import Iterator

from pipeline.shards.decompress import BLOCK, WINDOW, Stream
from pipeline.shards.tar_header import (
    DIRECTORY,
    EXTENSIONS,
    FILES,
    MAGIC,
    MAGIC_AT,
    MTIME_RECORD,
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
_ZERO_BLOCK = bytes(BLOCK)
_LOOKAHEAD = WINDOW // 4
"""Bytes loaded before each step; most members fit with the header that follows them."""


def read_members(stream: Stream, max_bytes: int) -> Iterator[Item]:
    """Read an archive item by item; the items cover every byte.

    A member of more than `max_bytes` is reported as damage and never loaded.
    """
    return iter(_TarReader(stream, max_bytes))


class _TarReader:
    def __init__(self, stream: Stream, max_bytes: int) -> None:
        self._stream, self._max_bytes = stream, max_bytes
        self._num_zero_blocks = 0
        # whether the last item ended with the archive, so that a missing end is not reported twice
        self._truncated = False
        # the header that a lookahead parsed, and its offset
        self._parsed: tuple[int, Header | None] = (-1, None)
        # records (None: unreadable) and size of the extension headers before the next member
        self._extension: dict[str, str] | None = {}
        self._extension_bytes = 0

    def __iter__(self) -> Iterator[Item]:
        stream = self._stream
        while available := stream.load(_LOOKAHEAD):
            self._truncated = False
            offset, header = self._parsed
            if offset != stream.offset:
                header = parse_header(stream.data, stream.at)
            if header is not None:
                if self._num_zero_blocks:
                    yield self._zero_blocks()
                yield from self._intact_members(header)
            elif available >= BLOCK and stream.data[stream.at : stream.at + BLOCK] == _ZERO_BLOCK:
                self._num_zero_blocks += 1
                stream.at += BLOCK
            else:
                yield from self._bad_header(available)
        yield from self._end()

    def _intact_members(self, header: Header | None) -> Iterator[Item]:
        """Read members from the window until one needs a closer look.

        A fast path for nearly all members, without a call per check: a regular file with a safe
        name, no header inside its data, and a header or zero block behind it, all in the window.
        Any other entry gets the checks of `_entry`, which decides the same for intact members.
        """
        stream, first = self._stream, header
        data, at, base = stream.data, stream.at, stream.offset - stream.at
        no_extension = self._extension == {} and not self._extension_bytes
        while header is not None:
            start, (name, size, kind) = at, header
            if kind == b"x" and (after_mtime := self._header_after_mtime(data, at, size)):
                start, (name, size, kind) = at + 2 * BLOCK, after_mtime
            end = start + BLOCK + size + -size % BLOCK
            if (
                end + BLOCK > len(data)
                or kind != b"0"
                or not no_extension
                or size > self._max_bytes
                or ".." in name
                or name[:1] == "/"
            ):
                break
            following = parse_header(data, end)
            if following is None and data[end : end + BLOCK] != _ZERO_BLOCK:
                break
            if hidden_header(data, start + BLOCK, start + BLOCK + size) is not None:
                break
            stream.at = end
            yield Member(name, base + start, end - at, start + BLOCK, size)
            at, header = end, following
        self._parsed = (base + at, header)
        # after progress, return first: the next entry may fit a refilled window
        if header is first and header is not None:
            if header[2] in EXTENSIONS:
                yield from self._extend(header[2], header[1])
            else:
                yield self._entry(header)

    def _header_after_mtime(self, data: bytes, at: int, size: int) -> Header | None:
        """The header after an extension header whose only record is the modification time.

        webdataset writes one before every member, so skipping it keeps them on the fast path.
        """
        record = MTIME_RECORD.match(data, at + BLOCK, at + BLOCK + min(size, BLOCK))
        return (
            parse_header(data, at + 2 * BLOCK)
            if record and record.end() - record.start() == size == int(record[1])
            else None
        )

    def _zero_blocks(self) -> Item:
        """The zero blocks before a header.

        Two or more end an archive, and another archive may be appended; a single one is damage.
        """
        num, self._num_zero_blocks = self._num_zero_blocks, 0
        if num > 1:
            return Framing(num * BLOCK)
        offset = self._stream.offset - BLOCK
        detail = "one zero block between members"
        return TarDamage("", offset, BLOCK, "bad_header", detail, False)

    def _end(self) -> Iterator[Item]:
        offset, num_zero_blocks = self._stream.offset, self._num_zero_blocks
        if self._extension_bytes:
            name = (self._extension or {}).get("path", "")
            detail = "an extension header without its member"
            at = offset - num_zero_blocks * BLOCK
            yield self._damage(name, at, 0, "truncated", detail, named=False)
        if num_zero_blocks:
            yield Framing(num_zero_blocks * BLOCK)
        if self._stream.problem:
            reason, detail = self._stream.problem
            detail = f"the shard ends here: {detail}"
            yield self._damage("", offset, 0, reason, detail, named=False)
        elif num_zero_blocks < 2 and not self._truncated:
            detail = "the archive does not end with two zero blocks"
            yield self._damage("", offset, 0, "truncated", detail, named=False)

    def _entry(self, header: Header) -> Item:
        """Read one entry with all checks."""
        stream, offset = self._stream, self._stream.offset
        name, size, kind = header
        problem: tuple[str, str] | None = None
        is_guess = False
        if kind not in FILES and kind != DIRECTORY:
            detail = f"a link, device or other special entry (type {kind!r}) is never followed"
            problem = ("wrong_type", detail)
        if self._extension != {}:
            extension, self._extension = self._extension, {}
            if extension is None:
                # the unreadable records may have renamed the member
                problem = problem or ("bad_header", "its extension header cannot be read")
                is_guess = True
            else:
                name, size = extension.get("path", name), int(extension.get("size", size))
        if kind in WITHOUT_DATA:
            size = 0
        is_unsafe = name.startswith("/") or (".." in name and ".." in name.split("/"))
        if is_unsafe and not problem and kind != DIRECTORY:
            problem = ("bad_header", "names that are absolute or contain .. are rejected")
        if size > self._max_bytes:
            return self._oversize(name, offset, size)
        num_present = self._load_data(size, name)
        start = stream.at + BLOCK
        if num_present is not None:
            stream.at = start + num_present
            detail = f"cut short: {min(num_present, size)} of {size} bytes" + (
                "" if self._truncated else ", then another member begins"
            )
            return self._damage(name, offset, BLOCK + num_present, "truncated", detail)
        stream.at = min(start + size + -size % BLOCK, len(stream.data))
        if not problem and self._continues_after(start + size):
            detail = f"its size of {size} bytes is too small: neither padding nor a header follows"
            problem = ("truncated", detail)
        num_bytes = stream.offset - offset
        if self._extension_bytes:
            num_bytes = self._with_extension_bytes(num_bytes)
        if problem:
            return TarDamage(name, offset, num_bytes, *problem, not is_guess)
        if kind == DIRECTORY:
            return Framing(num_bytes)
        return Member(name, offset, num_bytes, start, size)

    def _load_data(self, size: int, name: str = "") -> int | None:
        """Load a member's data into the window and check that no other member begins inside it.

        Returns None if all is present, else the number of bytes before the end of the archive or
        before the other member: then the size is wrong, or bytes are missing.
        """
        stream, padded, searched = self._stream, size + -size % BLOCK, BLOCK
        needed = 2 * BLOCK + padded
        available = stream.load(needed if needed < WINDOW else WINDOW)
        nested = name.endswith(".tar")  # such data contains headers of its own
        # search long data while it is loaded: after a header with a wrong size of gigabytes, the
        # next member is then a few blocks away
        while available < needed and not stream.ended:
            at = None if nested else find_header(stream.data, stream.at + searched)
            if at is not None and at < stream.at + BLOCK + padded:
                return at - stream.at - BLOCK
            # search the last block again: a header may continue in the next bytes
            searched = max(BLOCK, available - BLOCK)
            available = stream.load(min(needed, 2 * available))
        start, num_present = stream.at + BLOCK, available - BLOCK
        # a size that is too large leaves the next header at a block boundary: quick to find
        other = (
            None if nested else hidden_header(stream.data, start, start + min(num_present, size))
        )
        if (
            other is None
            and not nested
            and (num_present < size or not self._is_followed(start + padded))
        ):
            # missing or added bytes shift it, but then no header follows the member either
            other = find_header(stream.data, start, start + min(num_present, padded))
        if other is not None:
            return other - start
        self._truncated = num_present < size
        return num_present if num_present < size else None

    def _is_followed(self, at: int) -> bool:
        """Whether a header, a zero block or the end of the archive follows a member."""
        data = self._stream.data
        if at + BLOCK > len(data):
            return True
        header = parse_header(data, at)
        self._parsed = (self._stream.offset + at - self._stream.at, header)
        return header is not None or data[at : at + BLOCK] == _ZERO_BLOCK

    def _continues_after(self, end: int) -> bool:
        """Whether data continues after a member's declared end.

        It does if the padding up to the position is not zero and no header follows. One alone is no
        proof: some writers leave garbage in the padding, and damage may follow the member.
        """
        padding = self._stream.data[end : self._stream.at]
        return bool(padding.strip(b"\0")) and not self._is_followed(self._stream.at)

    def _oversize(self, name: str, offset: int, size: int) -> TarDamage:
        """A member above the limit ends at the next header, since its size may be wrong."""
        self._stream.at += BLOCK
        self._resynchronise()
        self._truncated = self._stream.at == len(self._stream.data)
        num_present = self._stream.offset - offset - BLOCK
        detail = (
            f"{size} bytes, more than {self._max_bytes}; the next member begins after {num_present}"
        )
        reason = "oversize" if num_present >= size else "truncated"
        return self._damage(name, offset, BLOCK + num_present, reason, detail)

    def _extend(self, kind: bytes, size: int) -> Iterator[TarDamage]:
        """Read an extension header; only an unreadable one is yielded, as damage."""
        stream, offset = self._stream, self._stream.offset
        if size > MAX_EXTENSION_BYTES:
            stream.at += BLOCK
            self._resynchronise()
            num_bytes, detail = stream.offset - offset, f"an extension header of {size} bytes"
            yield self._damage("", offset, num_bytes, "bad_header", detail, named=False)
            self._extension = None
            return
        num_present = self._load_data(size)
        start = stream.at + BLOCK
        records = None
        if num_present is None:
            records = extension_records(kind, stream.data[start : start + size])
            num_present = size + -size % BLOCK
        stream.at = min(start + num_present, len(stream.data))
        if records is not None:
            self._extension_bytes += stream.offset - offset
            self._extension = None if self._extension is None else self._extension | records
            return
        reason, detail = "bad_header", "an extension header that cannot be read"
        if self._truncated:
            reason, detail = "truncated", "an extension header that is cut short"
        yield self._damage("", offset, stream.offset - offset, reason, detail, named=False)
        self._extension = None

    def _bad_header(self, available: int) -> Iterator[Item]:
        """Skip from an invalid header to the next valid one."""
        stream = self._stream
        # a single zero block before it belongs to the same damage
        num_zero_bytes = BLOCK if self._num_zero_blocks == 1 else 0
        if num_zero_bytes:
            self._num_zero_blocks = 0
        elif self._num_zero_blocks:
            yield self._zero_blocks()
        start = stream.offset - num_zero_bytes
        name = ""
        if stream.data.startswith(MAGIC, stream.at + MAGIC_AT):
            name = text_of(stream.data[stream.at : stream.at + 100])  # a guess
        if available < BLOCK:
            self._truncated = True
            stream.at += available
            num_bytes, detail = stream.offset - start, "the archive is cut inside a header"
            yield self._damage("", start, num_bytes, "truncated", detail, named=False)
            return
        stream.at += 1
        self._resynchronise()
        num_bytes = stream.offset - start
        detail = f"{num_bytes} bytes without a valid header"
        yield self._damage(name, start, num_bytes, "bad_header", detail, named=False)
        self._extension = {}

    def _resynchronise(self) -> None:
        """Move to the next valid header, else to the zero blocks at the end of the archive."""
        stream = self._stream
        while True:
            stream.load(8 * BLOCK)
            at = find_header(stream.data, stream.at)
            if at is not None:
                stream.at = at
                return
            if stream.ended:
                # the zeros at the end may continue damaged data: take the complete blocks, if two
                zeros = len(stream.data) - max(stream.at, len(stream.data.rstrip(b"\0")))
                stream.at = len(stream.data) - (zeros - zeros % BLOCK if zeros >= 2 * BLOCK else 0)
                return
            # keep the last blocks: a header may begin in them
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
        num_bytes = self._with_extension_bytes(num_bytes)
        return TarDamage(name, offset, num_bytes, reason, detail, named)

    def _with_extension_bytes(self, num_bytes: int) -> int:
        """Count the extension headers before an entry as part of it."""
        pending, self._extension_bytes = self._extension_bytes, 0
        return pending + num_bytes
