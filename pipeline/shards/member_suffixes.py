"""File types by the last part of a member's suffix, for readers, decoders and importers."""

_TABLE = (
    # content, suffixes, FFmpeg demuxers that may read them
    ("clip", "mp4 mov 3gp", "mov"),
    ("clip", "m4v", "m4v mov"),
    ("clip", "mkv webm", "matroska"),
    ("clip", "avi", "avi"),
    ("clip", "flv", "flv"),
    ("clip", "mpg mpeg", "mpeg mpegts mpegvideo"),
    ("clip", "ts", "mpegts"),
    ("clip", "ogv", "ogg"),
    ("clip", "wmv", "asf"),
    ("audio", "wav", "wav"),
    ("audio", "flac", "flac"),
    ("audio", "ogg oga opus", "ogg"),
    ("audio", "mp3 mp2", "mp3"),
    ("audio", "m4a", "mov"),
    ("audio", "aac", "aac"),
    ("audio", "wma", "asf"),
    ("audio", "aif aiff", "aiff"),
    ("audio", "au", "au"),
    ("audio", "amr", "amr"),
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
"""Suffixes with content "" are read only if a configuration names them."""

TEXT = frozenset({"json", "cls"})
"""Suffixes of a sample's metadata."""


def _suffixes_of(content: str) -> frozenset[str]:
    return frozenset(
        suffix for kind, names, _ in _TABLE if kind == content for suffix in names.split()
    )


CLIPS, AUDIO, IMAGES = _suffixes_of("clip"), _suffixes_of("audio"), _suffixes_of("image")
MEDIA = CLIPS | AUDIO | IMAGES | _suffixes_of("tensor") | _suffixes_of("text")
"""Suffixes of media. A member with an unknown suffix is reported as ignored and never decoded."""

_KINDS = {"clip": ("video", "audio"), "": ()}
KINDS_OF: dict[str, tuple[str, ...]] = {
    suffix: _KINDS.get(content, (content,))
    for content, names, _ in _TABLE
    if content
    for suffix in names.split()
}
"""Kinds of modality that a file may contain, by its suffix; the first is the usual one."""

DEMUXERS_OF = {
    suffix: frozenset(demuxers.split())
    for _, names, demuxers in _TABLE
    if demuxers
    for suffix in names.split()
}
"""FFmpeg demuxers that may read a file, by its suffix."""
DEMUXERS = tuple(sorted(frozenset[str]().union(*DEMUXERS_OF.values())))
"""All FFmpeg demuxers that may be used; the others never see untrusted bytes."""
