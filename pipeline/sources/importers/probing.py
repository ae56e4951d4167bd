"""Inference of decode settings: kinds from file extensions, parameters from some of the files."""

import io
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

import av
from av.audio.stream import AudioStream
from av.stream import Disposition
from av.video.stream import VideoStream
from PIL import Image

from pipeline.decode.fitting import audio_fields, image_fields, text_fields, video_fields
from pipeline.decode.media.image import FORMATS
from pipeline.decode.media.probe import side_and_grey, streams_in
from pipeline.decode.media.tensor import npy_header
from pipeline.errors import DataError
from pipeline.shards.member_suffixes import DEMUXERS, DEMUXERS_OF, KINDS_OF, TEXT
from pipeline.sources.checks import one_of, require
from pipeline.sources.importers.content import Source, extension

T = TypeVar("T")

NUM_PROBED = 64
KINDS = ("video", "audio", "image", "tensor", "text")
_MAX_HEADER = 2**17
"""Bytes that are read for the header of an .npy file; version 1.0 has at most 2^16 + 10."""
_USUAL = {"image": "png", "audio": "wav", "video": "mp4"}
_WITHOUT = {"audio": "without sound", "video": "without pictures"}
# A playlist could make FFmpeg open local files and URLs, so only these formats are allowed.
_CONTAINER = {"protocol_whitelist": "none", "format_whitelist": ",".join(DEMUXERS)}


def media_below(folder: Path, kind: str) -> list[Path]:
    """Files below a folder, at any depth, whose extension is usual for a kind; sorted."""
    return sorted(
        path
        for path in folder.rglob("*")
        if KINDS_OF.get(extension(path), ("",))[0] == kind and not path.name.startswith(".")
    )


def kind_of(name: str, files: Mapping[str, Source], shared: bool, given: str | None) -> str:
    """Infer the kind of a modality.

    Args:
        name: name of the modality; if it is also a possible kind, that kind is used.
        files: a file for each extension.
        shared: another modality reads the same files, so a choice of kinds is ambiguous.
        given: kind given by the user, which is used whatever the extensions are.
    Raises:
        InputError: the kind is unknown, no kind is possible, or several are and the choice is
            ambiguous.
    """
    require(
        given is None or given in KINDS,
        f"Unknown kind {given!r} for modality {name!r}",
        one_of(given or "", KINDS),
    )
    possible: tuple[str, ...] = KINDS
    for suffix, path in files.items():
        require(
            suffix not in ("", *TEXT),
            f"Modality {name!r}: a member cannot have the extension {suffix!r}: {path}",
            "Rename the files.",
        )
        require(
            suffix in KINDS_OF or given is not None,
            f"Unknown extension {suffix!r} for modality {name!r}: {path}",
            f"Pass the kind of the files, such as --kind {name}=text, or another column.",
        )
        possible = tuple(kind for kind in possible if kind in KINDS_OF.get(suffix, KINDS))
    if given or name in possible:
        return given or name
    extensions = ", ".join(files)
    require(
        len(possible) > 0,
        f"Modality {name!r}: not all files ({extensions}) are of one kind",
        f"Choose another column, or the kind with --kind {name}=KIND.",
    )
    require(
        len(possible) == 1 or not shared,
        f"Modality {name!r} may be {' or '.join(possible)}: another modality reads the same files"
        f" ({extensions})",
        f"Choose one with --kind, such as --kind {name}={possible[0]}.",
    )
    return possible[0]


