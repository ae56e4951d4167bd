"""Runs `remix` commands in their own sessions, alone or in a Ray cluster, and kills them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

ROOT = Path(__file__).resolve().parent.parent

ENVIRONMENT = {
    **{
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "REMIX_"))
    },
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}


class Command:
    """A context manager that runs a command in its own session and kills it at the end.

    The command joins `cluster`, or starts its own Ray.
    """

    def __init__(
        self, arguments: list[str], log: Path, cluster: "ComposeCluster | None" = None, **more: str
    ) -> None:
        self.log, self._cluster = log, cluster
        # a short path: Ray creates sockets in it, whose paths are limited to 107 bytes
        self.ray = Path(tempfile.mkdtemp(prefix="rk"))
        joined = {"RAY_ADDRESS": cluster.address, **cluster.secrets} if cluster else {}
        with log.open("wb") as sink:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                env={**ENVIRONMENT, "RAY_TMPDIR": str(self.ray), **joined, **more},
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill(and_others=True)
        shutil.rmtree(self.ray, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The process id, which is also the session id."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether the process is still running."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        return self._process.wait(300)

    def kill(self, *, and_others: bool) -> None:
        """Kill the command; with `and_others` also its child processes and its Ray workers."""
        self._process.kill()
        self._process.wait()
        if and_others and self._cluster:
            end(self._cluster.workers())
        while and_others and (remaining := self.session()):
            end(remaining)
            time.sleep(0.01)

    def session(self) -> list[int]:
        """Ids of the running processes of the session."""
        pids = []
        for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
            with suppress(OSError):
                if (
                    os.getsid(pid) == self.pid
                    and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
                ):
                    pids.append(pid)
        return pids


class ComposeCluster(Command):
    """A single-node Ray cluster that outlives the commands that join it."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.secrets = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token_hex(32)}
        start = [
            "start",
            "--head",
            "--block",
            "--num-cpus",
            "2",
            "--include-dashboard",
            "false",
            "--disable-usage-stats",
            "--node-ip-address",
            "127.0.0.1",
        ]
        super().__init__(
            ["-m", "ray.scripts.scripts", *start, "--port", self.address.partition(":")[2]],
            log,
            **self.secrets,
        )

    def ready(self) -> "ComposeCluster":
        """Wait until the cluster runs; return self."""
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in self.log.read_text():
            assert self.runs and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
        return self

    def workers(self) -> list[int]:
        """Ids of the Ray worker processes."""
        titles = {pid: Path(f"/proc/{pid}/cmdline") for pid in self.session()}
        return [
            pid
            for pid, path in titles.items()
            if path.exists()
            and (title := path.read_bytes()).startswith(b"ray::")
            and b"Agent" not in title
        ]


def end(pids: list[int]) -> None:
    """Send SIGKILL to the processes that still exist."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
