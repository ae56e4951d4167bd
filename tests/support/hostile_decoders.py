"""Decoders for `Sandbox(entry=...)` that misbehave as with broken or malicious files.

The member "x" names the decoder.
"""

import ctypes
import os
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from pipeline.decode.media.shapes import AnySpec, shape_of
from pipeline.errors import SampleError
from pipeline.shards.limits import Limits

Members = Mapping[str, bytes]
Arrays = dict[str, np.ndarray | None]


def mixed(members: Members, specs: Mapping[str, AnySpec], limits: Limits) -> Arrays:
    """Member "x" names one of the decoders below; "ok" is a healthy sample."""
    return HOW[members["x"].decode()](members, specs)


def ok(members: Members, specs: Mapping[str, AnySpec]) -> Arrays:
    """Each array is filled with the length of all members, modulo 256."""
    total = sum(map(len, members.values())) % 256
    return {
        name: np.full(shape, total, dtype)
        for name, (shape, dtype) in ((name, shape_of(name, spec)) for name, spec in specs.items())
    }


def segfault(*_: object) -> Arrays:
    ctypes.string_at(0)
    raise AssertionError


def abort(*_: object) -> Arrays:
    os.abort()


def hang_in_c(*_: object) -> Arrays:
    re.match(r"(a+)+$", "a" * 64 + "b")
    raise AssertionError


def hang_in_c_without_the_gil(*_: object) -> Arrays:
    ctypes.CDLL(None).sleep(3600)
    raise AssertionError


def hang_in_python(*_: object) -> Arrays:
    while True:
        pass


def sleep(*_: object) -> Arrays:
    time.sleep(3600)
    raise AssertionError


def eat_memory(*_: object) -> Arrays:
    eaten = []
    while True:
        eaten.append(np.ones(2**20, np.uint8))


def one_huge_array(*_: object) -> Arrays:
    return {"x": np.ones(2**40, np.uint8)}


def one_huge_tensor(*_: object) -> Arrays:
    return {"x": torch.ones(2**40, dtype=torch.uint8).numpy()}


def memory_called_undecodable(*_: object) -> Arrays:
    try:
        bytearray(2**40)
    except MemoryError as error:
        raise SampleError("undecodable", "message of a library") from error
    raise AssertionError


def exit_with_3(*_: object) -> Arrays:
    os._exit(3)


def print_in_c(members: Members, specs: Mapping[str, AnySpec]) -> Arrays:
    libc = ctypes.CDLL(None)
    libc.puts(b"printed by C")
    libc.fflush(None)
    print("printed by Python", flush=True)
    return ok(members, specs)


def wrong_code(*_: object) -> Arrays:
    return None.no_such_attribute  # type: ignore[attr-defined]


def wrong_shape(_: Members, specs: Mapping[str, AnySpec]) -> Arrays:
    return {name: np.zeros(1, np.uint8) for name in specs}


def reject(*_: object) -> Arrays:
    raise SampleError("non_finite", "ünïcode \ud800 detail")


def killed(*_: object) -> Arrays:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def terminated(*_: object) -> Arrays:
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError


_broken: list[bytes] = []


def break_the_heap(members: Members, specs: Mapping[str, AnySpec]) -> Arrays:
    """Decode successfully, but make `needs_a_whole_heap` crash later in the same process."""
    _broken.append(b"")
    return ok(members, specs)


def leak(members: Members, specs: Mapping[str, AnySpec]) -> Arrays:
    """Leak 20 MB per sample."""
    _broken.append(b"x" * 20_000_000)
    return ok(members, specs)


def needs_a_whole_heap(members: Members, specs: Mapping[str, AnySpec]) -> Arrays:
    return segfault() if _broken else ok(members, specs)


def write_pids(members: Members, specs: Mapping[str, AnySpec]) -> Arrays:
    """Write the ids of both processes to the file that member "path" names."""
    Path(members["path"].decode()).write_text(f"{os.getppid()} {os.getpid()}", encoding="utf-8")
    return ok(members, specs)


def write_pids_and_hang(members: Members, specs: Mapping[str, AnySpec]) -> Arrays:
    write_pids(members, specs)
    return hang_in_python()


HOW = {
    name: thing
    for name, thing in list(globals().items())
    if getattr(thing, "__module__", "") == __name__
}
