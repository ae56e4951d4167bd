"""A size-bounded cache of remote files on this node's disk, shared by all processes of the node.

A copy is named by its SHA-256, or if that is unknown by a hash of its path, size and modification
time. The state of the cache is its files and their locks (flock), which a process that dies
releases:

    <folder>              locked exclusively while space is counted, freed and reserved
    <folder>/<key>.part   a download: locked exclusively by its writer; has the final size from the
                          start, so that its space counts as used
    <folder>/<key>        a copy: locked shared by each mapping of it; unlocked copies are evicted,
                          least recently used first
"""

import fcntl
import hashlib
import logging
import mmap
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from pipeline.errors import ConfigError, DataError, StoreError
from pipeline.storage.store_path import StorePath

LOG = logging.getLogger("remix.cache")
PAUSE_SECONDS = 60.0
"""Pause of all downloads after a write to the cache failed."""
SHA256 = re.compile(r"[0-9a-f]{64}")
COPY = re.compile(r"[0-9a-f]{64}(\.part)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """A file of a remote store, identified by its SHA-256 or by its version (size and `mtime_ns`).

    A file with neither is not cached.
    """

    path: StorePath
    sha256: str | None
    num_bytes: int
    mtime_ns: int | None = None

    @property
    def key(self) -> str | None:
        """File name of its copy, None if it is not cached. Raises DataError."""
        if self.sha256 is not None:
            if not SHA256.fullmatch(self.sha256):
                raise DataError(f"Invalid SHA-256 of {self.path}: {self.sha256!r}", "decode again")
            return self.sha256
        if self.mtime_ns is None:
            return None
        version = f"{self.path}\0{self.num_bytes}\0{self.mtime_ns}"
        return hashlib.sha256(version.encode(errors="surrogateescape")).hexdigest()


class NodeCache:
    """A folder of copies whose total size, running downloads included, never exceeds `max_bytes`.

    Args:
        folder: a new or empty folder, or that of an existing cache of this user.
        max_bytes: maximum total size.
        keep: never evict a copy used since this cache was opened. For random access over more data
            than fits: every copy would otherwise be evicted before its next use.
    Raises:
        ConfigError, StoreError.
    """

    def __init__(self, folder: Path, max_bytes: int, keep: bool = False) -> None:
        self.folder, self.max_bytes, self.keep = folder, max_bytes, keep
        self._opened = time.time_ns()
        self._paused_until = 0.0
        self._warned = False
        _prepare_folder(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return NodeCache, (self.folder, self.max_bytes, self.keep)

    def map(self, file: RemoteFile) -> pa.Buffer | None:
        """Memory-map a copy of the file, downloading it if needed.

        The copy is not evicted while the buffer or a view of it is alive. Returns None if the cache
        has no space. Raises DataError, MissingError, StoreError.
        """
        copy = self._lock_copy(file, wait=True)
        if copy is None:
            return None
        try:
            # the map keeps a duplicate of the descriptor and with it the lock
            return pa.py_buffer(mmap.mmap(copy, 0, access=mmap.ACCESS_READ))
        finally:
            os.close(copy)

    def fetch(self, file: RemoteFile) -> bool:
        """Download the file unless a copy exists or another process is downloading it.

        Returns False if the cache has no space. Raises as `map`.
        """
        copy = self._lock_copy(file, wait=False)
        if copy is not None:
            os.close(copy)
        return copy is not None

    def _lock_copy(self, file: RemoteFile, *, wait: bool) -> int | None:
        """A descriptor with a shared lock on the copy, downloaded if needed; None if no space.

        If another process is downloading the file, `wait` for it, else return an unlocked
        descriptor of the download.
        """
        key = file.key
        if key is None or not 0 < file.num_bytes <= self.max_bytes:
            return None
        try:
            while opened := self._find_or_reserve(key, file.num_bytes):
                descriptor, state = opened
                if state == "reserved":
                    self._download(file, key, descriptor)
                if state != "theirs" or not wait:
                    return descriptor
                # blocks until the other process is done; it may have failed, so look again
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                os.close(descriptor)
        except OSError as error:
            self._pause(error)
        return None

    def _find_or_reserve(
        self, name: str, num_bytes: int
    ) -> tuple[int, Literal["copy", "reserved", "theirs"]] | None:
        """Open the copy, or reserve space for its download.

        Returns a descriptor and its state: "copy" with a shared lock, "reserved" (a download of the
        final size) with an exclusive lock, "theirs" (another process downloads) without a lock.
        None if no space.
        """
        with self._folder_lock():
            with suppress(FileNotFoundError):
                copy = os.open(self.folder / name, os.O_RDONLY)
                fcntl.flock(copy, fcntl.LOCK_SH)
                _touch(self.folder / name)
                return copy, "copy"
            if time.monotonic() < self._paused_until:
                return None
            part = self.folder / f"{name}.part"
            with ExitStack() as failed:
                descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o600)
                failed.callback(os.close, descriptor)
                if not _try_lock(descriptor):
                    failed.pop_all()
                    return descriptor, "theirs"
                failed.callback(part.unlink)
                if self._make_space(num_bytes, part.name):
                    os.truncate(descriptor, num_bytes)
                    failed.pop_all()
                    return descriptor, "reserved"
        return None

    def _make_space(self, num_bytes: int, part: str) -> bool:
        """Evict unlocked files until `num_bytes` fit; returns whether they do."""
        files = []
        for entry in os.scandir(self.folder):
            if entry.name != part:
                info = entry.stat()
                files.append((info.st_mtime_ns, info.st_size, entry.name))
        excess = sum(size for _, size, _ in files) + num_bytes - self.max_bytes
        for used, size, name in sorted(files):
            if excess <= 0:
                break
            # an unlocked .part is the rest of a process that died
            if (
                not self.keep or used < self._opened or name.endswith(".part")
            ) and _remove_unlocked(self.folder / name):
                excess -= size
        return excess <= 0

    def _download(self, file: RemoteFile, key: str, descriptor: int) -> None:
        """Download into a reserved part, rename it to a copy and lock it shared.

        On failure the part is removed and the descriptor closed.
        """
        copy = self.folder / key
        part = copy.with_name(f"{copy.name}.part")
        try:
            _fill(file, descriptor)
            os.fsync(descriptor)  # a copy is trusted by its name, even after a power failure
            with self._folder_lock():
                part.rename(copy)
                _touch(copy)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
        except BaseException:
            # under the folder lock, so that no process opens the part and locks it after the unlink
            with suppress(OSError), self._folder_lock():
                part.unlink()
            os.close(descriptor)
            raise

    @contextmanager
    def _folder_lock(self) -> Iterator[None]:
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _pause(self, error: OSError) -> None:
        """Stop downloading for a while; a running job continues, reading from the store."""
        self._paused_until = time.monotonic() + PAUSE_SECONDS
        if not self._warned:
            LOG.warning(
                "Cache %s cannot be written (%s). Files without a copy are read from the store by "
                "ranges, which is slower. Free space on its disk, lower cache_size, or set "
                "cache_dir to another folder.",
                self.folder,
                error,
            )
        self._warned = True


def _prepare_folder(folder: Path) -> None:
    """Create the folder, private to this user.

    Raises ConfigError if it belongs to another user or contains other files, StoreError.
    """
    cure = "set cache_dir to a new or empty folder of your own"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owners = {folder.lstat().st_uid, folder.stat().st_uid}
        if owners != {os.geteuid()}:
            raise ConfigError(
                f"cache_dir {str(folder)!r} belongs to user {max(owners - {os.geteuid()})}, "
                f"not to {os.geteuid()}",
                cure,
            )
        foreign = next(
            (
                name
                for name in sorted(entry.name for entry in folder.iterdir())
                if not COPY.fullmatch(name)
            ),
            None,
        )
        if foreign:
            raise ConfigError(
                f"cache_dir {str(folder)!r} contains a file that is not a cached copy: {foreign!r}",
                cure,
            )
        folder.chmod(0o700)
    except OSError as error:
        raise StoreError(f"cache_dir {str(folder)!r} cannot be used ({error})", cure) from error


def _touch(copy: Path) -> None:
    now = time.time_ns()  # the kernel's own timestamps are coarser
    os.utime(copy, ns=(now, now))


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_unlocked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if not _try_lock(descriptor):
            return False
        path.unlink()
    finally:
        os.close(descriptor)
    return True


def _fill(file: RemoteFile, descriptor: int) -> None:
    """Write the content of the file and verify it. Raises DataError, MissingError, StoreError."""
    if file.sha256 is None:
        _, num_bytes = _write(file, descriptor)
        if num_bytes != file.num_bytes or file.path.info().mtime_ns != file.mtime_ns:
            raise StoreError(f"{file.path} changed while it was copied", "try again")
        return
    expected = (file.sha256, file.num_bytes)
    # a second attempt: the transfer may have been damaged, not the file
    if _write(file, descriptor) != expected and (actual := _write(file, descriptor)) != expected:
        raise DataError(
            f"{file.path} has the SHA-256 {actual[0]} and {actual[1]} bytes, "
            f"but its manifest records {file.sha256} and {file.num_bytes} bytes",
            "restore the file, or decode again",
        )


def _write(file: RemoteFile, descriptor: int) -> tuple[str, int]:
    """Copy the file's first `num_bytes` bytes; returns SHA-256 and number of all its bytes.

    Bytes beyond the expected size are only hashed and counted: no space is reserved for them.
    """
    sha256, num_bytes = hashlib.sha256(), 0
    os.lseek(descriptor, 0, os.SEEK_SET)
    with open(descriptor, "wb", closefd=False) as out:
        for piece in file.path.read_pieces():
            sha256.update(piece)
            num_bytes += len(piece)
            if num_bytes <= file.num_bytes:
                out.write(piece)
    return sha256.hexdigest(), num_bytes
