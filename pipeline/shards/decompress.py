"""The bytes of a shard in order, unpacked where they are gzip or zstd, through a window of them that moves on.

A damaged packed stream gives every byte in front of the damage and then ends; `problem` says why.
"""

import zlib
from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
WINDOW = 2**18
"""Bytes that are read at once; what fits the processor's cache is copied out of it for little."""
PIECE = 2**16
BLOCK = 512
"""Arrow drops what it unpacked for a read that fails; reads of one tar block lose no whole block."""


class Readable(Protocol):
    """What a shard is read from."""

    def read(self, size: int, /) -> bytes:
        """At most so many of the next bytes; none at the end."""


class Stream:
    """A file from its start, `data[at:]` what comes next; of a packed one at most `max_unpacked` bytes."""

    def __init__(self, file: Readable, max_unpacked: int) -> None:
        self._file = file
        self._max_unpacked = max_unpacked
        self._base = 0
        self._pieces: Iterator[bytes] | None = None
        self.data = file.read(len(ZSTD))
        self.at = 0
        self.ended = False
        self.problem: tuple[str, str] | None = None
        if self.data.startswith(GZIP):
            self._pieces, self.data = self._bounded(self._gunzip(self.data)), b""
        elif self.data == ZSTD:
            self._pieces, self.data = self._bounded(self._unzstd(self.data)), b""

    @property
    def offset(self) -> int:
        """Of `data[at]` in the unpacked file."""
        return self._base + self.at

    def ahead(self, num: int) -> int:
        """Brings the next `num` bytes into the window, and says how many there are: fewer only at the end, and `ended` is true then."""
        have = len(self.data) - self.at
        if have < num and not self.ended:
            found, missing = [self.data[self.at :]], max(num - have, WINDOW)
            while missing > 0 and (
                piece := self._file.read(missing)
                if self._pieces is None
                else next(self._pieces, b"")
            ):
                found.append(piece)
                missing -= len(piece)
            self.ended = missing > 0
            self._base += self.at
            self.data, self.at = b"".join(found), 0
            have = len(self.data)
        return have

    def _bounded(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        left = self._max_unpacked
        for piece in pieces:
            yield piece[:left]
            left -= len(piece)
            if left <= 0:
                self.problem = ("oversize", f"it unpacks to more than {self._max_unpacked} bytes")
                return

    def _gunzip(self, packed: bytes) -> Iterator[bytes]:
        unpacker, at, more = zlib.decompressobj(wbits=31), 0, False
        while (packed := packed or self._file.read(PIECE)) or more:
            if unpacker.eof:
                if not packed.strip(b"\0"):  # gzip allows for zeros behind its end
                    packed = b""
                    continue
                unpacker = zlib.decompressobj(wbits=31)
            before = unpacker.copy()
            try:
                piece = unpacker.decompress(packed, PIECE)
            except zlib.error as error:
                yield from _bytewise(before, packed)
                self.problem = (
                    "undecodable",
                    f"its gzip stream is damaged ({error}; behind byte {at} of the file)",
                )
                return
            rest = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
            at += len(packed) - len(rest)
            packed, more = rest, len(piece) == PIECE and not unpacker.eof
            if piece:
                yield piece
        if not unpacker.eof:
            self.problem = ("truncated", f"its gzip stream is cut at byte {at} of the file")

    def _unzstd(self, packed: bytes) -> Iterator[bytes]:
        stream = pa.CompressedInputStream(
            pa.PythonFile(_Joined(packed, self._file), mode="r"), "zstd"
        )
        try:
            while piece := stream.read(BLOCK):
                yield piece
        except OSError as error:
            self.problem = (
                "truncated" if "runcated" in str(error) else "undecodable",
                f"its zstd stream is damaged ({error})",
            )


class _Joined:
    """A file of which some bytes were read before."""

    closed = False

    def __init__(self, head: bytes, file: Readable) -> None:
        self._head, self._file = head, file

    def read(self, num: int) -> bytes:
        head, self._head = self._head, b""
        return head or self._file.read(num)

    def close(self) -> None:
        """Arrow wants to; the file is another's."""


def _bytewise(unpacker: "zlib._Decompress", packed: bytes) -> Iterator[bytes]:
    """What comes out before the damage shows."""
    for i in range(len(packed)):
        try:
            piece = unpacker.decompress(packed[i : i + 1])
        except zlib.error:
            return
        if piece:
            yield piece
