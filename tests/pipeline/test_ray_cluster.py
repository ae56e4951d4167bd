"""Connecting to Ray, or failing to; each test uses a process of its own without a running Ray."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

CONNECT = """
import sys
import ray
from pipeline import ray_cluster
from pipeline.errors import InputError
ray_cluster.ANSWER_SECONDS = 2
try:
    ray_cluster.connect(sys.argv[1] or None, num_cpus=3)
    print(ray.cluster_resources()["CPU"])
except InputError as error:
    print(error)
"""


def connect(address: str = "", **environment: str) -> str:
    """Output of a process that connects: its number of CPUs, or the error."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", CONNECT, address]
    done = subprocess.run(
        command, env=env | environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_cluster_that_left_its_files_on_this_machine_is_not_joined() -> None:
    # Ray's sockets need a short path
    with TemporaryDirectory(prefix="rc", dir="/tmp", ignore_cleanup_errors=True) as folder:
        (Path(folder) / "ray").mkdir()
        (Path(folder) / "ray" / "ray_current_cluster").write_text("127.0.0.1:9")
        assert connect(RAY_TMPDIR=folder) == "3.0\n"


@pytest.mark.parametrize("source", ["argument", "environment"])
def test_a_cluster_that_does_not_answer_is_named_in_the_error(source: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        output = (
            connect(address) if source == "argument" else connect(RAY_ADDRESS=f"ray://{address}")
        )
    assert address in output and "RAY_ADDRESS" in output


@pytest.mark.parametrize("name", ["HOME", "RAY_TMPDIR"])
def test_an_unusable_folder_is_an_error_that_names_its_variable(name: str, tmp_path: Path) -> None:
    folder = "/proc/nobody" if name == "HOME" else str(tmp_path / ("long" * 25))
    assert name in connect(**{name: folder})
