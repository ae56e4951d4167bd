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
from pipeline.storage.store_path import StorePath

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.zst")
"""The names of shards in a folder."""


def discover_shards(patterns: Sequence[str | StorePath]) -> list[StorePath]:
    """The shards of files, folders (what in them ends as ENDINGS say) and globs, each once, by path (raises InputError where a pattern has none)."""
    found: dict[str, StorePath] = {}
    for pattern in patterns:
        matches = _match(pattern)
        if not matches:
            raise InputError(
                f"no shards match {str(pattern)!r}",
                "give tar files, folders that hold *.tar, or quoted globs",
            )
        found |= {str(store_path): store_path for store_path in matches}
    if not found:
        raise InputError(
            "no shards match: none were given",
            "give tar files, folders that hold *.tar, or quoted globs",
        )
    return [found[path] for path in sorted(found)]


def _match(pattern: str | StorePath) -> list[StorePath]:
    store_path = StorePath.at(pattern)
    kind = store_path.info().type
    if kind == pafs.FileType.File:
        return [store_path]
    if kind == pafs.FileType.Directory:
        return [entry for entry in store_path.list() if entry.name.endswith(ENDINGS)]
    if store_path.local:
        paths = glob.glob(store_path.path, recursive=True)  # noqa: PTH207 - the pattern may be absolute
        return [StorePath.at(path) for path in paths if Path(path).is_file()]
    return [entry for entry in store_path.parent.list() if fnmatch(entry.name, store_path.name)]


def shard_names(shards: Sequence[StorePath]) -> list[str]:
    """The shards' names in tables: their paths below the folder that all have in common, wherever that folder lies."""
    common = posixpath.commonpath([posixpath.dirname(store_path.path) for store_path in shards])
    return [
        posixpath.relpath(store_path.path, common) if common else store_path.path
        for store_path in shards
    ]


class ShardFile:
    """A shard for reading, whose errors name it, and no other file that is in use meanwhile."""

    def __init__(self, store_path: StorePath) -> None:
        self._path = store_path
        try:
            if store_path.local:
                self._file: Any = store_path.local.open("rb", 0)
            else:
                self._file = io.BufferedReader(
                    store_path.fs.open_input_file(store_path.path), WINDOW
                )
        except FileNotFoundError as error:
            cure = "give the shards that are there"
            raise MissingError(f"shard {store_path} does not exist", cure) from error
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
            f"shard {self._path} cannot be read ({error})",
            "check that it is there and may be read",
        )
