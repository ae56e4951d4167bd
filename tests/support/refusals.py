"""What is refused: the class of the error, and what it names."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def refused(kind: type[Exception], *words: object) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Expects an error of this class in whose message each of the words stands by itself."""
    with pytest.raises(kind) as caught:
        yield caught
    for word in words:
        pattern = rf"(?<![\w.])(?<!\w-){re.escape(str(word))}(?!\w)"
        assert re.search(pattern, str(caught.value)), (word, caught.value)
