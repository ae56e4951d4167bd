"""Decoding in a process of its own: a decoder that crashes, hangs or eats memory costs one sample. The parent's side; `cell` is the child's.

A first process imports the decoders (seconds) and decodes nothing. It forks the child that does (milliseconds), and says how it died; the parent asks
for the next one. Both end when the parent does, however it ends. A message is the length of a JSON text, the text, and raw bytes whose sizes it tells.
"""

import contextlib
import fcntl
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline.arrays import Array
from pipeline.decode.media.shapes import AnySpec, shape_of
from pipeline.decode.sandbox.messages import LENGTH, NO_MEMORY, STATUS, frame, write_all
from pipeline.errors import RemixError, SampleError
from pipeline.shards.limits import Limits

B = TypeVar("B", bytearray, memoryview)
_CRASHES = {
    signal.SIGSEGV,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGILL,
    signal.SIGFPE,
    signal.SIGTRAP,
}
_START_SECONDS = 300.0
_PIPE_BYTES = 2**20
# A thread that another library starts would not live on in the fork, and threads would compete with the other workers.
_ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}


class Sandbox:
    """Decodes samples as `decode_sample` does, in a child process that starts with the first one; safe to share between threads, not between processes."""

    def __init__(
        self,
        specs: Mapping[str, AnySpec],
        limits: Limits,
        *,
        entry: str = "pipeline.decode.media.sample:decode_sample",
    ) -> None:
        self._shapes = {name: shape_of(name, spec) for name, spec in specs.items()}
        self._limits = limits
        modalities = {name: spec.model_dump(mode="json") for name, spec in specs.items()}
        self._config = json.dumps(
            {"entry": entry, "modalities": modalities, "limits": limits.model_dump(mode="json")}
        ).encode()
        self._lock = threading.RLock()
        self._cell: _Cell | None = None

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def decode(self, members: Mapping[str, bytes]) -> dict[str, Array | None]:
        """As `decode_sample` (raises SampleError, of timeout, crash and memory too; RemixError where the child was killed or the code is wrong)."""
        _, arrays = self._ask("decode", members)
        return {name: arrays.get(name) for name in self._shapes}

    def streams_in(self, data: bytes) -> set[str]:
        """As `clip.streams_in`, with the same protection (raises SampleError, RemixError)."""
        return set(self._ask("streams_in", {"": data})[0]["streams"])

    def close(self) -> None:
        """Ends the processes once the sample at hand is done; the next sample would start them again."""
        with self._lock:
            if self._cell:
                self._cell.close()
                self._cell = None

    def _ask(
        self, what: str, members: Mapping[str, bytes]
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        with self._lock:
            try:
                reply, arrays = self._exchange(what, members)
            except _DeathError as death:
                # a sample before it may have broken or filled the memory: in a fresh child it fails for itself
                _rejection(death.status, self._limits)
                reply, arrays = self._last_exchange(what, members)
        if "reason" in reply:
            raise SampleError(reply["reason"], reply["detail"])
        if "traceback" in reply:
            raise RemixError(f"a programming error in decoding:\n{reply['traceback']}")
        return reply, arrays

    def _last_exchange(
        self, what: str, members: Mapping[str, bytes]
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        try:
            return self._exchange(what, members)
        except _DeathError as death:
            raise _rejection(death.status, self._limits) from None

    def _exchange(
        self, what: str, members: Mapping[str, bytes]
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        self._cell = self._cell or _Cell(self._config)
        try:
            return self._cell.exchange(what, members, self._shapes)
        except _DeathError:
            raise
        except BaseException:
            # what is left in the pipes belongs to no request any more
            self.close()
            raise


class _DeathError(Exception):
    """The child has ended, with this wait status."""

    def __init__(self, status: int) -> None:
        self.status = status


def _rejection(status: int, limits: Limits) -> SampleError:
    """What the end of a child says of its sample (raises RemixError where the sample did not cause it)."""
    if not os.WIFSIGNALED(status):
        code = os.waitstatus_to_exitcode(status)
        if code == NO_MEMORY:
            return SampleError(
                "oversize", f"decoding takes more than {limits.memory} bytes of memory"
            )
        return SampleError("crash", f"the decoder ended its process with exit code {code}")
    number = os.WTERMSIG(status)
    if number == signal.SIGALRM:
        return SampleError("timeout", f"decoding takes more than {limits.timeout} s")
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number in _CRASHES:
        return SampleError("crash", f"the decoder died by {name}")
    raise RemixError(
        f"the process that decodes was killed by {name}, from outside",
        "give the machine more memory, or run fewer tasks at a time",
    )


@dataclass(slots=True)
class _Pipes:
    """The parent's ends of the pipes to a child; neither blocks."""

    requests: int
    replies: int


class _Cell:
    """The two processes, and what is open to them."""

    def __init__(self, config: bytes) -> None:
        """Starts the first process, which imports the decoders (raises RemixError)."""
        self._pipes: _Pipes | None = None
        self._log = io.FileIO(os.memfd_create("remix-cell"), "r+")
        self._control, theirs = socket.socketpair()
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        command = [
            sys.executable,
            "-P",
            "-m",
            "pipeline.decode.sandbox.decode_worker",
            str(theirs.fileno()),
            str(os.getpid()),
        ]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command,
                    env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    pass_fds=[theirs.fileno()],
                )
        except OSError as error:
            self._control.close()
            self._log.close()
            raise RemixError(
                f"the process that decodes did not start: {error}", "mend the Python installation"
            ) from error
        try:
            self._control.settimeout(_START_SECONDS)
            self._control.sendall(LENGTH.pack(len(config)) + config)
            started = self._control.recv(1)
            self._control.settimeout(None)
        except OSError as error:
            raise self._lost("did not start") from error
        except BaseException:
            self._lost("was not waited for")
            raise
        if not started:
            raise self._lost("did not start")

    def close(self) -> None:
        """Ends both processes; a child that decodes is killed."""
        self._drop()
        self._control.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def exchange(
        self,
        what: str,
        members: Mapping[str, bytes],
        shapes: Mapping[str, tuple[tuple[int, ...], str]],
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        """Sends a request, reads the reply and its arrays (raises _DeathError, RemixError)."""
        pipes = self._pipes = self._pipes or self._fork()
        header = {"ask": what, "members": {suffix: len(data) for suffix, data in members.items()}}
        self._write(pipes.requests, [*frame(header), *members.values()])
        (length,) = LENGTH.unpack(self._read(pipes.replies, bytearray(LENGTH.size)))
        reply: dict[str, Any] = json.loads(self._read(pipes.replies, bytearray(length)))
        arrays = {name: np.empty(*shapes[name]) for name in reply.get("arrays", ())}
        for array in arrays.values():
            self._read(pipes.replies, array.reshape(-1).view(np.uint8).data)
        return reply, arrays

    def _fork(self) -> _Pipes:
        """Has a child forked, which gets its ends of two new pipes, and this process's standard error to print to."""
        theirs_in, requests = _pipe()
        replies, theirs_out = _pipe()
        os.set_blocking(requests, False)
        os.set_blocking(replies, False)
        errors = _standard_error()
        try:
            socket.send_fds(self._control, [b"F"], [theirs_in, theirs_out, errors])
        except OSError as error:
            os.close(requests)
            os.close(replies)
            raise self._lost("has ended") from error
        finally:
            for fd in (theirs_in, theirs_out, errors):
                os.close(fd)
        return _Pipes(requests, replies)

    def _drop(self) -> None:
        if self._pipes:
            os.close(self._pipes.requests)
            os.close(self._pipes.replies)
            self._pipes = None

    def _write(self, fd: int, buffers: Sequence[bytes]) -> None:
        try:
            write_all(fd, buffers, lambda: self._wait(fd, select.POLLOUT))
        except BrokenPipeError:
            raise self._death() from None

    def _read(self, fd: int, buffer: B) -> B:
        view = memoryview(buffer)
        while view:
            try:
                num = os.readv(fd, [view])
            except BlockingIOError:
                self._wait(fd, select.POLLIN)
                continue
            if not num:
                raise self._death()
            view = view[num:]
        return buffer

    def _wait(self, fd: int, event: int) -> None:
        """Until the pipe can go on (raises _DeathError); a process that this one forked meanwhile may keep the pipe of a dead child open."""
        poll = select.poll()
        poll.register(fd, event)
        poll.register(self._control, select.POLLIN)
        if all(ready != fd for ready, _ in poll.poll()):
            raise self._death()

    def _death(self) -> _DeathError:
        self._drop()
        status = b""
        with contextlib.suppress(OSError):
            status = self._control.recv(STATUS.size, socket.MSG_WAITALL)
        if len(status) < STATUS.size:
            raise self._lost("has ended")
        return _DeathError(*STATUS.unpack(status))

    def _lost(self, how: str) -> RemixError:
        """The first process is gone, or has never come up: what it printed last is the reason."""
        self._drop()
        self._control.close()
        self._process.kill()
        code = self._process.wait()
        self._log.seek(0)
        text = (self._log.read() or b"")[-2000:].decode(errors="replace").strip()
        self._log.close()
        return RemixError(
            f"the process that decodes {how} (exit code {code}): {text or 'it said nothing'}",
            "mend what it says, or give the machine more memory",
        )


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    # more than its share of pipe memory is refused to a user: it is only faster
    with contextlib.suppress(OSError):
        fcntl.fcntl(ends[0], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return ends


def _standard_error() -> int:
    try:
        return os.dup(2)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


@dataclass(slots=True)
class _Kept:
    key: object = None
    sandbox: Sandbox | None = None


_kept = _Kept()
_kept_lock = threading.Lock()


def sandbox_for(specs: Mapping[str, AnySpec], limits: Limits) -> Sandbox:
    """This process's sandbox: the same one for the same configuration; another configuration closes it."""
    key = (os.getpid(), list(specs.items()), limits)
    with _kept_lock:
        if _kept.sandbox is None or _kept.key != key:
            if _kept.sandbox is not None:
                _kept.sandbox.close()
            _kept.key, _kept.sandbox = key, Sandbox(specs, limits)
        return _kept.sandbox
