"""The containers that say how long their parts are: each function holds one kind against the bytes there, and raises SampleError."""

import struct
import zlib
from collections import deque
from collections.abc import Iterator

from pipeline.errors import SampleError

BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid")
_LAST_PAGE = 4
TS = 188
_TURNED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_UNKNOWN_SIZES = (0, 2**32 - 1)
_EBML, _SEGMENT, _CLUSTER, _VOID = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0xEC


def _fit(end: int, data: bytes, what: str) -> None:
    if end > len(data):
        raise SampleError("truncated", f"{what} ends at byte {end}, the file at {len(data)}")


def check_boxes(data: bytes) -> None:
    """MP4 and MOV: the boxes tile the file, and one of them is the moov."""
    position, kinds = 0, set()
    while position < len(data):
        _fit(position + 8, data, f"the box at byte {position}")
        size, kind = struct.unpack_from(">I4s", data, position)
        if size == 1:
            _fit(position + 16, data, f"the box at byte {position}")
            (size,) = struct.unpack_from(">Q", data, position + 8)
        elif size == 0:
            size = len(data) - position
        if size < 8:
            raise SampleError("bad_header", f"the box at byte {position} has a size of {size}")
        _fit(position + size, data, f"the box {kind!r} at byte {position}")
        kinds.add(kind)
        position += size
    if b"moov" not in kinds:
        raise SampleError(
            "bad_header", f"there is no moov box, only {', '.join(sorted(map(repr, kinds)))}"
        )


def check_chunks(data: bytes, order: str) -> None:
    """WAV, AVI, AIFF: each chunk fits the file; 0 and 2^32 - 1 stand for an unknown length, and the length of the whole is often off by its header."""
    position, mark = 0, data[:4]
    while data[position : position + 4] == mark and position + 12 <= len(data):
        end = position + 8 + struct.unpack_from(f"{order}I", data, position + 4)[0]
        position += 12
        while position + 8 <= min(end, len(data)):
            kind, size = struct.unpack_from(f"{order}4sI", data, position)
            if size in _UNKNOWN_SIZES and kind in (b"data", b"LIST"):
                return
            _fit(position + 8 + size, data, f"the chunk {kind!r} at byte {position}")
            position += 8 + size + size % 2


def check_ebml(data: bytes) -> None:
    """Matroska and WebM: a header, then a segment that fits the file, whose elements and whose clusters' elements tile it."""
    for number, start, end in _elements(data, 0, len(data)):
        for inner, first, last in _elements(data, start, end) if number != _VOID else ():
            if inner == _CLUSTER:
                deque(_elements(data, first, last), maxlen=0)
        if number == _SEGMENT:
            return
        if number not in (_EBML, _VOID):
            break
    raise SampleError("bad_header", "no segment stands behind the EBML header")


