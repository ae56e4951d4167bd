"""Files and folders on a local disk or in any pyarrow.fs file system, with atomic writes."""

import contextlib
import errno
import hashlib
import json
import os
import posixpath
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.errors import FullError, InputError, MissingError, StoreError
from pipeline.storage.atomic_files import HashingFile
from pipeline.storage.locks import HeldError, Owner, hold, is_being_written, writing
from pipeline.storage.strict_json import parse_json

MANIFEST = "manifest.json"
PIECE_BYTES = 8 * 2**20
TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")
"""Names of files that are being written."""
S3_SECONDS, S3_ATTEMPTS = 2, 2
"""Connect and read timeout, and number of attempts, of an impatient S3 path."""


@dataclass(frozen=True, slots=True)
class StorePath:
    """A file or folder of a file system; `path / "name"` is an entry of a folder."""

    fs: pafs.FileSystem
    path: str

    @classmethod
    def at(cls, uri: "str | os.PathLike[str] | StorePath", *, patient: bool = True) -> "StorePath":
        """Parse a local path or a URI such as s3://bucket/prefix.

        Args:
            uri: the path; a StorePath is returned unchanged.
            patient: wait minutes for an S3 server that does not answer, as a job should. If false,
                wait 5 s, as a request handler should.
        Raises:
            StoreError: not a path that pyarrow.fs can open; credentials are removed from the text.
        """
        if isinstance(uri, StorePath):
            return uri
        text = os.fspath(uri)
        if "://" not in text:
            return cls(pafs.LocalFileSystem(), os.path.abspath(text))
        try:
            fs, path = pafs.FileSystem.from_uri(text)
            return cls(fs if patient or fs.type_name != "s3" else _impatient(fs, text), path)
        except (pa.ArrowException, OSError, ValueError, ImportError) as error:
            reason = str(error).replace(text, without_secrets(text))
            # `from None`: the text of the original error contains the credentials
            raise StoreError(
                f"Cannot open {without_secrets(text)!r} ({reason})",
                "give a local path or a pyarrow.fs URI",
            ) from None

    def __truediv__(self, name: str) -> "StorePath":
        return StorePath(self.fs, posixpath.join(self.path, name))

    def __str__(self) -> str:
        return self.path if self.local else f"{self.fs.type_name}://{self.path}"

    @property
    def name(self) -> str:
        """The last component of the path."""
        return posixpath.basename(self.path.rstrip("/"))

    @property
    def parent(self) -> "StorePath":
        """The folder that contains this file or folder."""
        return StorePath(self.fs, posixpath.dirname(self.path.rstrip("/")))

    @property
    def local(self) -> Path | None:
        """The path on this machine's disk, None for a remote file system."""
        return Path(self.path) if isinstance(self.fs, pafs.LocalFileSystem) else None

    @contextlib.contextmanager
    def accessing(self, what: str) -> Iterator[None]:
        """Convert OSError and pyarrow errors of the block to ours, which name this path.

        `what` is the participle in the message, such as "read". Raises MissingError, StoreError.
        """
        try:
            yield
        except FileNotFoundError as error:
            raise MissingError(f"Not found: {self}") from error
        except (pa.ArrowException, OSError) as error:
            raise StoreError(
                f"{self} cannot be {what} ({error})",
                "check that the store exists and that you have access",
            ) from error

    def info(self) -> pafs.FileInfo:
        """Type, size and modification time. Raises StoreError."""
        with self.accessing("read"):
            return self.fs.get_file_info(self.path)

    def exists(self) -> bool:
        """Whether the file or folder exists. Raises StoreError."""
        return bool(self.info().type != pafs.FileType.NotFound)

    def list(self) -> list["StorePath"]:
        """Entries of a folder sorted by name, [] if it does not exist.

        Excludes names that start with a dot: unfinished files and locks. Raises StoreError.
        """
        entries = sorted(self._entries(), key=lambda entry: entry.path)
        return [
            StorePath(self.fs, entry.path)
            for entry in entries
            if not entry.base_name.startswith(".")
        ]

    def _entries(self) -> Iterator[pafs.FileInfo]:
        """All entries of a folder, including names that start with a dot."""
        with self.accessing("listed"):
            yield from self.fs.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))

    def read_bytes(self) -> bytes:
        """Content of the file. Raises MissingError, StoreError."""
        with self.accessing("read"), self.fs.open_input_file(self.path) as file:
            return bytes(file.read())

    def read_pieces(self) -> Iterator[bytes]:
        """Content of the file in pieces of at most PIECE_BYTES. Raises MissingError, StoreError."""
        with self.accessing("read"), self.fs.open_input_file(self.path) as file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    def sha256(self) -> str:
        """SHA-256 of the file, read in pieces. Raises MissingError, StoreError."""
        content = hashlib.sha256()
        for piece in self.read_pieces():
            content.update(piece)
        return content.hexdigest()

    def read_json(self) -> dict[str, Any]:
        """The JSON object in the file. Raises MissingError, StoreError."""
        try:
            value = parse_json(self.read_bytes())
        except (ValueError, RecursionError) as error:
            raise StoreError(
                f"Not a JSON file: {self} ({error})", "delete it and run the stage again"
            ) from error
        if not isinstance(value, dict):
            raise StoreError(f"Not a JSON object: {self}", "delete it and run the stage again")
        return value

    @contextlib.contextmanager
    def create(self) -> Iterator["HashingFile"]:
        """Write a file atomically: it appears under its name only if the block succeeds.

        Yields a file with write(), hexdigest() and num_bytes. Raises StoreError.
        """
        temporary, write_mark = self._temporary(), contextlib.ExitStack()
        try:
            self.fs.create_dir(self.parent.path, recursive=True)
            file = HashingFile(self.fs.open_output_stream(temporary.path))
            descriptor = (
                write_mark.enter_context(writing(temporary.local)) if temporary.local else None
            )
        except (pa.ArrowException, OSError) as error:
            raise unwritable(self, error) from error
        with write_mark:
            try:
                yield file
                with file.recording():
                    file.close()
                    if descriptor is not None:
                        os.fsync(descriptor)
                    temporary.move(self)
            except BaseException as error:
                with contextlib.suppress(OSError):
                    file.close()
                with contextlib.suppress(OSError, StoreError):
                    temporary.delete()
                # any other OSError comes from a file that the block reads
                if file.failed and isinstance(error, Exception):
                    raise unwritable(self, file.failed) from file.failed
                raise

    def _temporary(self) -> "StorePath":
        return self.parent / f".{self.name}.{uuid4().hex[:8]}.tmp"

    def write_bytes(self, data: bytes) -> str:
        """Write the file atomically; returns its SHA-256. Raises StoreError."""
        with self.create() as file:
            file.write(data)
        return file.hexdigest()

    def move(self, to: "StorePath") -> None:
        """Rename a file within its file system, replacing `to`; atomic on a local disk."""
        if self.local:
            os.replace(self.path, to.path)
        else:
            self.fs.move(self.path, to.path)

    def sweep(self, name: str | None = None) -> None:
        """Delete unfinished files in this folder whose writer died, all or those of file `name`.

        Object stores have no locks: call this only while nobody writes there. Raises StoreError.
        """
        for entry in self._entries():
            unfinished = TEMPORARY.fullmatch(entry.base_name)
            path = StorePath(self.fs, entry.path)
            if (
                unfinished
                and name in (None, unfinished[1])
                and not (path.local and is_being_written(path.local))
            ):
                path.delete()

    @contextlib.contextmanager
    def held(self, busy: str) -> Iterator[Owner | None]:
        """Hold this file as a lock; does nothing on a remote file system.

        Yields the previous owner if it died while holding the lock, else None.

        Args:
            busy: start of the message if another process holds the lock, such as "x is in use".
        Raises:
            InputError: another process holds the lock. StoreError.
        """
        if not self.local:
            yield None
            return
        with contextlib.ExitStack() as lock:
            try:
                self.local.parent.mkdir(parents=True, exist_ok=True)
                dead = lock.enter_context(
                    hold(
                        self.local,
                        " ".join(
                            map(without_secrets, [os.path.basename(sys.argv[0]), *sys.argv[1:]])
                        ),
                    )
                )
            except HeldError as error:
                raise InputError(
                    f"{busy} by {error.owner or 'another process'}",
                    "wait until it ends, or stop it",
                ) from error
            except OSError as error:
                raise unwritable(self, error) from error
            yield dead

    def check_writable(self) -> None:
        """Raise StoreError if this file cannot be written; deletes unfinished versions of it."""
        with contextlib.suppress(_ProbedError), self.create() as file:
            file.close()
            raise _ProbedError
        if self.local:
            self.parent.sweep(self.name)

    def claim(self, data: bytes) -> bool:
        """Create the file unless it exists; returns whether this call created it.

        Atomic on a local disk: of several processes exactly one succeeds. Raises StoreError.
        """
        if not self.local:
            if self.exists():
                return False
            self.write_bytes(data)
            return True
        complete = self._temporary()
        complete.write_bytes(data)
        try:
            # a hard link, unlike a rename, fails if the name exists
            os.link(complete.path, self.path)
        except FileExistsError:
            return False
        except OSError:
            return self._claim_without_links(data)
        finally:
            complete.delete()
        return True

    def _claim_without_links(self, data: bytes) -> bool:
        """`claim` for file systems without hard links; a crash may leave an incomplete file."""
        try:
            with open(self.path, "xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        except OSError as error:
            raise StoreError(
                f"{self} cannot be written ({error})", "choose a folder that you can write to"
            ) from error
        return True

    def write_json(self, value: Any) -> None:
        """Write the value as JSON, atomically, keys in their order. Raises StoreError."""
        self.write_bytes(encode_json(value))

    def delete(self) -> None:
        """Delete a file, or a folder with its content, if it exists. Raises StoreError."""
        kind = self.info().type
        with contextlib.suppress(MissingError), self.accessing("deleted"):
            if kind == pafs.FileType.Directory:
                self.fs.delete_dir(self.path)
            elif kind != pafs.FileType.NotFound:
                self.fs.delete_file(self.path)


class _ProbedError(Exception):
    """Aborts a write that only tests whether writing works."""


def unwritable(path: StorePath, error: Exception) -> StoreError:
    """The error of a failed write: FullError if the disk is full, else StoreError."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return FullError(
            f"{path} cannot be written ({error})",
            "free space and run the command again, or choose another folder",
        )
    return StoreError(
        f"{path} cannot be written ({error})", "choose a folder that you can write to"
    )


def without_secrets(uri: str) -> str:
    """A path or URI without user, password and query, for messages and records."""
    if "://" not in uri:
        return uri
    scheme, rest = uri.split("://", 1)
    return f"{scheme}://{rest.rsplit('@', 1)[-1].split('?')[0]}"


def _impatient(fs: pafs.FileSystem, uri: str) -> pafs.FileSystem:
    """The same S3 file system with short timeouts, which a URI cannot set.

    By default, pyarrow gives up on a server that hangs after 100 s.
    """
    options = fs.__reduce__()[1][0]
    parts = urlsplit(uri)
    # only the keys of the URI: those in `options` may come from the environment or the machine,
    # which issue them for an hour, so the new file system must request its own
    keys = {
        "access_key": parts.username and unquote(parts.username),
        "secret_key": parts.password and unquote(parts.password),
        "session_token": None,
    }
    bounds = {
        "connect_timeout": S3_SECONDS,
        "request_timeout": S3_SECONDS,
        "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
    }
    return pafs.S3FileSystem(**{**options, **keys, **bounds})


def encode_json(value: Any) -> bytes:
    """Encode a value as indented JSON, keys in their order. Raises ValueError on NaN."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
