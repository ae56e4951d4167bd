"""Locks on a local disk, which the kernel gives back with the process that has them, whatever becomes of it; and who that process is or was."""

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
MAX_BYTES = 2**16


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """A process that has a lock, or died with it: `since` is when it got it, in UTC."""

    pid: int
    host: str
    since: str
    command: str

    @classmethod
    def here(cls, command: str) -> "Owner":
        """This process, now."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(
            pid=os.getpid(), host=platform.node(), since=since, command=command[:COMMAND_CHARS]
        )

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command}) on {self.host} since {self.since}"


class HeldError(Exception):
    """Another process has the lock: `owner`, where that can be told."""

    def __init__(self, owner: Owner | None) -> None:
        super().__init__(owner)
        self.owner = owner


@contextlib.contextmanager
def hold(path: Path, command: str) -> Iterator[Owner | None]:
    """Holds a lock file, which names this process meanwhile and is empty afterwards; yields the process that died with it (raises HeldError, OSError)."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HeldError(_owner(file)) from None
        dead = _owner(file)
        line = json.dumps(asdict(Owner.here(command))).encode() + b"\n"
        # in this order: a process that dies in between has left a first line, its own or the one before
        os.pwrite(file, line, 0)
        os.ftruncate(file, len(line))
        try:
            yield dead
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(file, 0)
    finally:
        os.close(file)


def _owner(file: int) -> Owner | None:
    """Who is named in a lock file; None where nobody is, or nothing that can be read."""
    try:
        said = json.loads(os.pread(file, MAX_BYTES, 0).partition(b"\n")[0])
        return Owner(
            pid=int(said["pid"]),
            host=str(said["host"]),
            since=str(said["since"]),
            command=str(said["command"]),
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


@contextlib.contextmanager
def writing(path: Path) -> Iterator[int]:
    """Marks a file or folder as being written by a process that lives, as far as its file system knows locks; yields a descriptor of it (raises OSError)."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH)
        yield file
    finally:
        os.close(file)


def is_being_written(path: Path) -> bool:
    """Whether a process that lives marks the path as being written; False where nothing is there."""
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
