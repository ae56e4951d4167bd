"""The processes of a `Sandbox`: one that imports the decoders and forks, one that decodes; `python -m pipeline.decode.sandbox.decode_worker`, started by the sandbox alone."""

import contextlib
import ctypes
import errno
import gc
import json
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from pipeline.arrays import Array
from pipeline.decode.config import ModalitySpec
from pipeline.decode.media.clip import streams_in
from pipeline.decode.media.shapes import AnySpec, shape_of
from pipeline.decode.sandbox.messages import NO_MEMORY, STATUS, receive, send
from pipeline.errors import SampleError
from pipeline.shards.limits import Limits

_PR_SET_PDEATHSIG = 1
_LOOK_SECONDS = 1.0
_NO_MEMORY_TEXTS = ("allocate memory", "not enough memory", "out of memory", "bad_alloc")


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeRequest:
    """What a child does with the members of a sample."""

    decode: Callable[[Mapping[str, bytes], Mapping[str, AnySpec], Limits], dict[str, Array | None]]
    specs: Mapping[str, AnySpec]
    limits: Limits


def main() -> None:
    """Imports, and forks a child whenever the parent asks for one, until the parent is gone."""
    control, parent = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    # an interrupt at the terminal is the parent's affair
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    torch.set_num_threads(1)
    given = json.load(sys.stdin)
    module, _, function = given["entry"].partition(":")
    work = DecodeRequest(
        decode=getattr(import_module(module), function),
        specs=TypeAdapter(dict[str, ModalitySpec]).validate_python(given["modalities"]),
        limits=Limits.model_validate(given["limits"]),
    )
    gc.collect()
    gc.freeze()
    with contextlib.suppress(ConnectionError):
        _serve(control, parent, work)


def _serve(control: socket.socket, parent: int, work: DecodeRequest) -> None:
    """One child at a time. A fork of the parent may hold the socket open, so the parent is looked for too."""
    child = 0
    control.settimeout(_LOOK_SECONDS)
    while os.getppid() == parent:
        try:
            asked, fds, _, _ = socket.recv_fds(control, 1, 1)
        except TimeoutError:
            continue
        if not asked:
            break
        status = os.waitpid(child, 0)[1] if child else 0
        child, theirs = _fork(control, fds[0], work)
        with theirs:
            socket.send_fds(control, [STATUS.pack(status)], [theirs.fileno()])
    if child:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _fork(control: socket.socket, errors: int, work: DecodeRequest) -> tuple[int, socket.socket]:
    """The number of a new child, and the parent's end of the connection to it."""
    zygote = os.getpid()
    theirs, ours = socket.socketpair()
    child = os.fork()
    if not child:
        code = 1
        try:
            control.close()
            theirs.close()
            _confine(zygote, errors, work.limits)
            _work(ours, work)
        except (EOFError, ConnectionError):
            code = 0  # the parent is gone
        except MemoryError:
            code = NO_MEMORY
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    ours.close()
    os.close(errors)
    return child, theirs


def _work(connection: socket.socket, work: DecodeRequest) -> None:
    """Answers the requests of the parent (raises EOFError or ConnectionError where it is gone, MemoryError)."""
    with connection.makefile("rb") as file:
        while True:
            request = receive(file)
            members = {suffix: file.read(size) for suffix, size in request["members"].items()}
            send(connection, *_answer(request["ask"], members, work))
            del members


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


def _answer(
    ask: str, members: Mapping[str, bytes], work: DecodeRequest
) -> tuple[dict[str, Any], list[memoryview]]:
    """The reply and its arrays, made under the clock, whose alarm ends the process (raises MemoryError)."""
    signal.setitimer(signal.ITIMER_REAL, work.limits.timeout)
    try:
        if ask == "streams_in":
            return {"streams": sorted(streams_in(members[""]))}, []
        found = _checked(work.decode(members, work.specs, work.limits), work.specs)
        buffers = [
            np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for array in found.values()
        ]
        return {"arrays": list(found)}, buffers
    except BaseException as error:
        if _lacks_memory(error):
            raise MemoryError from None
        if isinstance(error, SampleError):
            return {"reason": error.reason, "detail": error.detail}, []
        return {"traceback": traceback.format_exc()[-8000:]}, []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


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
