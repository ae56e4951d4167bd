"""Decoding in a process of its own: a decoder that crashes, hangs or eats memory costs one sample. The parent's side.

A first process imports the decoders (seconds) and decodes nothing. It forks the decode worker (milliseconds), and where that one has died,
it says how and forks the next. Both end when the parent does, however it ends.
"""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.arrays import Array
from pipeline.decode.media.shapes import AnySpec, shape_of
from pipeline.decode.sandbox.messages import NO_MEMORY, STATUS, receive, send
from pipeline.errors import RemixError, SampleError
from pipeline.shards.limits import Limits

_CRASHES = {
    signal.SIGSEGV,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGILL,
    signal.SIGFPE,
    signal.SIGTRAP,
}
_START_SECONDS = 300.0
# A thread that another library starts would not live on in the fork, and threads would compete with the other workers.
_ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
Reply = tuple[dict[str, Any], dict[str, Array]]


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
        self._processes: _Processes | None = None

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
            if self._processes:
                self._processes.close()
                self._processes = None

    def _ask(self, what: str, members: Mapping[str, bytes]) -> Reply:
        with self._lock:
            answer = self._exchange(what, members)
            if isinstance(answer, SampleError):
                # a sample before it may have broken or filled the memory: in a fresh child it fails for itself
                answer = self._exchange(what, members)
        if isinstance(answer, SampleError):
            raise answer
        reply = answer[0]
        if "reason" in reply:
            raise SampleError(reply["reason"], reply["detail"])
        if "traceback" in reply:
            raise RemixError(f"a programming error in decoding:\n{reply['traceback']}")
        return answer

    def _exchange(self, what: str, members: Mapping[str, bytes]) -> Reply | SampleError:
        """The reply, or what the death of the child says of its sample (raises RemixError)."""
        self._processes = self._processes or _Processes(self._config)
        try:
            return self._processes.exchange(what, members, self._shapes)
        except _DeathError as death:
            return _rejection(death.status, self._limits)
        except BaseException:
            # what is left in the connection belongs to no request any more
            self.close()
            raise


class _DeathError(Exception):
    """The child has ended, with this wait status."""

    def __init__(self, status: int) -> None:
        self.status = status


def _rejection(status: int, limits: Limits) -> SampleError:
    """What the end of a child says of its sample (raises RemixError where the sample did not cause it)."""
    code = os.waitstatus_to_exitcode(status)
    if code == NO_MEMORY:
        return SampleError("oversize", f"decoding takes more than {limits.memory} bytes of memory")
    if code >= 0:
        return SampleError("crash", f"the decoder ended its process with exit code {code}")
    if -code == signal.SIGALRM:
        return SampleError("timeout", f"decoding takes more than {limits.timeout} s")
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    if -code in _CRASHES:
        return SampleError("crash", f"the decoder died by {name}")
    raise RemixError(
        f"the process that decodes was killed by {name}, from outside",
        "give the machine more memory, or run fewer tasks at a time",
    )


class _Processes:
    """The process that forks, the child that decodes, and what is open to them."""

    def __init__(self, config: bytes) -> None:
        """Starts the first process, which imports the decoders (raises RemixError)."""
        self._child: socket.socket | None = None
        self._log = io.FileIO(os.memfd_create("remix-decode-worker"), "r+")
        self._control, theirs = socket.socketpair()
        self._control.settimeout(_START_SECONDS)
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        module = "pipeline.decode.sandbox.decode_worker"
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", module, str(theirs.fileno()), str(os.getpid())],
                    env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
                    stdin=subprocess.PIPE,
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
        assert self._process.stdin
        # where it ends before it has read this, the first fork says so
        with contextlib.suppress(OSError), self._process.stdin as stdin:
            stdin.write(config)

    def close(self) -> None:
        """Ends both processes; a child that decodes is killed."""
        if self._child:
            self._child.close()
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
    ) -> Reply:
        """Sends a request, reads the reply and its arrays (raises _DeathError, RemixError)."""
        child = self._child or self._fork()[1]
        sizes = {suffix: len(data) for suffix, data in members.items()}
        try:
            send(child, {"ask": what, "members": sizes}, members.values())
            with child.makefile("rb") as file:
                reply = receive(file)
                arrays = {name: np.empty(*shapes[name]) for name in reply.get("arrays", ())}
                for array in arrays.values():
                    if file.readinto(array.reshape(-1).view(np.uint8).data) < array.nbytes:
                        raise EOFError
        except (EOFError, OSError):
            raise _DeathError(self._fork()[0]) from None
        return reply, arrays

    def _fork(self) -> tuple[int, socket.socket]:
        """The wait status of the child before, if any, and the connection to the next, which prints to this process's standard error (raises RemixError)."""
        try:
            errors = os.dup(2)
        except OSError:
            errors = os.open(os.devnull, os.O_WRONLY)
        try:
            socket.send_fds(self._control, [b"F"], [errors])
            status, fds, _, _ = socket.recv_fds(self._control, STATUS.size, 1)
        except OSError as error:
            raise self._lost() from error
        finally:
            os.close(errors)
        if not fds:
            raise self._lost()
        if self._child:
            self._child.close()
        os.set_inheritable(fds[0], False)
        self._child = socket.socket(fileno=fds[0])
        return STATUS.unpack(status)[0], self._child

    def _lost(self) -> RemixError:
        """The first process is gone, or has never come up: what it printed last is the reason."""
        self._process.kill()
        code = self._process.wait()
        self._log.seek(0)
        text = (self._log.read() or b"")[-2000:].decode(errors="replace").strip()
        how = "has ended" if self._child else "did not start"
        return RemixError(
            f"the process that decodes {how} (exit code {code}): {text or 'it said nothing'}",
            "mend what it says, or give the machine more memory",
        )


_kept: dict[object, Sandbox] = {}
_kept_lock = threading.Lock()


def sandbox_for(specs: Mapping[str, AnySpec], limits: Limits) -> Sandbox:
    """This process's sandbox: the same one for the same configuration; another configuration closes it."""
    key = (os.getpid(), tuple(specs.items()), limits)
    with _kept_lock:
        if key not in _kept:
            for sandbox in _kept.values():
                sandbox.close()
            _kept.clear()
            _kept[key] = Sandbox(specs, limits)
        return _kept[key]
