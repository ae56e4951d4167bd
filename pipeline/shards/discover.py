"""Finds shards by files, folders and globs, names them, and opens them."""

import glob
import io
import posixpath
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
from braceexpand import braceexpand

from pipeline.errors import InputError, MissingError, StoreError
from pipeline.storage.store_path import StorePath

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.zst")
"""Endings of the file names that are shards in a folder."""
REMOTE_BYTES = 2**22
"""Bytes per request of an object that is read in full."""
SEEK_BYTES = 2**14
"""Bytes per read of a shard whose media are skipped: metadata of a sample and the next header."""


def discover_shards(patterns: Sequence[str | StorePath]) -> list[StorePath]:
    """Find the shards that match any pattern, sorted by path, without duplicates.

    Args:
        patterns: files (any name), folders (their files with ENDINGS), globs, and ranges in braces
            such as `x-{000000..000127}.tar`, of which every file must exist.
    Raises:
        InputError: a pattern matches no shard. StoreError.
    """
    shards: dict[str, StorePath] = {}
    for pattern in patterns:
        for each in _expanded(pattern):
            matches = _match(each)
            if not matches:
                raise InputError(
                    f"No shards match {str(each)!r}",
                    "give tar files, folders with *.tar files, or quoted globs",
                )
            shards |= {str(path): path for path in matches}
    if not shards:
        raise InputError(
            "No shards given", "give tar files, folders with *.tar files, or quoted globs"
        )
    return [shards[name] for name in sorted(shards)]


def _expanded(pattern: str | StorePath) -> list[str | StorePath]:
    """The paths that a range in braces stands for; a path that exists stands for itself."""
    if "{" not in str(pattern) or StorePath.at(pattern).exists():
        return [pattern]
    try:
        return [*braceexpand(str(pattern))]
    except ValueError:  # a brace without its partner
        return [pattern]


def _match(pattern: str | StorePath) -> list[StorePath]:
    path = StorePath.at(pattern)
    kind = path.info().type
    if kind == pafs.FileType.File:
        return [path]
    if kind == pafs.FileType.Directory:
        return [entry for entry in path.list() if entry.name.endswith(ENDINGS)]
    if path.local:
        names = glob.glob(path.path, recursive=True)  # noqa: PTH207 - the pattern may be absolute
        return [StorePath.at(name) for name in names if Path(name).is_file()]
    return [entry for entry in path.parent.list() if fnmatch(entry.name, path.name)]


def shard_names(shards: Sequence[StorePath]) -> list[str]:
    """Names of shards in tables: paths relative to the deepest folder that contains all of them.

    The names do not change if that folder is moved.
    """
    common = posixpath.commonpath([posixpath.dirname(path.path) for path in shards])
    return [posixpath.relpath(path.path, common) if common else path.path for path in shards]


class ShardFile:
    """A shard open for reading, a context manager.

    Its errors name the shard; those of other files used inside the block are not converted.

    Args:
        path: the shard.
        seeks: read little at once, for a caller of `read_at`.
    Raises:
        MissingError, StoreError.
    """

    def __init__(self, path: StorePath, *, seeks: bool = False) -> None:
        self._path = path
        try:
            if path.local:
                self._file: Any = path.local.open("rb", SEEK_BYTES if seeks else 0)
            else:
                file = path.fs.open_input_file(path.path)
                self._file = io.BufferedReader(file, SEEK_BYTES if seeks else REMOTE_BYTES)
        except FileNotFoundError as error:
            raise MissingError(f"Shard not found: {path}", "give existing shards") from error
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def __enter__(self) -> "ShardFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes; none at the end. Raises StoreError."""
        try:
            data: bytes = self._file.read(size)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error
        return data

    def read_at(self, offset: int, size: int) -> bytes:
        """Read at most `size` bytes at a position. Raises StoreError."""
        try:
            self._file.seek(offset)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error
        return self.read(size)

    def _unreadable(self, error: Exception) -> StoreError:
        return StoreError(
            f"Shard {self._path} cannot be read ({error})",
            "check that it exists and that you have access",
        )
