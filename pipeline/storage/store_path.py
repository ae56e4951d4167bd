"""Places: files and folders on a local disk or any pyarrow.fs URI, written atomically."""

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
"""The names of files that are being written."""
S3_SECONDS, S3_ATTEMPTS = 2, 2
"""How long S3 may take to connect, and to send a byte more, and how often it is asked, where somebody waits."""


@dataclass(frozen=True, slots=True)
class StorePath:
    """A file or folder of a file system; `place / "name"` is a place inside it."""

    fs: pafs.FileSystem
    path: str

    @classmethod
    def at(cls, uri: "str | os.PathLike[str] | StorePath", *, patient: bool = True) -> "StorePath":
        """Opens a local path or a URI such as s3://bucket/prefix; S3 that is silent fails after minutes, without patience after 5 s (raises StoreError)."""
        if isinstance(uri, StorePath):
            return uri
        text = os.fspath(uri)
        if "://" not in text:
            return cls(pafs.LocalFileSystem(), os.path.abspath(text))
        try:
            fs, path = pafs.FileSystem.from_uri(text)
            return cls(fs if patient or fs.type_name != "s3" else _impatient(fs, text), path)
        except (pa.ArrowException, OSError, ValueError, ImportError) as error:
            why = str(error).replace(text, without_secrets(text))
            # without its cause, whose text has the credentials
            raise StoreError(
                f"{without_secrets(text)!r} is not a place that can be opened ({why})",
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
        """The folder that holds this place."""
        return StorePath(self.fs, posixpath.dirname(self.path.rstrip("/")))

    @property
    def local(self) -> Path | None:
        """The path on this machine's disk, None for an object store."""
        return Path(self.path) if isinstance(self.fs, pafs.LocalFileSystem) else None

    @contextlib.contextmanager
    def accessing(self, what: str) -> Iterator[None]:
        """Names this place in the error of what is done to it (raises MissingError, StoreError)."""
        try:
            yield
        except FileNotFoundError as error:
            raise MissingError(f"{self} does not exist") from error
        except (pa.ArrowException, OSError) as error:
            raise StoreError(
                f"{self} cannot be {what} ({error})",
                "check that the store is there and that you may use it",
            ) from error

    def info(self) -> pafs.FileInfo:
        """Type, size and modification time (raises StoreError)."""
        with self.accessing("read"):
            return self.fs.get_file_info(self.path)

    def exists(self) -> bool:
        """Whether a file or folder is there."""
        return bool(self.info().type != pafs.FileType.NotFound)

    def list(self) -> list["StorePath"]:
        """The visible entries of a folder by name, [] where there is none; names that start with a dot are work in progress."""
        entries = sorted(self._entries(), key=lambda entry: entry.path)
        return [
            StorePath(self.fs, entry.path)
            for entry in entries
            if not entry.base_name.startswith(".")
        ]

    def _entries(self) -> Iterator[pafs.FileInfo]:
        """All entries of a folder, also those whose names start with a dot."""
        with self.accessing("listed"):
            yield from self.fs.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))

    def read_bytes(self) -> bytes:
        """The whole file (raises MissingError, StoreError)."""
        with self.accessing("read"), self.fs.open_input_file(self.path) as file:
            return bytes(file.read())

    def read_pieces(self) -> Iterator[bytes]:
        """The file piece by piece, none of which has more than PIECE_BYTES (raises MissingError, StoreError)."""
        with self.accessing("read"), self.fs.open_input_file(self.path) as file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    def sha256(self) -> str:
        """The SHA-256 of the file, read piece by piece (raises MissingError, StoreError)."""
        content = hashlib.sha256()
        for piece in self.read_pieces():
            content.update(piece)
        return content.hexdigest()

    def read_json(self) -> dict[str, Any]:
        """The JSON object in the file (raises MissingError, StoreError)."""
        try:
            value = parse_json(self.read_bytes())
        except (ValueError, RecursionError) as error:
            raise StoreError(
                f"{self} is not JSON ({error})", "delete it and run the stage again"
            ) from error
        if not isinstance(value, dict):
            raise StoreError(f"{self} holds no JSON object", "delete it and run the stage again")
        return value

    @contextlib.contextmanager
    def create(self) -> Iterator["HashingFile"]:
        """A file that appears under its name when the block ends well, and not at all when it does not (raises StoreError)."""
        temporary, written = self._temporary(), contextlib.ExitStack()
        try:
            self.fs.create_dir(self.parent.path, recursive=True)
            file = HashingFile(self.fs.open_output_stream(temporary.path))
            descriptor = (
                written.enter_context(writing(temporary.local)) if temporary.local else None
            )
        except (pa.ArrowException, OSError) as error:
            raise unwritable(self, error) from error
        with written:
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
                # any other OSError is of a file that the block read, and for its reader to name
                if file.failed and isinstance(error, Exception):
                    raise unwritable(self, file.failed) from file.failed
                raise

    def _temporary(self) -> "StorePath":
        return self.parent / f".{self.name}.{uuid4().hex[:8]}.tmp"

    def write_bytes(self, data: bytes) -> str:
        """Writes the file atomically and returns its SHA-256."""
        with self.create() as file:
            file.write(data)
        return file.hexdigest()

    def move(self, to: "StorePath") -> None:
        """Gives a file another name in its file system, in place of what has that name; on a local disk in one step."""
        if self.local:
            os.replace(self.path, to.path)
        else:
            self.fs.move(self.path, to.path)

    def sweep(self, name: str | None = None) -> None:
        """Removes what writers that died left of the files in this folder, or of one; in an object store nobody may be writing them (raises StoreError)."""
        for entry in self._entries():
            found, path = TEMPORARY.fullmatch(entry.base_name), StorePath(self.fs, entry.path)
            if (
                found
                and name in (None, found[1])
                and not (path.local and is_being_written(path.local))
            ):
                path.delete()

    @contextlib.contextmanager
    def held(self, busy: str) -> Iterator[Owner | None]:
        """Holds a lock file, on a local disk alone, and yields the process that died with it (raises InputError, `busy` by whom, where another has it)."""
        if not self.local:
            yield None
            return
        with contextlib.ExitStack() as held:
            try:
                self.local.parent.mkdir(parents=True, exist_ok=True)
                dead = held.enter_context(
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
                    "wait for it to end, or stop it",
                ) from error
            except OSError as error:
                raise unwritable(self, error) from error
            yield dead

    def check_writable(self) -> None:
        """Raises StoreError where a file could not be written here; what writers that died left of it goes."""
        with contextlib.suppress(_ProbedError), self.create() as file:
            file.close()
            raise _ProbedError
        if self.local:
            self.parent.sweep(self.name)

    def claim(self, data: bytes) -> bool:
        """Writes the file unless it is there, and says whether it did; of several processes that share a local disk, one does (raises StoreError)."""
        if not self.local:
            if self.exists():
                return False
            self.write_bytes(data)
            return True
        whole = self._temporary()
        whole.write_bytes(data)
        try:
            os.link(whole.path, self.path)
        except FileExistsError:
            return False
        except OSError:
            return self._claim_without_links(data)
        finally:
            whole.delete()
        return True

    def _claim_without_links(self, data: bytes) -> bool:
        try:
            with open(self.path, "xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        except OSError as error:
            raise StoreError(
                f"{self} cannot be written ({error})", "choose a place that you may write to"
            ) from error
        return True

    def write_json(self, value: Any) -> None:
        """Writes the value as JSON, atomically, its keys in their order."""
        self.write_bytes(encode_json(value))

    def delete(self) -> None:
        """Removes a file, or a folder with all that is in it; nothing happens where nothing is (raises StoreError)."""
        kind = self.info().type
        with contextlib.suppress(MissingError), self.accessing("deleted"):
            if kind == pafs.FileType.Directory:
                self.fs.delete_dir(self.path)
            elif kind != pafs.FileType.NotFound:
                self.fs.delete_file(self.path)


class _ProbedError(Exception):
    """Ends a file that was only to be begun."""


def unwritable(path: StorePath, error: Exception) -> StoreError:
    """That a place cannot be written; a FullError where its disk is full."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return FullError(
            f"{path} cannot be written ({error})",
            "free space and run the command again, or choose another place",
        )
    return StoreError(f"{path} cannot be written ({error})", "choose a place that you may write to")


def without_secrets(uri: str) -> str:
    """A place as a person may see it: a URI without credentials and options, which may hold some."""
    if "://" not in uri:
        return uri
    scheme, rest = uri.split("://", 1)
    return f"{scheme}://{rest.rsplit('@', 1)[-1].split('?')[0]}"


def _impatient(fs: pafs.FileSystem, uri: str) -> pafs.FileSystem:
    """The same S3 with bounds on waiting, for which its URIs have no options: by itself it gives up on a server that hangs after 100 s."""
    options = fs.__reduce__()[1][0]
    given = urlsplit(uri)
    # not those of `options`: where the URI has none they are what the environment or the machine lends for an hour, and must be asked for again
    keys = {
        "access_key": given.username and unquote(given.username),
        "secret_key": given.password and unquote(given.password),
        "session_token": None,
    }
    bounds = {
        "connect_timeout": S3_SECONDS,
        "request_timeout": S3_SECONDS,
        "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
    }
    return pafs.S3FileSystem(**{**options, **keys, **bounds})


def encode_json(value: Any) -> bytes:
    """A value as JSON for people and programs: indented, its keys in their order, NaN refused."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
