"""Reads files of a store: only files inside the store, with a bounded cache of their content."""

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
"""Parts of S3 error messages that reveal buckets, keys and servers."""
METADATA_SECONDS = 1.0
"""How long listings and file metadata of a remote store are cached."""
MAX_JSON_BYTES = 4 * 2**20
"""Maximum size of a JSON file: parsing a hostile one needs some 60 times its size in memory."""
MEMORY_BYTES = 64 * 2**20
"""Approximate size of the cache of parsed files, as Python objects."""
HEADER_BYTES, ROW_BYTES, JSON_BYTES = 2**14, 2**11, 4
"""Estimated memory of a small entry, of one modality of a table row, and per byte of JSON.

The other columns of a table row count as two modalities.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A file of the store, in the version that the metadata describes."""

    path: StorePath
    info: pafs.FileInfo

    @property
    def version(self) -> tuple[str, int | None, int | None]:
        """A key that changes whenever the file does."""
        return self.path.path, self.info.size, self.info.mtime_ns

    @property
    def written(self) -> datetime:
        """When the file was written."""
        return datetime.fromtimestamp((self.info.mtime_ns or 0) / 1e9, UTC)


@contextmanager
def reading(artifact: Artifact) -> Iterator[None]:
    """Raise DataError naming the artifact if its values are invalid, e.g. unexpected nulls."""
    try:
        yield
    except (pa.ArrowException, LookupError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"Damaged file: {artifact.path} ({type(error).__name__}: {error})",
            "Create the artifact again",
        ) from error


