"""Processes of a `Sandbox`: a zygote, which imports the decoders and forks, and a decode worker.

Run as `python -m pipeline.decode.sandbox.decode_worker`, only by the sandbox.
"""

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
from pipeline.decode.media.probe import probe
from pipeline.decode.media.shapes import AnySpec, shape_of
from pipeline.decode.media.text import add_tokenizer
from pipeline.decode.sandbox.messages import NO_MEMORY, STATUS, receive, send
from pipeline.errors import SampleError
from pipeline.shards.limits import Limits

_PR_SET_PDEATHSIG = 1
_PARENT_CHECK_SECONDS = 1.0
_NO_MEMORY_TEXTS = ("allocate memory", "not enough memory", "out of memory", "bad_alloc")


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeRequest:
    """How a decode worker decodes the members of a sample."""

    decode: Callable[[Mapping[str, bytes], Mapping[str, AnySpec], Limits], dict[str, Array | None]]
    specs: Mapping[str, AnySpec]
    limits: Limits


def main() -> None:
    """Import the decoders, then fork a decode worker per request until the parent exits."""
    control, parent = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    # Ctrl-C at the terminal reaches all processes; only the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    torch.set_num_threads(1)
    options = json.load(sys.stdin)
    module, _, function = options["entry"].partition(":")
    for text in options["tokenizers"]:
        add_tokenizer(text)
    request = DecodeRequest(
        decode=getattr(import_module(module), function),
        specs=TypeAdapter(dict[str, ModalitySpec]).validate_python(options["modalities"]),
        limits=Limits.model_validate(options["limits"]),
    )
    # Frozen objects stay in pages that the forks share.
    gc.collect()
    gc.freeze()
    with contextlib.suppress(ConnectionError):
        _serve(control, parent, request)


def _serve(control: socket.socket, parent: int, request: DecodeRequest) -> None:
    """Fork decode workers on request, one at a time.

    A fork of the parent may keep the socket open after the parent has exited, so the parent process
    id is checked too.
    """
    child = 0
    control.settimeout(_PARENT_CHECK_SECONDS)
    while os.getppid() == parent:
        try:
            data, fds, _, _ = socket.recv_fds(control, 1, 1)
        except TimeoutError:
            continue
        if not data:
            break
        status = os.waitpid(child, 0)[1] if child else 0
        child, parent_end = _fork(control, fds[0], request)
        with parent_end:
            socket.send_fds(control, [STATUS.pack(status)], [parent_end.fileno()])
    if child:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _fork(control: socket.socket, errors: int, request: DecodeRequest) -> tuple[int, socket.socket]:
    """Fork a decode worker; returns its process id and the parent's end of the connection to it.

    `errors` is a file descriptor for the worker's output.
    """
    zygote = os.getpid()
    parent_end, child_end = socket.socketpair()
    child = os.fork()
    if not child:
        code = 1
        try:
            control.close()
            parent_end.close()
            _confine(zygote, errors, request.limits)
            _serve_parent(child_end, request)
        except (EOFError, ConnectionError):
            code = 0  # the parent has exited
        except MemoryError:
            code = NO_MEMORY
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    child_end.close()
    os.close(errors)
    return child, parent_end


def _serve_parent(connection: socket.socket, request: DecodeRequest) -> None:
    """Reply to the parent's messages.

    Raises EOFError or ConnectionError if the parent has exited, MemoryError if memory runs out.
    """
    with connection.makefile("rb") as file:
        while True:
            header = receive(file)
            members = {suffix: file.read(size) for suffix, size in header["members"].items()}
            send(connection, *_reply(header["ask"], members, request))
            del members


def _confine(zygote: int, errors: int, limits: Limits) -> None:
    """Restrict the decode worker.

    It is killed when the zygote exits, writes its output to the parent's standard error, leaves no
    core dump, and may allocate `limits.memory` bytes in addition to its current memory.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != zygote:
        os._exit(0)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    os.close(errors)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    used = next(
        int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:")
    )
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    soft = used + limits.memory
    resource.setrlimit(
        resource.RLIMIT_DATA,
        (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard),
    )


def _reply(
    action: str, members: Mapping[str, bytes], request: DecodeRequest
) -> tuple[dict[str, Any], list[memoryview]]:
    """Compute the header and the arrays of a reply.

    A timer kills the process after `limits.timeout` seconds. Raises MemoryError.
    """
    signal.setitimer(signal.ITIMER_REAL, request.limits.timeout)
    try:
        if action == "probe":
            [(suffix, data)] = members.items()
            return {"facts": probe(data, suffix)}, []
        decoded = request.decode(members, request.specs, request.limits)
        arrays = _checked(decoded, request.specs)
        buffers = [
            np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for array in arrays.values()
        ]
        return {"arrays": list(arrays)}, buffers
    except BaseException as error:
        if _is_memory_error(error):
            raise MemoryError from None
        if isinstance(error, SampleError):
            return {"reason": error.reason, "detail": error.detail}, []
        return {"traceback": traceback.format_exc()[-8000:]}, []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _checked(arrays: Mapping[str, Array | None], specs: Mapping[str, AnySpec]) -> dict[str, Array]:
    """Return the arrays that are not None, checked against `shape_of`.

    The parent derives the number of bytes to read from the same shapes.
    """
    present = {name: array for name, array in arrays.items() if array is not None}
    for name, array in present.items():
        shape, dtype = shape_of(name, specs[name])
        assert array.shape == shape and array.dtype == dtype, (
            f"{name}: {array.dtype} {array.shape} instead of {dtype} {shape}"
        )
    return present


def _is_memory_error(error: BaseException | None) -> bool:
    """Return whether an error is due to a failed allocation, even if a library re-raised it."""
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
