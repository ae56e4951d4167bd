"""Assertions about the class of an error and the names in its message."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def refused(
    kind: type[Exception], *words: object, file: object = ""
) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Expect an error of this class whose message contains the file and each of the words."""
    with pytest.raises(kind) as caught:
        yield caught
    text = str(caught.value)
    assert str(file) in text
    assert not unnamed(text, *words, file=file), text


def unnamed(text: str, *words: object, file: object = "") -> list[object]:
    """The words missing from a text in which the path of the file does not count."""
    rest = text.replace(str(file), "") if file else text
    return [
        word
        for word in words
        if not re.search(rf"(?<![\w.])(?<!\w-){re.escape(str(word))}(?!\w)", rest)
    ]
