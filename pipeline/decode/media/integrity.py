"""Checks of a container's structure against its bytes, without decoding.

FFmpeg silently accepts containers that are cut short or whose parts do not fit together.
"""

from pipeline.decode.media.containers import (
    check_adts,
    check_boxes,
    check_chunks,
    check_ebml,
    check_flac,
    check_flv,
    check_ogg,
    check_ts,
    complete_wav,
)
from pipeline.errors import SampleError
from pipeline.shards.member_formats import end_of_id3, format_of
from pipeline.shards.member_suffixes import DEMUXERS_OF


def check_suffix(suffix: str, demuxer: str, data: bytes) -> None:
    """Raise SampleError (wrong_type) if neither the suffix nor a signature names the format.

    FFmpeg guesses formats without a signature, so it may take any bytes for one of them.
    """
    last = suffix.rpartition(".")[2].lower()
    names = demuxer.split(",")
    if (
        last in DEMUXERS_OF
        and DEMUXERS_OF[last].isdisjoint(names)
        and format_of(data)[1] not in names
    ):
        raise SampleError("wrong_type", f"Wrong file type: {names[0]} instead of {last}.")


def checked_structure(data: bytes) -> bytes:
    """Check the structure of a container of a known format.

    Returns the data; that of a WAV of unknown length has the length. Raises SampleError.
    """
    match format_of(data)[0]:
        case "mp4":
            check_boxes(data)
        case "wav":
            return complete_wav(data)
        case "avi":
            check_chunks(data, "<")
        case "aiff":
            check_chunks(data, ">")
        case "mkv":
            check_ebml(data)
        case "ogg":
            check_ogg(data)
        case "flv":
            check_flv(data)
        case "flac":
            check_flac(data, end_of_id3(data) + 4)
        case "aac":
            check_adts(data, end_of_id3(data))
        case "ts":
            check_ts(data)
    return data


def has_frame_count(data: bytes) -> bool:
    """Return whether the first frame of an MP3 file contains the number of frames."""
    start = end_of_id3(data)
    return any(mark in data[start : start + 4096] for mark in (b"Xing", b"Info", b"VBRI"))
