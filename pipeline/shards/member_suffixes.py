"""What a member is, by the last part of its suffix: one table for readers, decoders and importers."""

_TABLE = (
    # what it holds, the suffixes, the FFmpeg demuxers that may read them
    ("clip", "mp4 mov 3gp", "mov"),
    ("clip", "m4v", "m4v mov"),
    ("clip", "mkv webm", "matroska"),
    ("clip", "avi", "avi"),
    ("clip", "flv", "flv"),
    ("clip", "mpg mpeg", "mpeg mpegts mpegvideo"),
    ("clip", "ts", "mpegts"),
    ("clip", "ogv", "ogg"),
    ("clip", "wmv", "asf"),
    ("sound", "wav", "wav"),
    ("sound", "flac", "flac"),
    ("sound", "ogg oga opus", "ogg"),
    ("sound", "mp3 mp2", "mp3"),
    ("sound", "m4a", "mov"),
    ("sound", "aac", "aac"),
    ("sound", "wma", "asf"),
    ("sound", "aif aiff", "aiff"),
    ("sound", "au", "au"),
    ("sound", "amr", "amr"),
    ("image", "jpg jpeg png webp bmp tif tiff ppm pgm", ""),
    ("image", "gif", "gif"),
    ("", "264 avc h264", "h264"),
    ("", "265 h265 hevc", "hevc"),
    ("", "3g2 m4b mj2 qt", "mov"),
    ("", "aifc", "aiff"),
    ("", "asf", "asf"),
    ("", "caf", "caf"),
    ("", "f4v", "flv mov"),
    ("", "ivf", "ivf"),
    ("", "m1v m2v", "mpegvideo"),
    ("", "m2ts mts", "mpegts"),
    ("", "mk3d mka", "matroska"),
    ("", "mpa mpga", "mp3"),
    ("", "ps vob", "mpeg"),
    ("", "snd", "au"),
    ("", "spx", "ogg"),
    ("", "w64", "w64"),
    ("", "wave", "wav"),
    ("tensor", "npy", ""),
    ("text", "txt", ""),
)
"""Suffixes that hold "" are read only where a configuration names them."""

TEXT = frozenset({"json", "cls"})
"""The suffixes that say which sample it is."""


def _holding(what: str) -> frozenset[str]:
    return frozenset(
        suffix for held, names, _ in _TABLE if held == what for suffix in names.split()
    )


CLIPS, SOUNDS, IMAGES = _holding("clip"), _holding("sound"), _holding("image")
MEDIA = CLIPS | SOUNDS | IMAGES | _holding("tensor") | _holding("text")
"""The suffixes of media; a member that has another is named, and never read."""

_KINDS = {"clip": ("video", "audio"), "sound": ("audio",), "": ()}
KINDS_OF: dict[str, tuple[str, ...]] = {
    suffix: _KINDS.get(held, (held,))
    for held, names, _ in _TABLE
    if held
    for suffix in names.split()
}
"""The kinds of modality that a file may hold, by its suffix; the first is the usual one."""

DEMUXERS_OF = {
    suffix: frozenset(demuxers.split())
    for _, names, demuxers in _TABLE
    if demuxers
    for suffix in names.split()
}
"""The FFmpeg demuxers that a suffix stands for."""
DEMUXERS = tuple(sorted(frozenset[str]().union(*DEMUXERS_OF.values())))
"""All demuxers that bytes may reach."""
