"""Problems that `remix verify` reports, with their epoch and artifact."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from pipeline.errors import RemixError, StoreError
from pipeline.storage.store_path import StorePath

MALFORMED = (LookupError, TypeError, ValueError, AttributeError, pa.ArrowException)
"""Exceptions raised by JSON or Arrow content of an unexpected form."""


class Problems:
    """Collected problems, deduplicated by epoch, artifact and kind.

    Set `epoch` to the epoch that is being checked, None for artifacts of the run.
    """

    def __init__(self, store: StorePath, run: StorePath) -> None:
        self._roots = (f"{run.path}/", f"{store.path}/")
        self._problems: dict[tuple[int | None, str, str], tuple[str, int]] = {}
        self.epoch: int | None = None

    def add(self, store_path: StorePath, what: str, kind: str | None = None) -> None:
        """Add a problem; one of a kind that the artifact has in this epoch is only counted."""
        path = store_path.path
        for root in self._roots:
            path = path.removeprefix(root)
        key = (self.epoch, path, kind or what)
        first, num = self._problems.get(key, (what, 0))
        self._problems[key] = (first, num + 1)

    def expect(self, store_path: StorePath, name: str, actual: object, expected: object) -> None:
        """Add a problem if `actual` is not `expected`; of mappings, for each expected entry."""
        if isinstance(actual, Mapping) and isinstance(expected, Mapping):
            for key, value in expected.items():
                self.expect(store_path, f"{name}.{key}", actual.get(key), value)
        elif actual != expected:
            self.add(store_path, f"{name} is {_shorten(actual)}, expected {_shorten(expected)}")

    @contextmanager
    def reading(self, store_path: StorePath) -> Iterator[None]:
        """Add a problem if the artifact is missing or damaged.

        Raises StoreError if the store itself cannot be reached.
        """
        try:
            yield
        except RemixError as error:
            if isinstance(error, StoreError):
                store_path.info()
            self.add(store_path, str(error))
        except MALFORMED as error:
            self.add(store_path, f"damaged ({type(error).__name__}: {error})")

    def __contains__(self, epoch: int) -> bool:
        return any(key[0] == epoch for key in self._problems)

    def listed(self) -> list[dict[str, Any]]:
        """All problems as JSON, in the order in which they were added."""
        return [
            {
                "epoch": epoch,
                "artifact": path,
                "what": f"{what} (first of {num})" if num > 1 else what,
            }
            for (epoch, path, _), (what, num) in self._problems.items()
        ]


def _shorten(value: object) -> str:
    """The first 12 digits of a hash, other values cut to about 100 characters."""
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:90]}..."
