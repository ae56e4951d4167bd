"""Streams the bytes of a shard through a moving window, decompressing gzip and zstd.

A damaged compressed stream yields every byte before the damage and then ends; `problem` is why.
"""

import zlib
from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
WINDOW = 2**18
"""Bytes read at once; a window that fits the processor's cache is cheap to copy."""
PIECE = 2**16
"""Maximum output of one step of gzip, which bounds the memory of a decompression bomb."""
BLOCK = 512
"""Size of a tar block, and of a read of zstd: Arrow discards the output of a read that fails, so
larger reads would lose intact blocks before the damage."""


class Readable(Protocol):
    """A binary file open for reading."""

    def read(self, size: int, /) -> bytes:
        """Read at most `size` bytes; none at the end."""


class Stream:
    """A window over the decompressed bytes of a file; `data[at:]` are the next ones.

    Attributes:
        data: the window.
        at: position in `data` of the next byte; the caller advances it.
        ended: no bytes follow the window.
        problem: reason (one of errors.REASONS) and detail, if the stream ended early.
    """

    def __init__(self, file: Readable, max_decompressed: int) -> None:
        self._file = file
        self._max_decompressed = max_decompressed
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
        """Position of `data[at]` in the decompressed file."""
        return self._base + self.at

    def load(self, num: int) -> int:
        """Load the next `num` bytes into the window; returns how many bytes it has ahead.

        Fewer than `num` only at the end of the stream, and `ended` is true then.
        """
        available = len(self.data) - self.at
        if available < num and not self.ended:
            pieces, missing = [self.data[self.at :]], max(num - available, WINDOW)
            while missing > 0 and (
                piece := self._file.read(missing)
                if self._pieces is None
                else next(self._pieces, b"")
            ):
                pieces.append(piece)
                missing -= len(piece)
            self.ended = missing > 0
            self._base += self.at
            self.data, self.at = b"".join(pieces), 0
            available = len(self.data)
        return available

    def _bounded(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """End the stream at the limit, so that a decompression bomb costs no more."""
        left = self._max_decompressed
        for piece in pieces:
            yield piece[:left]
            left -= len(piece)
            if left <= 0:
                self.problem = (
                    "oversize",
                    f"it decompresses to more than {self._max_decompressed} bytes",
                )
                return

    def _gunzip(self, packed: bytes) -> Iterator[bytes]:
        """Decompress concatenated gzip members (RFC 1952) that begin with the bytes `packed`."""
        unpacker, at, more = zlib.decompressobj(wbits=31), 0, False
        # `more`: the last step filled its output, so zlib may have more without new input
        while (packed := packed or self._file.read(PIECE)) or more:
            if unpacker.eof:
                if not packed.strip(b"\0"):  # gzip(1) ignores zeros after the end
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
                    f"its gzip stream is damaged ({error}; after byte {at} of the file)",
                )
                return
            rest = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
            at += len(packed) - len(rest)
            packed, more = rest, len(piece) == PIECE and not unpacker.eof
            if piece:
                yield piece
        if not unpacker.eof:
            self.problem = ("truncated", f"its gzip stream is cut short at byte {at} of the file")

    def _unzstd(self, packed: bytes) -> Iterator[bytes]:
        stream = pa.CompressedInputStream(
            pa.PythonFile(_Joined(packed, self._file), mode="r"), "zstd"
        )
        try:
            while piece := stream.read(BLOCK):
                yield piece
        except OSError as error:
            self.problem = (
                # Arrow has one error class for both; the message starts with a capital or not
                "truncated" if "runcated" in str(error) else "undecodable",
                f"its zstd stream is damaged ({error})",
            )


class _Joined:
    """A file whose first bytes have been read already."""

    closed = False

    def __init__(self, head: bytes, file: Readable) -> None:
        self._head, self._file = head, file

    def read(self, num: int) -> bytes:
        head, self._head = self._head, b""
        return head or self._file.read(num)

    def close(self) -> None:
        """Do nothing: Arrow calls this, but the file belongs to the caller."""


def _bytewise(unpacker: "zlib._Decompress", packed: bytes) -> Iterator[bytes]:
    """Decompress byte by byte, to get the output before the damage that a larger step loses."""
    for i in range(len(packed)):
        try:
            piece = unpacker.decompress(packed[i : i + 1])
        except zlib.error:
            return
        if piece:
            yield piece
