"""Runs the service under uvicorn, in a thread or as `remix serve` in a process."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from service.app import create_app
from service.serve import Server
from service.settings import Settings


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(store: Any, **settings: Any) -> Iterator[str]:
    """Serve a store from a thread; yield the URL."""
    app = create_app(Settings(store=str(store), **settings))
    config = uvicorn.Config(app, "127.0.0.1", 0, access_log=False, log_config=None, lifespan="on")
    with running(Server(config, app.state.event_streams)) as url:
        yield url


@contextmanager
def running(server: uvicorn.Server) -> Iterator[str]:
    """Run a server in a thread; yield the URL."""
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the service did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the service did not stop"


@contextmanager
def serve_command(
    *options: str, log: Path, **environment: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run `remix serve`; yield its URL and the process. Logs go to the file `log`."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "remix"), "serve", "--port", str(port), *options]
    with (
        log.open("wb") as sink,
        subprocess.Popen(
            command, stdout=sink, stderr=sink, env={**os.environ, **environment}
        ) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(600):
                assert process.poll() is None, log.read_text()
                try:
                    httpx.get(f"{url}/healthz")
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            yield url, process
        finally:
            process.terminate()
            process.wait(20)


def log_lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]
