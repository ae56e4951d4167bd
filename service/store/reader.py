"""The store as the service reads it: listed names alone, nothing outside it, and a bounded memory of what was read."""

import os
import posixpath
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar, cast

import pyarrow as pa
import pyarrow.fs as pafs
from cachetools import LRUCache, TTLCache
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import DataError, MissingError, StoreError
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.node_cache import NodeCache, RemoteFile
from pipeline.storage.store_path import StorePath

T = TypeVar("T")
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
S3_DETAILS = re.compile(r"\b(key|bucket) '[^']*'|; Details: [^)]*")
"""What messages of S3 tell of buckets and servers."""
FRESH_SECONDS = 1.0
"""How long what a remote store said of its files is believed."""
MAX_JSON_BYTES = 4 * 2**20
"""A reader of hostile JSON needs some 60 times its size."""
MEMORY_BYTES = 64 * 2**20
"""Of what is remembered of files, as Python objects, about."""
HEADER_BYTES, ROW_BYTES, JSON_BYTES = 2**14, 2**10, 4
"""What the least takes; a modality of a row of a table, and its other columns as much as two; a byte of JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """One version of a file of the store."""

    path: StorePath
    info: pafs.FileInfo

    @property
    def version(self) -> tuple[str, int | None, int | None]:
        """Changes whenever the file does."""
        return self.path.path, self.info.size, self.info.mtime_ns

    @property
    def written(self) -> datetime:
        """When the file was written."""
        return datetime.fromtimestamp((self.info.mtime_ns or 0) / 1e9, UTC)


@contextmanager
def reading(artifact: Artifact) -> Iterator[None]:
    """Names the artifact where its values are not what its schema lets expect, such as nulls (raises DataError)."""
    try:
        yield
    except (pa.ArrowException, LookupError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{artifact.path} is damaged ({type(error).__name__}: {error})", "write it again"
        ) from error


@contextmanager
def fitting(what: str) -> Iterator[None]:
    """Names what does not fit its model, and the first field that does not (raises DataError)."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(
            f"{what} is not what it should be: {where}: {first['msg']} ({error.error_count()} errors)",
            "write it again",
        ) from error


