"""What is refused: the class of the error, and what it names."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def refused(
    kind: type[Exception], *words: object, file: object = ""
) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Expects an error of this class that names the file, and in whose other words each of these stands by itself."""
    with pytest.raises(kind) as caught:
        yield caught
    text = str(caught.value)
    assert str(file) in text
    assert not unnamed(text, *words, file=file), text


def unnamed(text: str, *words: object, file: object = "") -> list[object]:
    """Those of the words that do not stand by themselves in a text without the path of the file."""
    rest = text.replace(str(file), "") if file else text
    return [
        word
        for word in words
        if not re.search(rf"(?<![\w.])(?<!\w-){re.escape(str(word))}(?!\w)", rest)
    ]
