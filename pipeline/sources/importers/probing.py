"""Files -> how to decode them: the kind of a modality by its files' extensions, and parameters that suit some of them."""

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from pathlib import Path
from statistics import mode
from typing import Any, TypeVar

import av
import numpy as np
from av.audio.stream import AudioStream
from av.stream import Disposition
from av.video.stream import VideoStream
from PIL import Image

from pipeline.errors import DataError
from pipeline.shards.member_suffixes import DEMUXERS, KINDS_OF
from pipeline.sources.checks import one_of, require

T = TypeVar("T")

NUM_PROBED = 64
MAX_SIZE = 112
MAX_SAMPLE_RATE = 16_000
MAX_SECONDS = 10.0
MAX_LENGTH = 1024
_WITHOUT = {"audio": "without sound", "video": "without pictures"}
# A playlist is media too, and would have FFmpeg open the files and URLs that it names.
_CONTAINER = {"protocol_whitelist": "none", "format_whitelist": ",".join(DEMUXERS)}


def extension(path: Path) -> str:
    """The extension in small letters, without its dot."""
    return path.suffix.lower().removeprefix(".")


def media_below(folder: Path, kind: str) -> list[Path]:
    """The files whose extension usually holds this kind, sorted, wherever they lie in a folder."""
    return sorted(
        path
        for path in folder.rglob("*")
        if KINDS_OF.get(extension(path), ("",))[0] == kind and not path.name.startswith(".")
    )


def kind_of(name: str, files: Mapping[str, Path], shared: bool, override: str | None) -> str:
    """The kind of a modality from one file of each extension that it has; `shared` says whether another modality reads the same files (raises InputError)."""
    possible: tuple[str, ...] = ("video", "audio", "image", "tensor", "text")
    for found, path in files.items():
        require(
            found in KINDS_OF,
            f"modality {name!r}: {path} has the extension {found!r}, which is of no known kind",
            one_of(found, KINDS_OF),
        )
        possible = tuple(kind for kind in possible if kind in KINDS_OF[found])
    wanted = override or name
    if wanted in possible:
        return wanted
    extensions = ", ".join(files)
    require(
        len(possible) > 0 and not override,
        f"modality {name!r}: files of {extensions} are not all {override or 'of one kind'}",
        "give another kind, or another column",
    )
    require(
        len(possible) == 1 or not shared,
        f"modality {name!r} may be {' or '.join(possible)} in files of {extensions} that another reads too",
        f"say which: --kind {name}={possible[0]}",
    )
    return possible[0]


def lacks(path: Path, kinds: Sequence[str]) -> str:
    """Why a container cannot be read as these of "audio" and "video": "unreadable", "without sound", "without pictures"; "" where nothing speaks against it."""
    try:
        with path.open("rb") as file, av.open(file, "r", container_options=_CONTAINER) as container:
            films = [
                stream
                for stream in container.streams.video
                if not stream.disposition & Disposition.attached_pic
            ]
            streams: dict[str, Sequence[AudioStream | VideoStream]] = {
                "audio": container.streams.audio,
                "video": films,
            }
            if absent := [kind for kind in kinds if not streams[kind]]:
                return _WITHOUT[absent[0]]
            # A header may promise a stream of which nothing is there.
            waiting = {streams[kind][0].index: kind for kind in kinds}
            for packet in container.demux([streams[kind][0] for kind in kinds]):
                if packet.size:
                    waiting.pop(packet.stream_index, None)
                if not waiting:
                    return ""
            return _WITHOUT[next(iter(waiting.values()))]
    except (av.FFmpegError, OSError, ValueError):
        return "unreadable"


def fields_of(name: str, kind: str, files: list[Path]) -> dict[str, Any]:
    """Decode parameters that suit a few files from all over (raises DataError where none of them can be read)."""
    few = files[:: ceil(len(files) / NUM_PROBED)]
    if kind == "video":
        return {"size": _size(_probe(name, few, _short_side))}
    if kind == "audio":
        return _audio_fields(_probe(name, few, _rate_and_seconds))
    if kind == "image":
        sides, greys = zip(*_probe(name, few, _side_and_grey), strict=True)
        return {"size": _size(sides), "channels": 1 if all(greys) else 3}
    if kind == "text":
        length = _most(_probe(name, few, _num_bytes))
        return {"length": min(max(ceil(length), 16), MAX_LENGTH)}
    shapes = sorted(set(_probe(name, few, _shape)))
    if len(shapes) > 1:
        raise DataError(
            f"modality {name!r}: arrays of the shapes {shapes[0]} and {shapes[1]}",
            "give every array the same shape",
        )
    return {"shape": shapes[0]}


def _audio_fields(found: list[tuple[int, float | None]]) -> dict[str, Any]:
    fields: dict[str, Any] = {"sample_rate": min(mode(rate for rate, _ in found), MAX_SAMPLE_RATE)}
    if lengths := [seconds for _, seconds in found if seconds is not None]:
        fields["seconds"] = min(max(ceil(10 * _most(lengths)) / 10, 0.1), MAX_SECONDS)
    return fields


def _most(lengths: Sequence[float]) -> float:
    """The 95th percentile: one recording that was left running must not make every other mostly padding."""
    return float(np.quantile(lengths, 0.95))


def _size(short_sides: Sequence[int]) -> int:
    return max(8, min(MAX_SIZE, mode(short_sides)))


def _probe(name: str, files: list[Path], look: Callable[[Path], T]) -> list[T]:
    found: list[T] = []
    problem = ""
    for path in files:
        try:
            found.append(look(path))
        # What a broken file raises differs by format; decoding will name each one, here only their whole matters.
        except Exception as error:
            problem = problem or f"{path}: {error}"
    if not found:
        raise DataError(
            f"modality {name!r}: none of {len(files)} files tried can be read ({problem})",
            "give another column, or another kind",
        )
    return found


def _short_side(path: Path) -> int:
    with path.open("rb") as file, av.open(file, "r") as container:
        stream = container.streams.video[0]
        return min(stream.width, stream.height)


def _rate_and_seconds(path: Path) -> tuple[int, float | None]:
    with path.open("rb") as file, av.open(file, "r") as container:
        stream = container.streams.audio[0]
        if stream.duration is not None and stream.time_base is not None:
            return stream.rate, float(stream.duration * stream.time_base)
        return stream.rate, container.duration / av.time_base if container.duration else None


def _side_and_grey(path: Path) -> tuple[int, bool]:
    with Image.open(path) as picture:
        return min(picture.size), picture.mode in ("1", "L", "LA", "I", "I;16", "F")


def _shape(path: Path) -> tuple[int, ...]:
    return tuple(np.load(path, mmap_mode="r", allow_pickle=False).shape)


def _num_bytes(path: Path) -> int:
    return len(path.read_bytes().decode("utf-8-sig").encode())
