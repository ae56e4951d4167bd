"""Copies of a remote store's files on this machine's disk, bounded in bytes."""

import fcntl
import hashlib
import os
import re
import shutil
from collections import OrderedDict
from concurrent.futures import Future
from pathlib import Path
from threading import Condition

import pyarrow.fs as pafs

from pipeline.errors import ConfigError, StoreError
from pipeline.storage.store_path import Place

COPY = re.compile(r"[0-9a-f]{64}(\.part)?")


class FileCache:
    """A private folder of copies that together, those on their way included, never exceed `max_bytes` (raises ConfigError, StoreError)."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._changed = Condition()
        self._copies: OrderedDict[str, int] = (
            OrderedDict()
        )  # key -> bytes, the least recently used first
        self._flights: dict[str, Future[Path]] = {}
        self._used = 0
        self._lock = _take(folder)

    def local(self, place: Place, info: pafs.FileInfo) -> Path | None:
        """A copy of this version of a file, None where it is larger than the cache; threads share one download (raises MissingError, StoreError).

        Later calls may evict the copy: what is open by then stays readable.
        """
        size = info.size or 0
        if size > self.max_bytes:
            return None
        key = hashlib.sha256(f"{place.path}\0{size}\0{info.mtime_ns}".encode()).hexdigest()
        with self._changed:
            if key in self._copies:
                self._copies.move_to_end(key)
                return self.folder / key
            flight = self._flights.get(key)
            mine = flight is None
            flight = flight or self._flights.setdefault(key, Future())
        if mine:
            self._fly(flight, key, place, info)
        return flight.result()

    def close(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _fly(self, flight: "Future[Path]", key: str, place: Place, info: pafs.FileInfo) -> None:
        part, size = self.folder / f"{key}.part", info.size or 0
        self._make_room(size)
        try:
            _download(place, info, part)
            part.rename(self.folder / key)
        except BaseException as error:
            part.unlink(missing_ok=True)
            with self._changed:
                self._used -= size
                self._land(key)
            flight.set_exception(error)
        else:
            with self._changed:
                self._copies[key] = size
                self._land(key)
            flight.set_result(self.folder / key)

    def _land(self, key: str) -> None:
        del self._flights[key]
        self._changed.notify_all()

    def _make_room(self, size: int) -> None:
        with self._changed:
            while self._used + size > self.max_bytes:
                if self._copies:
                    key, freed = self._copies.popitem(last=False)
                    (self.folder / key).unlink(missing_ok=True)
                    self._used -= freed
                else:
                    self._changed.wait()  # for other downloads to land
            self._used += size


def _take(folder: Path) -> int:
    """Makes the folder private and empty, and holds a lock on it, which also keeps systemd-tmpfiles from ageing it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            strange = next(
                (
                    name
                    for name in sorted(left.name for left in folder.iterdir())
                    if not COPY.fullmatch(name)
                ),
                None,
            )
            if strange:
                raise ConfigError(
                    f"cache_dir {str(folder)!r} holds {strange!r}, which is no copy of the cache's",
                    "give a new or empty folder",
                )
            folder.chmod(0o700)
            for left in folder.iterdir():
                left.unlink()
        except BaseException:
            os.close(lock)
            raise
    except BlockingIOError as error:
        raise ConfigError(
            f"cache_dir {str(folder)!r} is used by another process",
            "give each service a folder of its own",
        ) from error
    except OSError as error:
        raise StoreError(
            f"cache_dir {str(folder)!r} cannot be used ({error})",
            "give a folder that you may write to",
        ) from error
    return lock


def _download(place: Place, info: pafs.FileInfo, part: Path) -> None:
    num_bytes = 0
    pieces = place.read_pieces()
    try:
        with part.open("xb") as file:
            for piece in pieces:
                num_bytes += file.write(piece)
    except OSError as error:
        raise StoreError(
            f"the cache cannot be written ({error})",
            "free space on its disk, or give the service another cache_dir",
        ) from error
    if num_bytes != info.size or place.info().mtime_ns != info.mtime_ns:
        raise StoreError(f"{place} changed while it was copied", "ask again")
