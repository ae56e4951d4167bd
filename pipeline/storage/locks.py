"""File locks (flock) on a local disk, with a record of their owner.

The kernel releases a lock when its process ends, however it ends; the record of a process that died
stays in the file for the next owner to read.
"""

import contextlib
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

COMMAND_CHARS = 200
"""Maximum length of the command line in a record."""
MAX_BYTES = 2**16
"""Maximum size of a record that is read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """A process that holds a lock, or died while holding it since `since` (ISO 8601, UTC)."""

    pid: int
    host: str
    since: str
    command: str

    @classmethod
    def here(cls, command: str) -> "Owner":
        """Describe this process as an owner from now on."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(
            pid=os.getpid(), host=platform.node(), since=since, command=command[:COMMAND_CHARS]
        )

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command}) on {self.host} since {self.since}"


class HeldError(Exception):
    """Another process holds the lock: `owner`, None if its record cannot be read."""

    def __init__(self, owner: Owner | None) -> None:
        super().__init__(owner)
        self.owner = owner


@contextlib.contextmanager
def hold(path: Path, command: str) -> Iterator[Owner | None]:
    """Hold an exclusive lock on a file that records this process as its owner.

    Yields the previous owner if it died while holding the lock, else None.
    Raises HeldError, OSError.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HeldError(_owner(file)) from None
        dead = _owner(file)
        line = json.dumps(asdict(Owner.here(command))).encode() + b"\n"
        # write before truncating: if this process dies in between, the first line is still a
        # complete record, the new one or the old one
        os.pwrite(file, line, 0)
        os.ftruncate(file, len(line))
        try:
            yield dead
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(file, 0)
    finally:
        os.close(file)


def dead_owner(path: Path) -> Owner | None:
    """The owner recorded in a lock file, if it was a process of this machine that has ended.

    Does not touch the lock.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        owner = _owner(file)
    finally:
        os.close(file)
    if owner is None or owner.host != platform.node():
        return None
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return owner
    except (OSError, OverflowError):  # it runs, as another user's
        pass
    return None


def _owner(file: int) -> Owner | None:
    """The owner recorded in a lock file, None if the file is empty or unreadable."""
    try:
        record = json.loads(os.pread(file, MAX_BYTES, 0).partition(b"\n")[0])
        return Owner(
            pid=int(record["pid"]),
            host=str(record["host"]),
            since=str(record["since"]),
            command=str(record["command"]),
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


@contextlib.contextmanager
def writing(path: Path) -> Iterator[int]:
    """Mark a file or folder as being written, by a shared lock; yields a descriptor of it.

    A file system without locks leaves it unmarked. Raises OSError.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH)
        yield file
    finally:
        os.close(file)


def is_being_written(path: Path) -> bool:
    """Whether a live process has marked the path as being written."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False