def _elements(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each element; it ends at one of unknown length (raises SampleError)."""
    while position < end:
        number, start = _number(data, position, keep=True)
        size, start = _number(data, start, keep=False)
        if size < 0:
            yield number, start, end
            return
        if start + size > end:
            _fit(start + size, data, f"the element {number:#x} at byte {position}")
            raise SampleError(
                "bad_header",
                f"the element {number:#x} at byte {position} ends at byte {start + size}, what it lies in at {end}",
            )
        yield number, start, start + size
        position = start + size


def _number(data: bytes, position: int, *, keep: bool) -> tuple[int, int]:
    """An EBML number and where it ends; -1 stands for an unknown length."""
    _fit(position + 1, data, f"the element at byte {position}")
    length = 9 - data[position].bit_length()
    if length > (4 if keep else 8):
        raise SampleError("bad_header", f"there is no element at byte {position}")
    _fit(position + length, data, f"the element at byte {position}")
    value = int.from_bytes(data[position : position + length])
    if not keep:
        value &= (1 << 7 * length) - 1
        value = -1 if value == (1 << 7 * length) - 1 else value
    return value, position + length


def check_ogg(data: bytes) -> None:
    """Ogg: pages tile the file up to the last page of each stream, none is missing, and each has its checksum."""
    position = 0
    nexts: dict[bytes, int | None] = {}
    while position < len(data) and (
        any(nexts.values()) or not nexts or data[position : position + 4] == b"OggS"
    ):
        if data[position : position + 4] != b"OggS":
            raise SampleError(
                "truncated" if len(data) - position < 4 else "undecodable",
                f"there is no Ogg page at byte {position}",
            )
        _fit(position + 27, data, f"the page at byte {position}")
        flags, serial, sequence, checksum, num = struct.unpack_from("<B8x4sIIB", data, position + 5)
        end = position + 27 + num
        _fit(end, data, f"the page at byte {position}")
        end += sum(data[end - num : end])
        _fit(end, data, f"the page at byte {position}")
        if checksum != _ogg_checksum(data[position:end]):
            raise SampleError("undecodable", f"the page at byte {position} has a wrong checksum")
        if sequence != (nexts.get(serial) or sequence):
            raise SampleError(
                "undecodable",
                f"the page at byte {position} has the number {sequence}, not {nexts[serial]}: others are missing",
            )
        nexts[serial] = None if flags & _LAST_PAGE else sequence + 1
        position = end
    if any(nexts.values()):
        raise SampleError(
            "truncated",
            f"{sum(map(bool, nexts.values()))} of {len(nexts)} Ogg streams have no last page",
        )


def _ogg_checksum(page: bytes) -> int:
    """CRC-32 with the highest bit first and nothing inverted, which is zlib's of the bytes with their bits turned round."""
    turned = (page[:22] + bytes(4) + page[26:]).translate(_TURNED)
    return int(f"{zlib.crc32(turned, 2**32 - 1) ^ (2**32 - 1):032b}"[::-1], 2)


def check_flv(data: bytes) -> None:
    """FLV: the tags tile the file; the length behind the last one may be missing."""
    _fit(13, data, "the header")
    position = int.from_bytes(data[5:9]) + 4
    while position < len(data):
        _fit(position + 11, data, f"the tag at byte {position}")
        position += 11 + int.from_bytes(data[position + 1 : position + 4])
        _fit(position, data, "its last tag")
        position += 4


def check_flac(data: bytes, position: int) -> None:
    """FLAC: a STREAMINFO of 34 bytes first, then blocks of known types that fit, and comments that fill theirs."""
    last, first = False, True
    while not last:
        _fit(position + 4, data, f"the metadata block at byte {position}")
        last, kind, size = (
            bool(data[position] & 128),
            data[position] & 127,
            int.from_bytes(data[position + 1 : position + 4]),
        )
        if (first and (kind, size) != (0, 34)) or kind == 127:
            raise SampleError(
                "bad_header",
                f"the metadata block at byte {position} is of type {kind} and {size} bytes"
                + ", not STREAMINFO" * first,
            )
        _fit(position + 4 + size, data, f"the metadata block at byte {position}")
        if kind == 4:
            _check_comments(data[position + 4 : position + 4 + size], position)
        position, first = position + 4 + size, False


def _check_comments(block: bytes, position: int) -> None:
    """A maker, a number, and so many comments, each behind its length."""
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
                f"the comments of the metadata block at byte {position} do not fit its {len(block)} bytes",
            )


def is_adts(data: bytes, position: int) -> bool:
    return (
        data[position : position + 1] == b"\xff"
        and position + 7 <= len(data)
        and data[position + 1] & 0xF6 == 0xF0
    )


def check_adts(data: bytes, position: int) -> None:
    """AAC by itself: frames tile the file, up to a tag."""
    while position < len(data) and data[position : position + 3] != b"TAG":
        _fit(position + 7, data, f"the frame at byte {position}")
        size = int.from_bytes(data[position + 3 : position + 6]) >> 5 & 0x1FFF
        if not is_adts(data, position) or size < 7:
            raise SampleError("undecodable", f"there is no frame of sound at byte {position}")
        _fit(position + size, data, f"the frame at byte {position}")
        position += size


def check_ts(data: bytes) -> None:
    """MPEG-TS: packets of 188 bytes, each with its sync byte, tile the file."""
    if data[::TS].count(b"G") != -(-len(data) // TS):
        raise SampleError("undecodable", "some packets of the transport stream have no sync byte")
    if len(data) % TS:
        raise SampleError(
            "truncated",
            f"the last packet of the transport stream has {len(data) % TS} of {TS} bytes",
        )