@contextmanager
def validating(what: str) -> Iterator[None]:
    """Raise DataError naming the file and the first invalid field if it does not fit its model."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "content"
        raise DataError(
            f"Invalid {field} in {what}: {first['msg']} ({error.error_count()} errors)",
            "Create the artifact again",
        ) from error


class StoreReader:
    """Read access to a store, shared by all requests.

    Parsed files are cached up to MEMORY_BYTES. Tables of a remote store are cached on disk, in
    `cache_dir` or a temporary folder, up to `cache_size` bytes.
    """

    def __init__(self, store: str, cache_dir: Path | None, cache_size: int) -> None:
        self.root = StorePath.at(store, patient=False)
        self._top = (
            self.root if self.root.local else StorePath(self.root.fs, self.root.path.split("/")[0])
        )
        self._real = os.path.realpath(self.root.path) if self.root.local else ""
        self._lock = Lock()
        self._values: LRUCache[Any, Any] = LRUCache(MEMORY_BYTES, getsizeof=lambda entry: entry[0])
        self._remote_metadata: TTLCache[str, Any] = TTLCache(4096, METADATA_SECONDS)
        self._request_metadata: dict[str, Any] | None = None
        self._temporary = None
        self._cache = None
        if not self.root.local:
            if cache_dir is None:
                self._temporary = tempfile.TemporaryDirectory(prefix="remix-cache-")
                cache_dir = Path(self._temporary.name)
            self._cache = NodeCache(cache_dir, cache_size)
        cached = [str(self._cache.folder)] if self._cache else []
        self._private = [
            text
            for text in (str(self.root), str(self._top), self._real, self.root.path, *cached)
            if len(text) > 1
        ]

    def for_request(self) -> "StoreReader":
        """A reader for one request, which reads the metadata of a local file at most once."""
        if not self.root.local:
            return self
        reader = copy(self)
        reader._request_metadata = {}
        return reader

    def close(self) -> None:
        """Remove the temporary cache folder, if one was created."""
        if self._temporary:
            self._temporary.cleanup()

    def public(self, message: str) -> str:
        """A message without local paths, buckets and the location of the store."""
        for text in self._private:
            message = message.replace(text, "store")
        return message if self.root.local else S3_DETAILS.sub(r"\1", message)

    def check(self) -> None:
        """Raise StoreError if the store does not exist."""
        if (
            self._cached_metadata(f"info {self._top.path}", self._top.info).type
            != pafs.FileType.Directory
        ):
            raise StoreError(
                "Store not found",
                "Mount it again, or restart the service with another --store",
            )

    def names(self, *folder: str, pattern: str = NAME) -> list[str]:
        """Sorted names in a folder that match; empty if there is no such folder.

        Raises StoreError.
        """
        matches = re.compile(pattern).fullmatch
        return sorted(name for name in self._listing(*folder) if matches(name))

    def has(self, *path: str) -> bool:
        """Whether the listing of the folder contains the last component. Raises StoreError."""
        return path[-1] in self._listing(*path[:-1])

    def artifacts(self, *folder: str, pattern: str) -> list[Artifact]:
        """Files in a folder whose names match, sorted by name."""
        entries = [
            (self._path(*folder, name), info)
            for name, info in sorted(self._listing(*folder).items())
            if re.fullmatch(pattern, name)
        ]
        artifacts = [
            Artifact(
                path=store_path,
                info=info or self._cached_metadata(f"info {store_path.path}", store_path.info),
            )
            for store_path, info in entries
        ]
        return [artifact for artifact in artifacts if artifact.info.type != pafs.FileType.NotFound]

    def artifact(self, *path: str) -> Artifact:
        """One file; the path components must be validated or come from a listing.

        Raises MissingError, StoreError.
        """
        store_path = self._path(*path)
        info = self._cached_metadata(f"info {store_path.path}", store_path.info)
        if info.type == pafs.FileType.NotFound:
            self.check()
            raise MissingError(f"File not found: {store_path}")
        return Artifact(path=store_path, info=info)

    def json(self, artifact: Artifact, model: type[T], max_bytes: int = MAX_JSON_BYTES) -> T:
        """Parse a JSON file of at most `max_bytes` as a model. Raises DataError."""
        return self.cached(
            artifact,
            model.__name__,
            lambda: self._parse(artifact, model, max_bytes),
            lambda _: JSON_BYTES * (artifact.info.size or 0),
        )

    def table(
        self, artifact: Artifact, expected: pa.Schema | None = None, *, copied: bool = True
    ) -> BatchFile:
        """Open an Arrow file; one of a remote store is copied to the disk cache if it fits.

        With `copied` false it is read by ranges instead, for a few rows of a large file.
        Raises DataError, MissingError, StoreError.
        """
        self._check_inside(artifact.path)
        return BatchFile(artifact.path, expected, copy=self._copy(artifact) if copied else None)

    def _copy(self, artifact: Artifact) -> pa.Buffer | None:
        if self._cache is None:
            return None
        size, modified = artifact.info.size or 0, artifact.info.mtime_ns
        file = RemoteFile(path=artifact.path, sha256=None, num_bytes=size, mtime_ns=modified)
        return self._cache.map(file)

    def cached(
        self,
        artifact: Artifact,
        what: str,
        build: Callable[[], T],
        size_of: Callable[[T], int] = lambda _: HEADER_BYTES,
    ) -> T:
        """Return `build()`, cached for this version of the file under the name `what`.

        `size_of` estimates the memory of a value in bytes; the least recently used is evicted.
        """
        key = (*artifact.version, what)
        with self._lock:
            if key in self._values:
                return cast(T, self._values[key][1])
        with reading(artifact):
            value = build()
        num_bytes = max(size_of(value), HEADER_BYTES)
        if num_bytes <= MEMORY_BYTES:
            with self._lock:
                self._values[key] = (num_bytes, value)
        return value

    def _path(self, *path: str) -> StorePath:
        return self.root / posixpath.join(*path)

    def _listing(self, *folder: str) -> dict[str, pafs.FileInfo | None]:
        store_path = self._path(*folder)
        listing = self._cached_metadata(
            f"list {store_path.path}", lambda: self._entries(store_path)
        )
        if not listing:
            self.check()
        return listing

    def _entries(self, store_path: StorePath) -> dict[str, pafs.FileInfo | None]:
        """Names in a folder; with their metadata for a remote store, whose listing includes it."""
        try:
            if store_path.local:
                # pyarrow would stat every entry, and fail at a name that is not UTF-8
                return dict.fromkeys(entry.name for entry in os.scandir(store_path.path))
            entries = store_path.fs.get_file_info(
                pafs.FileSelector(store_path.path, allow_not_found=True)
            )
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (pa.ArrowException, OSError) as error:
            raise StoreError(
                f"Cannot list {store_path} ({error})",
                "Check that the store exists and is readable",
            ) from error
        return {entry.base_name: entry for entry in entries}

    def _cached_metadata(self, key: str, read: Callable[[], T]) -> T:
        if self.root.local:
            if self._request_metadata is None:
                return read()
            if key not in self._request_metadata:
                self._request_metadata[key] = read()
            return cast(T, self._request_metadata[key])
        # threads that need the same metadata at the same time share one request to the store
        with self._lock:
            future: Future[T] | None = self._remote_metadata.get(key)
            is_first = future is None
            if future is None:
                future = self._remote_metadata[key] = Future()
        if is_first:
            try:
                future.set_result(read())
            except BaseException as error:
                future.set_exception(error)
        return future.result()

    def _check_inside(self, store_path: StorePath) -> None:
        """Raise DataError unless the path is a regular file inside the store, links resolved."""
        if not store_path.local:
            return
        real = os.path.realpath(store_path.path)
        if not real.startswith(self._real.rstrip("/") + "/"):
            raise DataError(
                f"Link to a file outside the store: {store_path}",
                "Replace it by a copy of the file",
            )
        try:
            regular = stat.S_ISREG(Path(real).stat().st_mode)
        except OSError as error:
            raise MissingError(f"File not found: {store_path}") from error
        if not regular:
            raise DataError(f"Not a regular file: {store_path}", "Replace it by a regular file")

    def _parse(self, artifact: Artifact, model: type[T], max_bytes: int) -> T:
        self._check_inside(artifact.path)
        if (artifact.info.size or 0) > max_bytes:
            raise DataError(
                f"File too large: {artifact.path} has {artifact.info.size:,} bytes,"
                f" at most {max_bytes:,} are supported",
                "Create the artifact again",
            )
        with validating(str(artifact.path)):
            return TypeAdapter(model).validate_json(artifact.path.read_bytes())