def stream_problem(path: Path, kinds: Sequence[str]) -> str:
    """Return why a file cannot be read as the given kinds, of "audio" and "video".

    "unreadable", "without sound", "without pictures", or "" if no problem is found.
    """
    try:
        with path.open("rb") as file, av.open(file, "r", container_options=_CONTAINER) as container:
            videos = [
                stream
                for stream in container.streams.video
                if not stream.disposition & Disposition.attached_pic
            ]
            streams: dict[str, Sequence[AudioStream | VideoStream]] = {
                "audio": container.streams.audio,
                "video": videos,
            }
            if absent := [kind for kind in kinds if not streams[kind]]:
                return _WITHOUT[absent[0]]
            # The header may list a stream that has no packets.
            pending = {streams[kind][0].index: kind for kind in kinds}
            for packet in container.demux([streams[kind][0] for kind in kinds]):
                if packet.size:
                    pending.pop(packet.stream_index, None)
                if not pending:
                    return ""
            return _WITHOUT[next(iter(pending.values()))]
    except (av.FFmpegError, OSError, ValueError):
        return "unreadable"


def suffix_of(data: bytes, kind: str) -> str:
    """Return a suffix for bytes of a kind, image, audio or video, that have no file name."""
    try:
        if kind == "image":
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                names = {(image.format or "").lower()}
            fitting = [suffix for suffix in names if suffix in KINDS_OF]
        else:
            with av.open(io.BytesIO(data), container_options=_CONTAINER) as container:
                names = set(container.format.name.split(","))
            fitting = [
                suffix
                for suffix, kinds in KINDS_OF.items()
                if kinds[0] == kind and names & DEMUXERS_OF.get(suffix, frozenset())
            ]
    # Decoding will reject what is unreadable.
    except Exception:
        fitting = []
    return fitting[0] if fitting else _USUAL[kind]


def fields_of(name: str, kind: str, files: list[Source]) -> dict[str, Any]:
    """Infer decode parameters from at most 64 of the files. Raises DataError.

    Files that cannot be read are skipped, unless all of them are.
    """
    probed = files[:: ceil(len(files) / NUM_PROBED)]
    if kind == "video":
        return video_fields(_probe(name, kind, probed, _short_side))
    if kind == "audio":
        return audio_fields(_probe(name, kind, probed, _rate_and_seconds))
    if kind == "image":
        return image_fields(_probe(name, kind, probed, _side_and_grey))
    if kind == "text":
        return text_fields(_probe(name, kind, probed, _num_bytes))
    shapes = sorted(set(_probe(name, kind, probed, _shape)))
    if len(shapes) > 1:
        raise DataError(
            f"Modality {name!r} has arrays of different shapes: {shapes[0]} and {shapes[1]}",
            "Convert all arrays to the same shape.",
        )
    return {"shape": shapes[0]}


def _probe(name: str, kind: str, files: list[Source], read: Callable[[Source], T]) -> list[T]:
    """Call a function for each file and return the results of those that can be read.

    Raises DataError if none can.
    """
    results: list[T] = []
    problem = ""
    for path in files:
        try:
            results.append(read(path))
        # Each format raises its own errors for broken files. Decoding will report each broken file.
        except Exception as error:
            problem = problem or f"{path}: {error}"
    if not results:
        raise DataError(
            f"None of {len(files)} files of modality {name!r} can be read as {kind} ({problem})",
            f"Choose another column, or another kind with --kind {name}=KIND.",
        )
    return results


def _short_side(source: Source) -> int:
    with source.open("rb") as file, av.open(file, "r", container_options=_CONTAINER) as container:
        side: int = streams_in(container)["video"][0]
        return side


def _rate_and_seconds(source: Source) -> tuple[int, float | None]:
    with source.open("rb") as file, av.open(file, "r", container_options=_CONTAINER) as container:
        rate, seconds = streams_in(container)["audio"]
        return rate, seconds


def _side_and_grey(source: Source) -> tuple[int, bool]:
    with source.open("rb") as file, Image.open(file, formats=FORMATS) as image:
        return side_and_grey(image)


def _shape(source: Source) -> tuple[int, ...]:
    with source.open("rb") as file:
        return npy_header(file.read(_MAX_HEADER))[0]


def _num_bytes(source: Source) -> int:
    return len(source.read_bytes().decode("utf-8-sig").encode())
