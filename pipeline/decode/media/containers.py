"""Structure checks of the container formats whose parts state their length.

Each function checks one format and raises SampleError.
"""

import struct
import zlib
from collections import deque
from collections.abc import Iterator

from pipeline.errors import SampleError
from pipeline.shards.member_formats import TS, is_adts

_LAST_PAGE = 4
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_EBML, _SEGMENT, _CLUSTER, _VOID = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0xEC


def _check_end(end: int, data: bytes) -> None:
    """Raise SampleError if a part of the file ends after the file."""
    if end > len(data):
        raise SampleError("truncated", f"File cut short: {len(data):,} of at least {end:,} bytes.")


def check_boxes(data: bytes) -> None:
    """MP4 and MOV: the boxes fill the file, and one of them is `moov` (ISO/IEC 14496-12)."""
    position, kinds = 0, set()
    while position < len(data):
        _check_end(position + 8, data)
        size, kind = struct.unpack_from(">I4s", data, position)
        if size == 1:
            _check_end(position + 16, data)
            (size,) = struct.unpack_from(">Q", data, position + 8)
        elif size == 0:
            size = len(data) - position
        if size < 8:
            raise SampleError("bad_header", f"The box at byte {position} has size {size}.")
        _check_end(position + size, data)
        kinds.add(kind)
        position += size
    if b"moov" not in kinds:
        names = ", ".join(sorted(repr(kind.decode("latin-1")) for kind in kinds))
        raise SampleError("bad_header", f"No 'moov' box, only {names}.")


def check_chunks(data: bytes, order: str) -> int | None:
    """WAV, AVI and AIFF: each chunk fits into the file.

    The size of the outermost chunk is not checked, since writers disagree on whether it includes
    the header. Nothing is checked after audio data or a list of unknown length.

    Returns:
        The position of the `data` chunk if its length is unknown.
    """
    position, mark = 0, data[:4]
    while data[position : position + 4] == mark and position + 12 <= len(data):
        (size,) = struct.unpack_from(f"{order}I", data, position + 4)
        end = len(data) if _is_unknown(size) else position + 8 + size
        position += 12
        while position + 8 <= min(end, len(data)):
            kind, size = struct.unpack_from(f"{order}4sI", data, position)
            if kind == b"data" and _is_unknown(size):
                return position
            if kind == b"LIST" and size in (0, 2**32 - 1):
                return None
            _check_end(position + 8 + size, data)
            position += 8 + size + size % 2
    return None


def _is_unknown(size: int) -> bool:
    """Return whether a 32-bit size means that the writer did not know it, as in a pipe.

    FFmpeg writes 2^32 - 1, arecord 2^31, SoX 2^31 - 4096 and others 0, some with the size of the
    header added or subtracted.
    """
    return -size % 2**31 <= 4096


def complete_wav(data: bytes) -> bytes:
    """WAV: check the chunks, and set an unknown length of the audio to the rest of the file.

    FFmpeg would read blocks of a fixed size and mark an incomplete last one as corrupt.
    """
    position = check_chunks(data, "<")
    if position is None:
        return data
    size = len(data) - position - 8
    return data[: position + 4] + struct.pack("<I", size) + data[position + 8 :]


def check_ebml(data: bytes) -> None:
    """Matroska and WebM: a header, then a segment that fits into the file (RFC 8794, RFC 9559).

    Its elements fill the segment, and the elements of each cluster fill the cluster.
    """
    for number, start, end in _elements(data, 0, len(data)):
        for inner, first, last in _elements(data, start, end) if number != _VOID else ():
            if inner == _CLUSTER:
                deque(_elements(data, first, last), maxlen=0)
        if number == _SEGMENT:
            return
        if number not in (_EBML, _VOID):
            break
    raise SampleError("bad_header", "No segment after the EBML header.")