class StoreReader:
    """A store that is open for reading."""

    def __init__(self, store: str, cache_dir: Path | None, cache_size: int) -> None:
        self.root = StorePath.at(store, patient=False)
        self._top = (
            self.root if self.root.local else StorePath(self.root.fs, self.root.path.split("/")[0])
        )
        self._real = os.path.realpath(self.root.path) if self.root.local else ""
        self._lock = Lock()
        self._memory: LRUCache[Any, Any] = LRUCache(MEMORY_BYTES, getsizeof=lambda entry: entry[0])
        self._told: TTLCache[str, Any] = TTLCache(4096, FRESH_SECONDS)
        self._seen: dict[str, Any] | None = None
        self._temporary = None
        self._cache = None
        if not self.root.local:
            if cache_dir is None:
                self._temporary = tempfile.TemporaryDirectory(prefix="remix-cache-")
                cache_dir = Path(self._temporary.name)
            self._cache = NodeCache(cache_dir, cache_size)
        cached = [str(self._cache.folder)] if self._cache else []
        self._hidden = [
            text
            for text in (str(self.root), str(self._top), self._real, self.root.path, *cached)
            if len(text) > 1
        ]

    def view(self) -> "StoreReader":
        """The same store for one request: what the disk says of a file is asked for once; a remote store is believed for FRESH_SECONDS."""
        if not self.root.local:
            return self
        view = copy(self)
        view._seen = {}
        return view

    def close(self) -> None:
        """Removes the copies of remote files, unless a folder was given for them."""
        if self._temporary:
            self._temporary.cleanup()

    def public(self, message: str) -> str:
        """A message without the places of this machine or of the store."""
        for text in self._hidden:
            message = message.replace(text, "store")
        return message if self.root.local else S3_DETAILS.sub(r"\1", message)

    def check(self) -> None:
        """Raises StoreError where the store is not there."""
        if self._fresh(f"info {self._top.path}", self._top.info).type != pafs.FileType.Directory:
            raise StoreError(
                "the store is not there",
                "mount it again, or start the service with another --store",
            )

    def names(self, *folder: str, pattern: str = NAME) -> list[str]:
        """The names in a folder that match, in order; [] where there is no such folder (raises StoreError)."""
        matches = re.compile(pattern).fullmatch
        return sorted(name for name in self._listing(*folder) if matches(name))

    def has(self, *path: str) -> bool:
        """Whether the last component stands in the listing of its folder (raises StoreError)."""
        return path[-1] in self._listing(*path[:-1])

    def artifacts(self, *folder: str, pattern: str) -> list[Artifact]:
        """The files in a folder whose names match, in order."""
        found = [
            (self._path(*folder, name), info)
            for name, info in sorted(self._listing(*folder).items())
            if re.fullmatch(pattern, name)
        ]
        artifacts = [
            Artifact(
                path=store_path,
                info=info or self._fresh(f"info {store_path.path}", store_path.info),
            )
            for store_path, info in found
        ]
        return [artifact for artifact in artifacts if artifact.info.type != pafs.FileType.NotFound]

    def artifact(self, *path: str) -> Artifact:
        """One file, by components that were checked or come from a listing (raises MissingError, DataError, StoreError)."""
        store_path = self._path(*path)
        info = self._fresh(f"info {store_path.path}", store_path.info)
        if info.type == pafs.FileType.NotFound:
            self.check()
            raise MissingError(f"{store_path} does not exist")
        return Artifact(path=store_path, info=info)

    def json(self, artifact: Artifact, model: type[T], max_bytes: int = MAX_JSON_BYTES) -> T:
        """The file, of at most so many bytes, as a model (raises DataError)."""
        return self.remember(
            artifact,
            model.__name__,
            lambda: self._parse(artifact, model, max_bytes),
            lambda _: JSON_BYTES * (artifact.info.size or 0),
        )

    def table(self, artifact: Artifact, expected: pa.Schema | None = None) -> BatchFile:
        """The file as record batches; of a remote store a copy, where the cache has room for it.

        Raises DataError, MissingError, StoreError.
        """
        self._check_inside(artifact.path)
        return BatchFile(artifact.path, expected, copy=self._copy(artifact))

    def _copy(self, artifact: Artifact) -> pa.Buffer | None:
        if self._cache is None:
            return None
        size, modified = artifact.info.size or 0, artifact.info.mtime_ns
        file = RemoteFile(path=artifact.path, sha256=None, num_bytes=size, mtime_ns=modified)
        return self._cache.map(file)

    def remember(
        self,
        artifact: Artifact,
        what: str,
        build: Callable[[], T],
        weigh: Callable[[T], int] = lambda _: HEADER_BYTES,
    ) -> T:
        """What `build` made of this version of the file, which takes about `weigh` bytes of memory; the least used is forgotten."""
        key = (*artifact.version, what)
        with self._lock:
            if key in self._memory:
                return cast(T, self._memory[key][1])
        with reading(artifact):
            value = build()
        num_bytes = max(weigh(value), HEADER_BYTES)
        if num_bytes <= MEMORY_BYTES:
            with self._lock:
                self._memory[key] = (num_bytes, value)
        return value

    def _path(self, *path: str) -> StorePath:
        return self.root / posixpath.join(*path)

    def _listing(self, *folder: str) -> dict[str, pafs.FileInfo | None]:
        store_path = self._path(*folder)
        listing = self._fresh(f"list {store_path.path}", lambda: self._entries(store_path))
        if not listing:
            self.check()
        return listing

    def _entries(self, store_path: StorePath) -> dict[str, pafs.FileInfo | None]:
        """The names in a folder; what else a remote store tells of them comes with its listing."""
        try:
            if store_path.local:
                # pyarrow would ask for the facts of every entry, and fail at a name that is not UTF-8
                return dict.fromkeys(entry.name for entry in os.scandir(store_path.path))
            entries = store_path.fs.get_file_info(
                pafs.FileSelector(store_path.path, allow_not_found=True)
            )
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (pa.ArrowException, OSError) as error:
            raise StoreError(
                f"{store_path} cannot be listed ({error})",
                "check that the store is there and may be read",
            ) from error
        return {entry.base_name: entry for entry in entries}

    def _fresh(self, key: str, ask: Callable[[], T]) -> T:
        if self.root.local:
            if self._seen is None:
                return ask()
            if key not in self._seen:
                self._seen[key] = ask()
            return cast(T, self._seen[key])
        with self._lock:
            flight: Future[T] | None = self._told.get(key)
            mine = flight is None
            if flight is None:
                flight = self._told[key] = Future()
        if mine:
            try:
                flight.set_result(ask())
            except BaseException as error:
                flight.set_exception(error)
        return flight.result()

    def _check_inside(self, store_path: StorePath) -> None:
        """Raises DataError for what is no plain file, or a link that leads out of the store."""
        if not store_path.local:
            return
        real = os.path.realpath(store_path.path)
        if not real.startswith(self._real.rstrip("/") + "/"):
            raise DataError(f"{store_path} leads out of the store", "put the file itself there")
        try:
            regular = stat.S_ISREG(Path(real).stat().st_mode)
        except OSError as error:
            raise MissingError(f"{store_path} does not exist") from error
        if not regular:
            raise DataError(f"{store_path} is not a plain file", "put a file there")

    def _parse(self, artifact: Artifact, model: type[T], max_bytes: int) -> T:
        self._check_inside(artifact.path)
        if (artifact.info.size or 0) > max_bytes:
            raise DataError(
                f"{artifact.path} has {artifact.info.size} bytes, more than the {max_bytes} of any that Remix writes",
                "write it again",
            )
        with fitting(str(artifact.path)):
            return TypeAdapter(model).validate_json(artifact.path.read_bytes())
