"""A file that knows the hash of what was written to it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class HashingFile:
    """A writable file that knows the SHA-256 and the number of the bytes that went through it, and the error that ended it (some writers hide it)."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.num_bytes = 0
        self.failed: OSError | None = None
        self.closed = False

    def write(self, data: Any) -> int:
        self._hash.update(data)
        self.num_bytes += memoryview(data).nbytes
        with self.recording():
            self._file.write(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        with self.recording():
            self._file.flush()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keeps the error of what is done to the file."""
        try:
            yield
        except OSError as error:
            self.failed = self.failed or error
            raise

    def tell(self) -> int:
        return self.num_bytes

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        if not self.closed:
            self._file.close()
            self.closed = True

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
