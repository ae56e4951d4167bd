"""Where the bytes of a member come from: a file, or the content of a table."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes that are not a file of their own, such as a text or an encoded image in a table.

    It is read like a `Path`. Two of them are the same content if they have the same name.

    Attributes:
        name: where it is, for messages.
        suffix: extension for the member, with a dot.
        read_bytes: returns the bytes.
    """

    name: str
    suffix: str
    read_bytes: Callable[[], bytes] = field(compare=False)

    def open(self, mode: Literal["rb"]) -> io.BytesIO:
        """Return the bytes as a file."""
        return io.BytesIO(self.read_bytes())

    def __str__(self) -> str:
        return self.name


Source = Path | Content


def extension(source: Source) -> str:
    """Return the extension in lower case, without the dot."""
    return source.suffix.lower().removeprefix(".")


def is_blank(source: Source) -> bool:
    """Whether a text is empty or only whitespace; False if it cannot be read."""
    try:
        return not source.read_bytes().decode("utf-8-sig", "replace").strip()
    except OSError:
        return False
