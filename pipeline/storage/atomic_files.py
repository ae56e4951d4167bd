"""A file that knows the hash of what was written to it."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class HashingFile(io.RawIOBase):
    """A writable file that knows the SHA-256 and the number of the bytes that went through it, and the error that ended it (some writers hide it)."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.num_bytes = 0
        self.failed: OSError | None = None

    def write(self, data: Any) -> int:
        self._hash.update(data)
        self.num_bytes += memoryview(data).nbytes
        with self.recording():
            self._file.write(data)
        return memoryview(data).nbytes

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

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._file.close()

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
