"""The problems that `remix verify` finds, each with its epoch and its artifact."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from pipeline.errors import RemixError, StoreError
from pipeline.storage.store_path import StorePath

MALFORMED = (LookupError, TypeError, ValueError, AttributeError, pa.ArrowException)
"""What reading JSON of another shape than ours raises."""


class Problems:
    """What does not hold: each kind once an artifact and epoch, with how often it was seen.

    `epoch` is the one that is looked at.
    """

    def __init__(self, store: StorePath, run: StorePath) -> None:
        self._roots = (f"{run.path}/", f"{store.path}/")
        self._found: dict[tuple[int | None, str, str], tuple[str, int]] = {}
        self.epoch: int | None = None

    def add(self, store_path: StorePath, what: str, kind: str | None = None) -> None:
        """Notes a problem of an artifact; of a kind that it has in this epoch already, only the number."""
        path = store_path.path
        for root in self._roots:
            path = path.removeprefix(root)
        key = (self.epoch, path, kind or what)
        first, num = self._found.get(key, (what, 0))
        self._found[key] = (first, num + 1)

    def expect(self, store_path: StorePath, name: str, found: object, expected: object) -> None:
        """Notes a problem where a value is not the one that it should be; of mappings, for each expected entry."""
        if isinstance(found, Mapping) and isinstance(expected, Mapping):
            for key, value in expected.items():
                self.expect(store_path, f"{name}.{key}", found.get(key), value)
        elif found != expected:
            self.add(store_path, f"{name} is {_short(found)}, not {_short(expected)}")

    @contextmanager
    def reading(self, store_path: StorePath) -> Iterator[None]:
        """Makes a problem of an artifact that is missing or damaged (raises StoreError where the store itself does not answer)."""
        try:
            yield
        except RemixError as error:
            if isinstance(error, StoreError):
                store_path.info()
            self.add(store_path, str(error))
        except MALFORMED as error:
            self.add(store_path, f"is damaged ({type(error).__name__}: {error})")

    def __contains__(self, epoch: int) -> bool:
        return any(key[0] == epoch for key in self._found)

    def listed(self) -> list[dict[str, Any]]:
        """The problems in the order in which they were found."""
        return [
            {"epoch": epoch, "artifact": path, "what": f"{what} ({num} such)" if num > 1 else what}
            for (epoch, path, _), (what, num) in self._found.items()
        ]


def _short(value: object) -> str:
    """A hash as its first 12 digits, any other value in at most some 100 characters."""
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:90]}..."
