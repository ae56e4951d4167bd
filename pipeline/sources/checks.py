"""Checks of what is asked for."""

from pipeline.errors import InputError


def require(holds: bool, what: str, cure: str) -> None:
    """Raises InputError with what is wrong and its cure where a condition does not hold."""
    if not holds:
        raise InputError(what, cure)
