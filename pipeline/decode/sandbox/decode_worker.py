"""The processes of a `Sandbox`: one that imports the decoders and forks, one that decodes; `python -m pipeline.decode.sandbox.decode_worker`, started by the sandbox alone."""

import contextlib
import ctypes
import errno
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from pydantic import TypeAdapter

from pipeline.arrays import Array
from pipeline.decode.config import ModalitySpec
from pipeline.decode.media.clip import streams_in
from pipeline.decode.media.shapes import AnySpec, shape_of
from pipeline.decode.sandbox.messages import LENGTH, NO_MEMORY, STATUS, frame, write_all
from pipeline.errors import SampleError
from pipeline.shards.limits import Limits

_PR_SET_PDEATHSIG = 1
_LOOK_SECONDS = 1.0
_NO_MEMORY_TEXTS = ("allocate memory", "not enough memory", "out of memory", "bad_alloc")


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a child does with the members of a sample."""

    decode: Callable[[Mapping[str, bytes], Mapping[str, AnySpec], Limits], dict[str, Array | None]]
    specs: Mapping[str, AnySpec]
    limits: Limits


def main() -> None:
    """Imports, says so, and forks a child whenever the parent sends the ends of its pipes, until the parent is gone."""
    control, parent = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    # an interrupt at the terminal is the parent's affair
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    torch.set_num_threads(1)
    work = _work(control)
    gc.collect()
    gc.freeze()
    with contextlib.suppress(ConnectionError):
        control.sendall(b"R")
        _watch(control, parent, work)


def _work(control: socket.socket) -> Work:
    with control.makefile("rb", buffering=0) as file:
        given = json.loads(_exactly(file, LENGTH.unpack(_exactly(file, LENGTH.size))[0]))
    specs = TypeAdapter(dict[str, ModalitySpec]).validate_python(given["modalities"])
    module, _, function = given["entry"].partition(":")
    return Work(
        decode=getattr(import_module(module), function),
        specs=specs,
        limits=Limits.model_validate(given["limits"]),
    )


def _watch(control: socket.socket, parent: int, work: Work) -> None:
    """One child at a time; its end of the lifeline closes when it dies. A fork of the parent may hold the socket open, so the parent is looked for too."""
    child, lifeline = 0, -1
    try:
        while os.getppid() == parent:
            ready = select.select(
                [control.fileno(), *([lifeline] if child else [])], [], [], _LOOK_SECONDS
            )[0]
            if control.fileno() in ready:
                fds = socket.recv_fds(control, 1, 3)[1]
                if not fds:
                    return
                child, lifeline = _fork(control, fds, work)
            elif ready:
                os.close(lifeline)
                gone, child = child, 0
                control.sendall(STATUS.pack(os.waitpid(gone, 0)[1]))
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _fork(control: socket.socket, fds: list[int], work: Work) -> tuple[int, int]:
    lifeline, held = os.pipe()
    zygote = os.getpid()
    child = os.fork()
    if not child:
        code = 1
        try:
            control.close()
            os.close(lifeline)
            _confine(zygote, fds[2], work.limits)
            with open(fds[0], "rb") as requests:
                for ask, members in _requests(requests):
                    _answer(fds[1], ask, members, work)
                    del members
            code = 0
        except BrokenPipeError:
            code = 0
        except MemoryError:
            code = NO_MEMORY
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    for fd in (*fds, held):
        os.close(fd)
    return child, lifeline


def _confine(zygote: int, errors: int, limits: Limits) -> None:
    """The child dies with the zygote, prints to the parent's standard error, leaves no core, and has `limits.memory` bytes more than it starts with."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != zygote:
        os._exit(0)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    os.close(errors)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    held = next(
        int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:")
    )
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wanted = held + limits.memory
    resource.setrlimit(
        resource.RLIMIT_DATA,
        (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard),
    )


def _requests(file: BinaryIO) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The requests of the parent until it closes the pipe."""
    while head := file.read(LENGTH.size):
        header = json.loads(_exactly(file, LENGTH.unpack(head)[0]))
        yield (
            header["ask"],
            {suffix: _exactly(file, num) for suffix, num in header["members"].items()},
        )


def _exactly(file: Any, num: int) -> bytes:
    parts = []
    while num:
        part = file.read(num)
        if not part:
            raise BrokenPipeError("the parent is gone")
        parts.append(part)
        num -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _answer(replies: int, ask: str, members: Mapping[str, bytes], work: Work) -> None:
    """Does what is asked under the clock, whose alarm ends the process, and writes the reply (raises MemoryError, BrokenPipeError)."""
    arrays: list[memoryview] = []
    signal.setitimer(signal.ITIMER_REAL, work.limits.timeout)
    try:
        if ask == "decode":
            found = _checked(work.decode(members, work.specs, work.limits), work.specs)
            arrays = [
                np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
                for array in found.values()
            ]
            reply: dict[str, Any] = {"arrays": list(found)}
        else:
            reply = {"streams": sorted(streams_in(members[""]))}
    except BaseException as error:
        if _lacks_memory(error):
            raise MemoryError from None
        reply = (
            {"reason": error.reason, "detail": error.detail}
            if isinstance(error, SampleError)
            else {"traceback": traceback.format_exc()[-8000:]}
        )
    signal.setitimer(signal.ITIMER_REAL, 0)
    write_all(replies, [*frame(reply), *arrays])


def _checked(arrays: Mapping[str, Array | None], specs: Mapping[str, AnySpec]) -> dict[str, Array]:
    """The arrays that are there; the parent reads as many bytes of each as `shape_of` says."""
    found = {name: array for name, array in arrays.items() if array is not None}
    for name, array in found.items():
        shape, dtype = shape_of(name, specs[name])
        assert array.shape == shape and array.dtype == dtype, (
            f"{name}: {array.dtype} {array.shape}, not {dtype} {shape}"
        )
    return found


def _lacks_memory(error: BaseException | None) -> bool:
    """Whether a failed allocation is behind an error, whatever the libraries above it made of it."""
    while error is not None:
        if isinstance(error, MemoryError) or (
            isinstance(error, OSError) and error.errno == errno.ENOMEM
        ):
            return True
        if isinstance(error, RuntimeError | OSError) and any(
            text in str(error) for text in _NO_MEMORY_TEXTS
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


if __name__ == "__main__":
    main()