def _elements(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield id, start and end of each element, up to one of unknown length. Raises SampleError."""
    while position < end:
        number, start = _number(data, position, keep_marker=True)
        size, start = _number(data, start, keep_marker=False)
        if size < 0:
            yield number, start, end
            return
        if start + size > end:
            _check_end(start + size, data)
            raise SampleError(
                "bad_header",
                f"The element {number:#x} at byte {position} ends at byte {start + size}, but its"
                f" parent at byte {end}.",
            )
        yield number, start, start + size
        position = start + size


def _number(data: bytes, position: int, *, keep_marker: bool) -> tuple[int, int]:
    """Read an EBML variable-length integer; returns the value and the position after it.

    An element id includes its length marker, a size does not. A size of -1 means unknown.
    """
    _check_end(position + 1, data)
    length = 9 - data[position].bit_length()
    if length > (4 if keep_marker else 8):
        raise SampleError("bad_header", f"No EBML element at byte {position}.")
    _check_end(position + length, data)
    value = int.from_bytes(data[position : position + length])
    if not keep_marker:
        value &= (1 << 7 * length) - 1
        value = -1 if value == (1 << 7 * length) - 1 else value
    return value, position + length


def check_ogg(data: bytes) -> None:
    """Ogg: the pages are contiguous, complete, numbered, and have correct checksums (RFC 3533)."""
    position = 0
    nexts: dict[bytes, int | None] = {}
    while position < len(data) and (
        any(nexts.values()) or not nexts or data[position : position + 4] == b"OggS"
    ):
        if data[position : position + 4] != b"OggS":
            _check_end(position + 4, data)
            raise SampleError("undecodable", f"No Ogg page at byte {position}.")
        _check_end(position + 27, data)
        flags, serial, sequence, checksum, num = struct.unpack_from("<B8x4sIIB", data, position + 5)
        end = position + 27 + num
        _check_end(end, data)
        end += sum(data[end - num : end])
        _check_end(end, data)
        if checksum != _ogg_checksum(data[position:end]):
            raise SampleError("undecodable", f"The page at byte {position} has a wrong checksum.")
        if sequence != (nexts.get(serial) or sequence):
            raise SampleError(
                "undecodable",
                f"Pages are missing before byte {position}: page {sequence} instead of"
                f" {nexts[serial]}.",
            )
        nexts[serial] = None if flags & _LAST_PAGE else sequence + 1
        position = end
    if any(nexts.values()):
        raise SampleError(
            "truncated",
            f"File cut short: {sum(map(bool, nexts.values()))} of {len(nexts)} Ogg streams have no"
            " last page.",
        )


def _ogg_checksum(page: bytes) -> int:
    """CRC-32 of a page with its checksum field set to 0.

    Ogg processes the highest bit first and inverts nothing. That is zlib's CRC-32 without the
    inversions, on bytes with reversed bits.
    """
    reversed_page = (page[:22] + bytes(4) + page[26:]).translate(_REVERSED_BITS)
    return int(f"{zlib.crc32(reversed_page, 2**32 - 1) ^ (2**32 - 1):032b}"[::-1], 2)


def check_flv(data: bytes) -> None:
    """FLV: the tags fill the file; the size after the last one may be missing."""
    _check_end(13, data)
    position = int.from_bytes(data[5:9]) + 4
    while position < len(data):
        _check_end(position + 11, data)
        position += 11 + int.from_bytes(data[position + 1 : position + 4])
        _check_end(position, data)
        position += 4


def check_flac(data: bytes, position: int) -> None:
    """FLAC: the metadata blocks fit into the file, and the comments into their block (RFC 9639).

    The first block is a STREAMINFO of 34 bytes. `position` is where it starts.
    """
    last, first = False, True
    while not last:
        _check_end(position + 4, data)
        last, kind, size = (
            bool(data[position] & 128),
            data[position] & 127,
            int.from_bytes(data[position + 1 : position + 4]),
        )
        if (first and (kind, size) != (0, 34)) or kind == 127:
            raise SampleError(
                "bad_header",
                f"The metadata block at byte {position} has type {kind} and {size} bytes"
                f"{', not STREAMINFO' * first}.",
            )
        _check_end(position + 4 + size, data)
        if kind == 4:
            _check_comments(data[position + 4 : position + 4 + size], position)
        position, first = position + 4 + size, False


def _check_comments(block: bytes, position: int) -> None:
    """Vorbis comments: vendor, number of comments, comments; each text follows its length."""
    end, missing = 0, None
    while missing is None or missing:
        end += 4 + int.from_bytes(block[end : end + 4], "little")
        if missing is None:
            missing, end = int.from_bytes(block[end : end + 4], "little"), end + 4
        else:
            missing -= 1
        if end > len(block):
            raise SampleError(
                "bad_header",
                f"The comments do not fit into their metadata block of {len(block)} bytes at byte"
                f" {position}.",
            )


def check_adts(data: bytes, position: int) -> None:
    """AAC without a container (ADTS): the frames fill the file, up to an ID3v1 tag."""
    while position < len(data) and data[position : position + 3] != b"TAG":
        _check_end(position + 7, data)
        size = int.from_bytes(data[position + 3 : position + 6]) >> 5 & 0x1FFF
        if not is_adts(data, position) or size < 7:
            raise SampleError("undecodable", f"No AAC frame at byte {position}.")
        _check_end(position + size, data)
        position += size


def check_ts(data: bytes) -> None:
    """MPEG-TS: packets of 188 bytes, each with a sync byte, fill the file."""
    if data[::TS].count(b"G") != -(-len(data) // TS):
        raise SampleError("undecodable", "Some packets of the transport stream have no sync byte.")
    if len(data) % TS:
        raise SampleError(
            "truncated",
            f"File cut short: the last packet has {len(data) % TS} of {TS} bytes.",
        )
