"""File formats of members by their first bytes, whatever their suffixes are."""

from collections.abc import Mapping

from pipeline.shards.member_suffixes import DEMUXERS_OF, IMAGES

_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid")
TS = 188
"""Bytes of a packet of an MPEG transport stream."""
_SIGNATURES = (
    # position, bytes, format, FFmpeg demuxer
    *((4, box, "mp4", "mov") for box in _BOXES),
    (0, b"\x1a\x45\xdf\xa3", "mkv", "matroska"),
    (0, b"OggS", "ogg", "ogg"),
    (0, b"FLV", "flv", "flv"),
    (0, b"\0\0\1\xba", "mpg", "mpeg"),
    (0, b"\0\0\1\xb3", "m1v", "mpegvideo"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "wmv", "asf"),
    (0, b".snd", "au", "au"),
    (0, b"#!AMR", "amr", "amr"),
    (0, b"caff", "caf", "caf"),
    (0, b"riff\x2e\x91\xcf\x11", "w64", "w64"),
    (0, b"DKIF", "ivf", "ivf"),
    (0, b"GIF8", "gif", "gif"),
    (0, b"\x89PNG", "png", ""),
    (0, b"\xff\xd8\xff", "jpg", ""),
    (0, b"BM", "bmp", ""),
    (0, b"II*\0", "tif", ""),
    (0, b"MM\0*", "tif", ""),
    *((0, b"P%d" % i, "ppm", "") for i in range(1, 7)),
)
_CHUNKS = {
    (b"RIFF", b"WAVE"): ("wav", "wav"),
    (b"RIFF", b"AVI "): ("avi", "avi"),
    (b"RIFF", b"WEBP"): ("webp", ""),
    (b"FORM", b"AIFF"): ("aiff", "aiff"),
    (b"FORM", b"AIFC"): ("aiff", "aiff"),
}
_SAME = {"jpeg": "jpg", "jpe": "jpg", "jfif": "jpg", "tiff": "tif"} | dict.fromkeys(
    ("pbm", "pgm", "pnm"), "ppm"
)


def format_of(data: bytes) -> tuple[str, str]:
    """Return the format of a file, as the usual suffix, and its FFmpeg demuxer.

    An image has no demuxer. Both are "" for unknown bytes, such as text and raw video.
    """
    form = _CHUNKS.get((data[:4], data[8:12]))
    if form:
        return form
    for position, signature, name, demuxer in _SIGNATURES:
        if data[position : position + len(signature)] == signature:
            return name, demuxer
    start = end_of_id3(data)
    if data[start : start + 4] == b"fLaC":
        return "flac", "flac"
    if is_adts(data, start):
        return "aac", "aac"
    if start or _is_mp3(data):
        return "mp3", "mp3"
    return ("ts", "mpegts") if data[: 3 * TS : TS] == b"GGG" else ("", "")


class MislabelledCounts:
    """Counts the members whose bytes have another format than their suffix.

    Attributes:
        by_suffix: numbers by the last part of the suffix and by format.
    """

    def __init__(self) -> None:
        self.by_suffix: dict[str, dict[str, int]] = {}

    def add(self, members: Mapping[str, bytes]) -> None:
        """Count the members of a sample, given by suffix."""
        for suffix, data in members.items():
            last = suffix.rpartition(".")[2]
            name, demuxer = format_of(data) if last in DEMUXERS_OF or last in IMAGES else ("", "")
            expected = DEMUXERS_OF.get(last) or {_SAME.get(last, last)}
            if name and (demuxer or name) not in expected:
                self.merge({last: {name: 1}})

    def merge(self, by_suffix: Mapping[str, Mapping[str, int]]) -> None:
        """Add the numbers of other counts."""
        for suffix, formats in by_suffix.items():
            counts = self.by_suffix.setdefault(suffix, {})
            for name, num in formats.items():
                counts[name] = counts.get(name, 0) + num


def mislabelled_text(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return counts as text, such as "jpg: 3 are png"."""
    return "; ".join(
        f"{suffix}: "
        + ", ".join(f"{num} {'is' if num == 1 else 'are'} {name}" for name, num in formats.items())
        for suffix, formats in counts.items()
    )


def end_of_id3(data: bytes) -> int:
    """Return the position after an ID3v2 tag, or 0 if the file does not start with one."""
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    size = sum(
        (byte & 127) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True)
    )
    return 10 + size + (10 if data[5] & 16 else 0)


def is_adts(data: bytes, position: int) -> bool:
    """Return whether an ADTS header, of an AAC frame, starts at a position."""
    return (
        data[position : position + 1] == b"\xff"
        and position + 7 <= len(data)
        and data[position + 1] & 0xF6 == 0xF0
    )


def _is_mp3(data: bytes) -> bool:
    """Return whether a frame of MPEG audio, layer II or III, starts the file."""
    return len(data) > 1 and data[0] == 0xFF and data[1] & 0xE6 in (0xE2, 0xE4)
