"""A file wrapper that hashes and counts what is written."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class HashingFile(io.RawIOBase):
    """A writable file that hashes and counts its bytes, and remembers the first OSError.

    pyarrow and tarfile may replace the OSError of a failed write with one of their own; `failed`
    is the original, with its errno.
    """

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
        """Remember the first OSError raised inside the block."""
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
