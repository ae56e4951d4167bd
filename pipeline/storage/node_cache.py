"""Copies of a remote store's files on this node's disk, bounded in bytes and shared by all of its
processes: trainers, loaders and services.

A copy is named by its SHA-256, or where that is not known by a hash of its path, size and
modification time. Locks (flock) hold the rest, so that a process that dies lets go of all it held:

    <folder>              held exclusively while room is counted, made and given
    <folder>/<key>.part   a download: held exclusively by its writer, as large as the file at once
    <folder>/<key>        a copy: held shared by each mapping of it; only what nobody holds is
                          removed, the least recently used first
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
"""How long nothing is downloaded after the cache's disk refused a copy."""
SHA256 = re.compile(r"[0-9a-f]{64}")
COPY = re.compile(r"[0-9a-f]{64}(\.part)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """A file of a remote store: its content by SHA-256, or one version of it by `mtime_ns`.

    Without either it is not copied.
    """

    path: StorePath
    sha256: str | None
    num_bytes: int
    mtime_ns: int | None = None

    @property
    def key(self) -> str | None:
        """The name of its copy (raises DataError)."""
        if self.sha256 is not None:
            if not SHA256.fullmatch(self.sha256):
                raise DataError(
                    f"the SHA-256 of {self.path} is given as {self.sha256!r}", "decode again"
                )
            return self.sha256
        if self.mtime_ns is None:
            return None
        version = f"{self.path}\0{self.num_bytes}\0{self.mtime_ns}"
        return hashlib.sha256(version.encode(errors="surrogateescape")).hexdigest()


class NodeCache:
    """A private folder of copies that together, downloads under way included, never exceed `max_bytes` (raises ConfigError, StoreError).

    With `keep`, what was used since the cache was opened here is not removed for the sake of other files: right for a reader that comes back at random.
    """

    def __init__(self, folder: Path, max_bytes: int, keep: bool = False) -> None:
        self.folder, self.max_bytes, self.keep = folder, max_bytes, keep
        self._opened = time.time_ns()
        self._paused_until = 0.0
        self._warned = False
        _take(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return NodeCache, (self.folder, self.max_bytes, self.keep)

    def map(self, file: RemoteFile) -> pa.Buffer | None:
        """The file, mapped from a copy that stays while the buffer or views of it live; None: there is no room (raises DataError, MissingError, StoreError)."""
        held = self._hold(file, wait=True)
        if held is None:
            return None
        try:
            # the map keeps a duplicate of the descriptor and with it the lock
            return pa.py_buffer(mmap.mmap(held, 0, access=mmap.ACCESS_READ))
        finally:
            os.close(held)

    def fetch(self, file: RemoteFile) -> bool:
        """Sees to it that there is a copy, or that another process makes it; False: there is no room (raises as `map`)."""
        held = self._hold(file, wait=False)
        if held is not None:
            os.close(held)
        return held is not None

    def _hold(self, file: RemoteFile, *, wait: bool) -> int | None:
        """A descriptor that holds the copy, None where there is no room.

        Of what another process downloads it holds nothing yet, unless it shall `wait`.
        """
        key = file.key
        if key is None or not 0 < file.num_bytes <= self.max_bytes:
            return None
        try:
            while found := self._find_or_reserve(key, file.num_bytes):
                held, state = found
                if state == "reserved":
                    self._download(file, key, held)
                if state != "theirs" or not wait:
                    return held
                fcntl.flock(held, fcntl.LOCK_SH)  # until the other process is done, well or not
                os.close(held)
        except OSError as error:
            self._pause(error)
        return None

    def _find_or_reserve(
        self, name: str, num_bytes: int
    ) -> tuple[int, Literal["copy", "reserved", "theirs"]] | None:
        """A descriptor of the copy, held shared, or of its part: with room and held exclusively, or another's; None: no room."""
        with self._counting():
            with suppress(FileNotFoundError):
                copy = os.open(self.folder / name, os.O_RDONLY)
                fcntl.flock(copy, fcntl.LOCK_SH)
                _touch(self.folder / name)
                return copy, "copy"
            if time.monotonic() < self._paused_until:
                return None
            part = self.folder / f"{name}.part"
            with ExitStack() as failed:
                held = os.open(part, os.O_RDWR | os.O_CREAT, 0o600)
                failed.callback(os.close, held)
                if not _try_lock(held):
                    failed.pop_all()
                    return held, "theirs"
                failed.callback(part.unlink)
                if self._make_room(num_bytes, part.name):
                    os.truncate(held, num_bytes)
                    failed.pop_all()
                    return held, "reserved"
        return None

    def _make_room(self, num_bytes: int, part: str) -> bool:
        files = []
        for entry in os.scandir(self.folder):
            if entry.name != part:
                info = entry.stat()
                files.append((info.st_mtime_ns, info.st_size, entry.name))
        excess = sum(size for _, size, _ in files) + num_bytes - self.max_bytes
        for used, size, name in sorted(files):
            if excess <= 0:
                break
            if (not self.keep or used < self._opened or name.endswith(".part")) and _remove_unheld(
                self.folder / name
            ):
                excess -= size
        return excess <= 0

    def _download(self, file: RemoteFile, key: str, held: int) -> None:
        """Fills a part that was reserved, makes it a copy, and holds it shared; of a failure nothing is left."""
        copy = self.folder / key
        part = copy.with_name(f"{copy.name}.part")
        try:
            _fill(file, held)
            os.fsync(held)  # a copy is trusted by its name, also after the power failed
            with self._counting():
                part.rename(copy)
                _touch(copy)
                fcntl.flock(held, fcntl.LOCK_SH)
        except BaseException:
            # counting, so that nobody has opened what is unlinked here and then takes its lock
            with suppress(OSError), self._counting():
                part.unlink()
            os.close(held)
            raise

    @contextmanager
    def _counting(self) -> Iterator[None]:
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _pause(self, error: OSError) -> None:
        """A run that is under way goes on without new copies, since all of them can be read from the store as well."""
        self._paused_until = time.monotonic() + PAUSE_SECONDS
        if not self._warned:
            LOG.warning(
                "the cache %s cannot be written (%s): files without a copy are read from the store "
                "by ranges, which is slower; free space on its disk, lower cache_size, or give "
                "another cache_dir",
                self.folder,
                error,
            )
        self._warned = True


def _take(folder: Path) -> None:
    """Makes the folder, private to this user; refuses what is another's, or holds what the cache did not write."""
    cure = "give cache_dir a new or empty folder of your own"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owners = {folder.lstat().st_uid, folder.stat().st_uid}
        if owners != {os.geteuid()}:
            raise ConfigError(
                f"cache_dir {str(folder)!r} belongs to user {max(owners - {os.geteuid()})}, not to {os.geteuid()}",
                cure,
            )
        strange = next(
            (
                name
                for name in sorted(entry.name for entry in folder.iterdir())
                if not COPY.fullmatch(name)
            ),
            None,
        )
        if strange:
            raise ConfigError(
                f"cache_dir {str(folder)!r} holds {strange!r}, which is no copy of the cache's",
                cure,
            )
        folder.chmod(0o700)
    except OSError as error:
        raise StoreError(f"cache_dir {str(folder)!r} cannot be used ({error})", cure) from error


def _touch(copy: Path) -> None:
    now = time.time_ns()  # by itself the kernel would write a coarser time
    os.utime(copy, ns=(now, now))


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_unheld(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if not _try_lock(descriptor):
            return False
        path.unlink()
    finally:
        os.close(descriptor)
    return True


def _fill(file: RemoteFile, held: int) -> None:
    """Writes the content of the file that was asked for (raises DataError, StoreError)."""
    if file.sha256 is None:
        _, num_bytes = _write(file, held)
        if num_bytes != file.num_bytes or file.path.info().mtime_ns != file.mtime_ns:
            raise StoreError(f"{file.path} changed while it was copied", "ask again")
        return
    wanted = (file.sha256, file.num_bytes)
    if _write(file, held) != wanted and (found := _write(file, held)) != wanted:
        raise DataError(
            f"{file.path} has the SHA-256 {found[0]} and {found[1]} bytes, "
            f"but its manifest says {file.sha256} and {file.num_bytes} bytes",
            "restore the file, or decode again",
        )


def _write(file: RemoteFile, held: int) -> tuple[str, int]:
    """Copies a file, as far as it has room, and returns the SHA-256 and the number of all of its bytes."""
    sha256, num_bytes = hashlib.sha256(), 0
    os.lseek(held, 0, os.SEEK_SET)
    with open(held, "wb", closefd=False) as out:
        for piece in file.path.read_pieces():
            sha256.update(piece)
            num_bytes += len(piece)
            if num_bytes <= file.num_bytes:
                out.write(piece)
    return sha256.hexdigest(), num_bytes
