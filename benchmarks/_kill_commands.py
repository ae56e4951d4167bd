"""Commands of `remix` under way, each in a session of its own, alone or in a cluster, and the SIGKILL to them."""

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
    """A command under way, in a session of its own, which ends with the block; its Ray is `cluster`, or one of its own."""

    def __init__(
        self, arguments: list[str], log: Path, cluster: "ComposeCluster | None" = None, **more: str
    ) -> None:
        self.log, self._cluster = log, cluster
        # Ray's sockets lie there, whose paths must be short; nothing of another Ray does
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
        """Its number, and that of its session."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Its exit code."""
        return self._process.wait(300)

    def kill(self, *, and_others: bool) -> None:
        """SIGKILL to the command, and to what it started and what works for it in its cluster, until none of it is left."""
        self._process.kill()
        self._process.wait()
        if and_others and self._cluster:
            end(self._cluster.workers())
        while and_others and (left := self.session()):
            end(left)
            time.sleep(0.01)

    def session(self) -> list[int]:
        """The processes that it started and they, and itself, but for what has ended."""
        found = []
        for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
            with suppress(OSError):
                if (
                    os.getsid(pid) == self.pid
                    and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
                ):
                    found.append(pid)
        return found


class ComposeCluster(Command):
    """A Ray of one machine that outlives the commands that join it."""

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
        """Itself, once it runs."""
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in self.log.read_text():
            assert self.runs and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
        return self

    def workers(self) -> list[int]:
        """Its processes that do what commands ask for."""
        titles = {pid: Path(f"/proc/{pid}/cmdline") for pid in self.session()}
        return [
            pid
            for pid, path in titles.items()
            if path.exists()
            and (title := path.read_bytes()).startswith(b"ray::")
            and b"Agent" not in title
        ]


def end(pids: list[int]) -> None:
    """SIGKILL to each that is there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
