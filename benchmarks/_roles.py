"""Where the processor time of a job on a local Ray goes, by the role of its processes."""

import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROLES = {
    "ray::": "workers",
    "RayTrainWorker": "workers",
    "decode_worker": "sandbox",
    "raylet": "raylet",
    "gcs_server": "controller",
}
"""Roles by a part of the command line; any other child of this process is an agent of Ray."""


def role_of(process: psutil.Process) -> str:
    """The role of this process, the driver, or of one of its children."""
    if process.pid == psutil.Process().pid:
        return "driver"
    command = " ".join(process.cmdline())
    return next((role for part, role in ROLES.items() if part in command), "agents")


@dataclass
class Profile:
    """Processor time of this process and its children since it was made.

    A process that waits for a core is ready to run: its `waited` seconds are what it would gain
    from one more core, or from a higher priority.
    """

    start: float = field(default_factory=time.perf_counter)
    before: dict[tuple[int, float], tuple[str, int, float, float]] = field(
        default_factory=lambda: _processes()
    )

    def report(self) -> dict[str, object]:
        """Seconds, and by role: seconds on a core, seconds waited for one, and niceness."""
        seconds = time.perf_counter() - self.start
        ran, waited, niceness = Counter[str](), Counter[str](), dict[str, int]()
        for key, (role, nice, now_ran, now_waited) in _processes().items():
            _, _, before_ran, before_waited = self.before.get(key, (role, nice, 0.0, 0.0))
            ran[role] += now_ran - before_ran
            waited[role] += now_waited - before_waited
            niceness[role] = max(nice, niceness.get(role, nice))
        roles = {
            role: {"ran": round(ran[role], 2), "waited": round(waited[role], 2), "nice": nice}
            for role, nice in niceness.items()
        }
        return {"seconds": round(seconds, 2), "roles": roles}


def _processes() -> dict[tuple[int, float], tuple[str, int, float, float]]:
    """Role, niceness, seconds on a core and seconds waited for one, of each process."""
    found = {}
    this = psutil.Process()
    for process in [this, *this.children(recursive=True)]:
        with suppress(psutil.Error, OSError):
            times = [
                [int(value) / 1e9 for value in (task / "schedstat").read_text().split()[:2]]
                for task in Path(f"/proc/{process.pid}/task").iterdir()
            ]
            ran, waited = (sum(column) for column in zip(*times, strict=True))
            key = (process.pid, process.create_time())
            found[key] = (role_of(process), int(process.nice()), ran, waited)
    return found
