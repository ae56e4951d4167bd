"""Which shards are meant: files, folders and globs -> places and their names in tables."""

import glob
import io
import posixpath
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.errors import InputError, MissingError, StoreError
from pipeline.shards.decompress import WINDOW
from pipeline.storage.store_path import Place

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.zst")
"""The names of shards in a folder."""


def find_shards(patterns: Sequence[str | Place]) -> list[Place]:
    """The shards of files, folders (what in them ends as ENDINGS say) and globs, each once, by path (raises InputError where a pattern has none)."""
    found: dict[str, Place] = {}
    for pattern in patterns:
        matches = _match(pattern)
        if not matches:
            raise InputError(
                f"no shards match {str(pattern)!r}",
                "give tar files, folders that hold *.tar, or quoted globs",
            )
        found |= {str(place): place for place in matches}
    if not found:
        raise InputError(
            "no shards match: none were given",
            "give tar files, folders that hold *.tar, or quoted globs",
        )
    return [found[path] for path in sorted(found)]


def _match(pattern: str | Place) -> list[Place]:
    place = Place.at(pattern)
    kind = place.info().type
    if kind == pafs.FileType.File:
        return [place]
    if kind == pafs.FileType.Directory:
        return [entry for entry in place.list() if entry.name.endswith(ENDINGS)]
    if place.local:
        paths = glob.glob(place.path, recursive=True)  # noqa: PTH207 - the pattern may be absolute
        return [Place.at(path) for path in paths if Path(path).is_file()]
    return [entry for entry in place.parent.list() if fnmatch(entry.name, place.name)]


def shard_names(shards: Sequence[Place]) -> list[str]:
    """The shards' names in tables: their paths below the folder that all have in common, wherever that folder lies."""
    common = posixpath.commonpath([posixpath.dirname(place.path) for place in shards])
    return [posixpath.relpath(place.path, common) if common else place.path for place in shards]


class ShardFile:
    """A shard for reading, whose errors name it, and no other file that is in use meanwhile."""

    def __init__(self, place: Place) -> None:
        self._place = place
        try:
            if place.local:
                self._file: Any = place.local.open("rb", 0)
            else:
                self._file = io.BufferedReader(place.fs.open_input_file(place.path), WINDOW)
        except FileNotFoundError as error:
            cure = "give the shards that are there"
            raise MissingError(f"shard {place} does not exist", cure) from error
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def __enter__(self) -> "ShardFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """The next bytes (raises StoreError)."""
        try:
            data: bytes = self._file.read(size)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error
        return data

    def _unreadable(self, error: Exception) -> StoreError:
        return StoreError(
            f"shard {self._place} cannot be read ({error})",
            "check that it is there and may be read",
        )
