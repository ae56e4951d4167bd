"""Helpers to check arguments."""

from collections.abc import Iterable
from difflib import get_close_matches

from pipeline.errors import InputError


def require(condition: bool, what: str, cure: str) -> None:
    """Raise InputError, with what is wrong and how to fix it, unless a condition is true."""
    if not condition:
        raise InputError(what, cure)


def one_of(name: str, names: Iterable[str]) -> str:
    """How to fix a name that is not one of `names`: the closest match, or all of them."""
    names = [*names]
    close = get_close_matches(name, names, n=1)
    return (
        f"Did you mean {close[0]!r}?" if close else f"Choose one of {', '.join(names) or 'none'}."
    )
