"""Checks of a container's structure against its bytes, without decoding.

FFmpeg silently accepts containers that are cut short or whose parts do not fit together.
"""

from pipeline.decode.media.containers import (
    BOXES,
    TS,
    check_adts,
    check_boxes,
    check_chunks,
    check_ebml,
    check_flac,
    check_flv,
    check_ogg,
    check_ts,
    is_adts,
)
from pipeline.errors import SampleError
from pipeline.shards.member_suffixes import DEMUXERS_OF


def check_suffix(suffix: str, demuxer: str) -> None:
    """Raise SampleError (wrong_type) if a known suffix does not match the container format."""
    last = suffix.rpartition(".")[2].lower()
    names = demuxer.split(",")
    if last in DEMUXERS_OF and DEMUXERS_OF[last].isdisjoint(names):
        raise SampleError("wrong_type", f"Wrong file type: {names[0]} instead of {last}.")


def check_structure(data: bytes) -> None:
    """Check the structure of a container of a known format. Raises SampleError."""
    start = _end_of_id3(data)
    if data[4:8] in BOXES:
        check_boxes(data)
    elif data[:4] == b"RIFF" and data[8:12] in (b"WAVE", b"AVI "):
        check_chunks(data, "<")
    elif data[:4] == b"FORM" and data[8:12] in (b"AIFF", b"AIFC"):
        check_chunks(data, ">")
    elif data[:4] == b"\x1a\x45\xdf\xa3":
        check_ebml(data)
    elif data[:4] == b"OggS":
        check_ogg(data)
    elif data[:3] == b"FLV":
        check_flv(data)
    elif data[start : start + 4] == b"fLaC":
        check_flac(data, start + 4)
    elif is_adts(data, start):
        check_adts(data, start)
    elif data[: 3 * TS : TS] == b"GGG":
        check_ts(data)


def has_frame_count(data: bytes) -> bool:
    """Return whether the first frame of an MP3 file contains the number of frames."""
    start = _end_of_id3(data)
    return any(mark in data[start : start + 4096] for mark in (b"Xing", b"Info", b"VBRI"))


def _end_of_id3(data: bytes) -> int:
    """Return the position after an ID3v2 tag, or 0 if the file does not start with one."""
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    size = sum(
        (byte & 127) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True)
    )
    return 10 + size + (10 if data[5] & 16 else 0)
