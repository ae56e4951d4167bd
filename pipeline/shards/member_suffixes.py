"""File types by the last part of a member's suffix, for readers, decoders and importers."""

_TABLE = (
    # content, suffixes, FFmpeg demuxers that may read them
    ("clip", "mp4 mov qt 3gp 3g2 mj2", "mov"),
    ("clip", "m4v", "m4v mov"),
    ("clip", "mkv webm mk3d", "matroska"),
    ("clip", "avi divx", "avi"),
    ("clip", "flv", "flv"),
    ("clip", "f4v", "flv mov"),
    ("clip", "mpg mpeg", "mpeg mpegts mpegvideo"),
    ("clip", "vob ps", "mpeg"),
    ("clip", "m1v m2v", "mpegvideo"),
    ("clip", "ts mts m2ts", "mpegts"),
    ("clip", "ogv", "ogg"),
    ("clip", "wmv asf", "asf"),
    ("clip", "264 avc h264", "h264"),
    ("clip", "265 h265 hevc", "hevc"),
    ("clip", "ivf", "ivf"),
    ("audio", "wav wave", "wav"),
    ("audio", "w64", "w64"),
    ("audio", "flac", "flac"),
    ("audio", "ogg oga opus spx", "ogg"),
    ("audio", "mp3 mp2 mpa mpga", "mp3"),
    ("audio", "m4a m4b", "mov"),
    ("audio", "mka weba", "matroska"),
    ("audio", "aac", "aac"),
    ("audio", "wma", "asf"),
    ("audio", "aif aiff aifc", "aiff"),
    ("audio", "au snd", "au"),
    ("audio", "caf", "caf"),
    ("audio", "amr", "amr"),
    ("image", "jpg jpeg jpe jfif png webp bmp dib tif tiff ppm pgm pbm pnm", ""),
    ("image", "gif", "gif"),
    ("tensor", "npy", ""),
    ("text", "txt", ""),
)

TEXT = frozenset({"json", "cls"})
"""Suffixes of a sample's metadata."""


def _suffixes_of(content: str) -> frozenset[str]:
    return frozenset(
        suffix for kind, names, _ in _TABLE if kind == content for suffix in names.split()
    )


CLIPS, AUDIO, IMAGES = _suffixes_of("clip"), _suffixes_of("audio"), _suffixes_of("image")
KINDS_OF: dict[str, tuple[str, ...]] = {
    suffix: ("video", "audio") if content == "clip" else (content,)
    for content, names, _ in _TABLE
    for suffix in names.split()
}
"""Kinds of modality that a file may contain, by its suffix; the first is the usual one."""
MEDIA = frozenset(KINDS_OF)
"""Suffixes of media. A member with another suffix is reported as ignored, and decoded only if the
configuration names it."""

DEMUXERS_OF = {
    suffix: frozenset(demuxers.split())
    for _, names, demuxers in _TABLE
    if demuxers
    for suffix in names.split()
}
"""FFmpeg demuxers that may read a file, by its suffix."""
DEMUXERS = tuple(sorted(frozenset[str]().union(*DEMUXERS_OF.values())))
"""All FFmpeg demuxers that may be used; the others never see untrusted bytes."""
