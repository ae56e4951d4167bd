"""Cases for `benchmarks/fuzz.py` whose judges do what a broken promise does."""

import ctypes
import os
from pathlib import Path

from tests.support.fuzzing import Case, Cases


def odd_cases(_: Path) -> Cases:
    """By number: one that holds, one that raises, one that crashes, one that ends its process, and one that holds."""
    return lambda seed, number: Case(name="x", data=b"%d" % number, judge=judge)


def judge(data: bytes) -> str:
    """Does what the number says."""
    if data == b"1":
        raise ZeroDivisionError("division by zero")
    if data == b"2":
        ctypes.string_at(0)
    if data == b"3":
        os._exit(3)
    return "held"
