"""Cases for `benchmarks/fuzz.py` whose judges fail, crash or exit."""

import ctypes
import os
from pathlib import Path

from tests.support.fuzzing import Case, Cases


def odd_cases(_: Path) -> Cases:
    """Cases by number: 0 succeeds, 1 raises, 2 crashes, 3 exits, the others succeed."""
    return lambda seed, number: Case(name="x", data=b"%d" % number, judge=judge)


def judge(data: bytes) -> str:
    """Behave according to the number."""
    if data == b"1":
        raise ZeroDivisionError("division by zero")
    if data == b"2":
        ctypes.string_at(0)
    if data == b"3":
        os._exit(3)
    return "held"
