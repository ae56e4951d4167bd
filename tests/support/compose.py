"""A cluster of docker-compose.yml on a Docker Engine, with its own project name and ports."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.serving import free_port

ROOT = Path(__file__).parents[2]
WORKERS = 2
SAME = """
import sys, torch
paths = [f"/store/runs/{name}/checkpoints/last.pt" for name in sys.argv[1:]]
one, two = (torch.load(path, weights_only=True)["model"] for path in paths)
assert one.keys() == two.keys(), "the weights differ in name"
assert all(torch.equal(one[key], two[key]) for key in one), "the weights differ"
"""


def no_engine() -> str | None:
    """Reason why no Docker Engine with Compose is available, or None."""
    command = ["docker", "compose", "ls"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"docker does not answer ({error})"
    return found.stderr.strip() or "docker compose does not answer" if found.returncode else None


class Cluster:
    """Commands that a user runs: the repository's compose files and this machine's `remix`."""

    def __init__(self, project: str, files: Sequence[Path] = (), **settings: str) -> None:
        ports = {"REMIX_PORT": str(free_port()), "REMIX_DASHBOARD_PORT": str(free_port())}
        self.service, self.dashboard = (f"http://127.0.0.1:{port}" for port in ports.values())
        compose = {
            "COMPOSE_PROJECT_NAME": project,
            "COMPOSE_FILE": ":".join(map(str, [ROOT / "docker-compose.yml", *files])),
        }
        self._environment = {
            **os.environ,
            **ports,
            **compose,
            **settings,
            "RAY_API_SERVER_ADDRESS": self.dashboard,
        }
        # without this machine's token: it comes from the cluster
        for name in [
            "RAY_AUTH_TOKEN",
            "RAY_AUTH_TOKEN_PATH",
            "RAY_AUTH_MODE",
            "RAY_ADDRESS",
            "REMIX_TOKEN",
        ]:
            self._environment.pop(name, None)

    def up(self, workers: int = WORKERS) -> None:
        self.compose("up", "-d", "--build", "--scale", f"worker={workers}")
        due = {"head": 1, "service": 1, "worker": workers}
        due = {service: ["healthy"] * num for service, num in due.items()}
        self.wait(lambda: self.health().items() >= due.items(), 120)
        self._environment["RAY_AUTH_TOKEN"] = self.run("head", "cat", "/auth/token").strip()

    def down(self) -> None:
        self.compose("down", "-v", "--timeout", "5")

    def compose(self, *arguments: str, check: bool = True) -> str:
        found = subprocess.run(
            ["docker", "compose", *arguments],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=1800,
        )
        assert found.returncode == 0 or not check, (
            f"docker compose {' '.join(arguments)}: {found.stdout[-2000:]}{found.stderr[-4000:]}"
        )
        return found.stdout

    def containers(self) -> list[dict[str, Any]]:
        lines = self.compose("ps", "--all", "--format", "json").splitlines()
        return [json.loads(line) for line in lines]

    def health(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for container in self.containers():
            found.setdefault(container["Service"], []).append(container["Health"])
        return found

    def run(self, service: str, *command: str, check: bool = True, index: int = 1) -> str:
        """Output of a command in a container."""
        return self.compose("exec", "-T", "--index", str(index), service, *command, check=check)

    def shell(self, service: str, script: str) -> str:
        return self.run(service, "sh", "-c", script)

    def json(self, *command: str) -> Any:
        """JSON that a command in the head's container prints."""
        return json.loads(self.run("head", *command))

    def names(self, folder: str) -> list[str]:
        """Visible files in a folder of the store; [] if it does not exist."""
        return self.shell("head", f"ls /store/{folder} 2>/dev/null || true").split()

    def start(self, config: dict[str, Any], folder: Path) -> "subprocess.Popen[str]":
        """A running `remix submit --follow --json`."""
        path = folder / f"{config['name']}.yaml"
        path.write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "remix", "submit", str(path), "--follow", "--json"]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env=self._environment, **pipes)

    def submit(self, config: dict[str, Any], folder: Path) -> tuple[int, str]:
        """Exit code and log of a job that is followed to its end."""
        return ended(self.start(config, folder))

    def epochs(self, run: str) -> int:
        """Number of completed epochs of a run, from the service."""
        try:
            answer = httpx.get(f"{self.service}/v1/runs/{run}/epochs")
        except httpx.TransportError:
            return 0
        return len(answer.json()["items"]) if answer.status_code == 200 else 0

    def wait(self, seen: Callable[[], Any], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not seen():
            assert time.monotonic() < deadline, (
                f"not seen within {seconds} s; {self.compose('ps', '--all')}\n"
                f"{self.compose('logs', '--tail', '30')}"
            )
            time.sleep(0.2)

    def kill(self, service: str, index: int = 1, when: str = "true") -> None:
        """Kill a container's processes when a shell test in it succeeds; Docker restarts it."""
        script = f"until {when}; do sleep 0.1; done 2>/dev/null; kill -9 -1"
        self.run(service, "timeout", "180", "sh", "-c", script, check=False, index=index)

    def check_same(self, run: str, reference: str, *, features: bool = False) -> None:
        """Assert that a run passes `remix verify` and equals the reference bit for bit.

        `features`: feature set of the run, if it is not the reference's.
        """
        self.verify(f"/store/runs/{run}")
        # plans and scores contain the name of the features
        for kind in () if features else ("plans", "scores"):
            script = "cd /store/runs/{}/{} && sha256sum epoch-????.arrow"
            sums = [self.shell("head", script.format(name, kind)) for name in (run, reference)]
            assert sums[0] == sums[1]
            assert "epoch-" in sums[0]
        self.run("head", "python3", "-c", SAME, run, reference)
        if features:
            first, second = (
                self.json("cat", f"/store/features/{name}/manifest.json")["fingerprint"]
                for name in (run, reference)
            )
            assert first == second

    def verify(self, path: str, *options: str) -> None:
        found = self.json("remix", "verify", path, "--json", *options)
        assert (found["ok"], found["status"]) == (True, "finished"), found


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code and output of a finished process."""
    out, log = process.communicate(timeout=900)
    return process.returncode, out + log
