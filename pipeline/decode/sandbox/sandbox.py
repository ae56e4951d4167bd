"""Decoding in a separate process, so that a crash, hang or memory leak costs only one sample.

This is the parent's side. A first process, the zygote, imports the decoders, which takes seconds,
and forks the decode worker, which takes milliseconds. If the worker dies, the zygote reports its
exit status and forks another. Both processes exit with the parent, even if it is killed.
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
from collections.abc import Mapping, Sequence
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
# Threads that a library starts do not survive a fork, and would compete with the other workers.
_ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
Reply = tuple[dict[str, Any], dict[str, Array]]
"""Header and arrays of a reply."""


class Sandbox:
    """Runs `decode_sample` in a child process, which is started for the first sample.

    May be shared between threads but not between processes.

    Args:
        specs: spec of each modality.
        limits: limits per sample, including time and memory.
        tokenizers: the tokenizers that the specs name, as JSON.
        entry: "module:function" of the decoder.
    """

    def __init__(
        self,
        specs: Mapping[str, AnySpec],
        limits: Limits,
        tokenizers: Sequence[str] = (),
        *,
        entry: str = "pipeline.decode.media.sample:decode_sample",
    ) -> None:
        self._shapes = {name: shape_of(name, spec) for name, spec in specs.items()}
        self._limits = limits
        modalities = {name: spec.model_dump(mode="json") for name, spec in specs.items()}
        options = {"entry": entry, "modalities": modalities, "tokenizers": [*tokenizers]}
        self._config = json.dumps({**options, "limits": limits.model_dump(mode="json")}).encode()
        self._lock = threading.RLock()
        self._processes: _Processes | None = None

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def decode(self, members: Mapping[str, bytes]) -> dict[str, Array | None]:
        """Decode a sample as `decode_sample` does.

        Raises:
            SampleError: the sample cannot be decoded, or the decoder crashed or exceeded the time
                or memory limit.
            RemixError: the child process was killed from outside, or the decoder has a bug.
        """
        _, arrays = self._request("decode", members)
        return {name: arrays.get(name) for name in self._shapes}

    def probe(self, data: bytes, suffix: str) -> dict[str, list[Any]]:
        """Run `probe` in the child process. Raises SampleError or RemixError."""
        facts: dict[str, list[Any]] = self._request("probe", {suffix: data})[0]["facts"]
        return facts

    def close(self) -> None:
        """Stop the processes after the current sample; another sample would start them again."""
        with self._lock:
            if self._processes:
                self._processes.close()
                self._processes = None

    def _request(self, action: str, members: Mapping[str, bytes]) -> Reply:
        with self._lock:
            reply = self._exchange(action, members)
            if isinstance(reply, SampleError):
                # An earlier sample may have corrupted or filled the worker's memory, so a second
                # attempt in a fresh worker decides.
                reply = self._exchange(action, members)
        if isinstance(reply, SampleError):
            raise reply
        header = reply[0]
        if "reason" in header:
            raise SampleError(header["reason"], header["detail"])
        if "traceback" in header:
            raise RemixError(f"Bug in the decoder:\n{header['traceback']}")
        return reply

    def _exchange(self, action: str, members: Mapping[str, bytes]) -> Reply | SampleError:
        """Return the reply, or the rejection of the sample if the worker died.

        Raises RemixError if the sample did not cause that.
        """
        self._processes = self._processes or _Processes(self._config)
        try:
            return self._processes.exchange(action, members, self._shapes)
        except _DeathError as death:
            return _rejection(death.status, self._limits)
        except BaseException:
            # Unread bytes in the connection would be taken for the reply to the next request.
            self.close()
            raise


class _DeathError(Exception):
    """The decode worker has exited with this wait status."""

    def __init__(self, status: int) -> None:
        self.status = status


def _rejection(status: int, limits: Limits) -> SampleError:
    """Convert the wait status of a decode worker into the rejection of its sample.

    Raises RemixError if the sample did not cause the exit.
    """
    code = os.waitstatus_to_exitcode(status)
    if code == NO_MEMORY:
        return SampleError(
            "oversize",
            f"Decoding exceeded the memory limit (limits.memory: {limits.memory} bytes).",
        )
    if code >= 0:
        return SampleError("crash", f"The decoder exited with code {code}.")
    if -code == signal.SIGALRM:
        return SampleError(
            "timeout",
            f"Decoding exceeded the time limit (limits.timeout: {limits.timeout} seconds).",
        )
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    if -code in _CRASHES:
        return SampleError("crash", f"The decoder crashed with {name}.")
    raise RemixError(
        f"The decode process was killed from outside by {name}",
        "Give the machine more memory or run fewer tasks at a time.",
    )


class _Processes:
    """The zygote, the decode worker, and the connections to them."""

    def __init__(self, config: bytes) -> None:
        """Start the zygote. Raises RemixError."""
        self._worker: socket.socket | None = None
        self._log = io.FileIO(os.memfd_create("remix-decode-worker"), "r+")
        self._control, zygote_end = socket.socketpair()
        self._control.settimeout(_START_SECONDS)
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        module = "pipeline.decode.sandbox.decode_worker"
        try:
            with zygote_end:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-P",
                        "-m",
                        module,
                        str(zygote_end.fileno()),
                        str(os.getpid()),
                    ],
                    env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
                    stdin=subprocess.PIPE,
                    stdout=self._log,
                    stderr=self._log,
                    pass_fds=[zygote_end.fileno()],
                )
        except OSError as error:
            self._control.close()
            self._log.close()
            raise RemixError(
                f"The decode process did not start: {error}", "Check the Python installation."
            ) from error
        assert self._process.stdin
        # If the zygote exits before it has read the configuration, the first fork reports why.
        with contextlib.suppress(OSError), self._process.stdin as stdin:
            stdin.write(config)

    def close(self) -> None:
        """Stop both processes; a busy decode worker is killed."""
        if self._worker:
            self._worker.close()
        self._control.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def exchange(
        self,
        action: str,
        members: Mapping[str, bytes],
        shapes: Mapping[str, tuple[tuple[int, ...], str]],
    ) -> Reply:
        """Send a request, and read the reply and its arrays. Raises _DeathError or RemixError."""
        worker = self._worker or self._fork()[1]
        sizes = {suffix: len(data) for suffix, data in members.items()}
        try:
            send(worker, {"ask": action, "members": sizes}, members.values())
            with worker.makefile("rb") as file:
                header = receive(file)
                arrays = {name: np.empty(*shapes[name]) for name in header.get("arrays", ())}
                for array in arrays.values():
                    if file.readinto(array.reshape(-1).view(np.uint8).data) < array.nbytes:
                        raise EOFError
        except (EOFError, OSError):
            raise _DeathError(self._fork()[0]) from None
        return header, arrays

    def _fork(self) -> tuple[int, socket.socket]:
        """Fork a decode worker that writes its output to this process's standard error.

        Returns the wait status of the previous worker, if any, and the connection to the new one.
        Raises RemixError.
        """
        try:
            errors = os.dup(2)
        except OSError:
            errors = os.open(os.devnull, os.O_WRONLY)
        try:
            socket.send_fds(self._control, [b"F"], [errors])
            status, fds, _, _ = socket.recv_fds(self._control, STATUS.size, 1)
        except OSError as error:
            raise self._zygote_error() from error
        finally:
            os.close(errors)
        if not fds:
            raise self._zygote_error()
        if self._worker:
            self._worker.close()
        os.set_inheritable(fds[0], False)
        self._worker = socket.socket(fileno=fds[0])
        return STATUS.unpack(status)[0], self._worker

    def _zygote_error(self) -> RemixError:
        """Error for a zygote that has exited or did not start, with the end of its output."""
        self._process.kill()
        code = self._process.wait()
        self._log.seek(0)
        text = (self._log.read() or b"")[-2000:].decode(errors="replace").strip()
        event = "exited" if self._worker else "did not start"
        return RemixError(
            f"The decode process {event} (exit code {code}): {text or 'no output'}",
            "Fix the reported problem or give the machine more memory.",
        )


_current: dict[object, Sandbox] = {}
_current_lock = threading.Lock()


def sandbox_for(
    specs: Mapping[str, AnySpec], limits: Limits, tokenizers: Sequence[str] = ()
) -> Sandbox:
    """Return this process's sandbox; one for another configuration is closed first."""
    key = (os.getpid(), tuple(specs.items()), limits)
    with _current_lock:
        if key not in _current:
            for sandbox in _current.values():
                sandbox.close()
            _current.clear()
            _current[key] = Sandbox(specs, limits, tokenizers)
        return _current[key]
