"""Checks of what is asked for."""

from collections.abc import Iterable
from difflib import get_close_matches

from pipeline.errors import InputError


def require(holds: bool, what: str, cure: str) -> None:
    """Raises InputError with what is wrong and its cure where a condition does not hold."""
    if not holds:
        raise InputError(what, cure)


def one_of(name: str, names: Iterable[str]) -> str:
    """The cure for a name that is not among some others."""
    names = [*names]
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose among {', '.join(names) or 'none'}"
