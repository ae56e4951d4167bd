"""`remix serve` as a process: logs, shutdown, invalid settings, and imports."""

import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.serving import log_lines, serve_command
from tests.support.stores import Command


def test_the_command_logs_json_and_stops_on_sigterm(trained_store: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serve_command("--store", str(trained_store), log=log) as (url, process):
        assert (
            httpx.get(f"{url}/v1/runs", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"]
            == "mine-1"
        )
        forged = httpx.get(
            f"{url}/v1/runs/x%0a%C2%85%E2%80%A8y?z=%22", headers={"X-Request-ID": 'a"b'}
        ).headers["x-request-id"]
        assert forged != 'a"b'
        process.terminate()
        assert process.wait(20) == 0
    lines = log_lines(log)
    assert any(
        "127.0.0.1" in line["message"] and "REMIX_TOKEN" in line["message"] for line in lines
    )
    requests = [line for line in lines if line["logger"] == "remix.access"]
    mine = next(line for line in requests if line["request_id"] == "mine-1")
    assert (mine["method"], mine["path"], mine["route"], mine["status"]) == (
        "GET",
        "/v1/runs",
        "/v1/runs",
        200,
    )
    assert mine["bytes"] > 0
    assert mine["seconds"] > 0
    assert next(line for line in requests if line["request_id"] == forged)["status"] == 422


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        (["--store", "/nowhere/at/all"], {}, "--store"),
        (["--store", "s4://x"], {}, "s4://x"),
        (["--port", "99999"], {}, "99999"),
        ([], {"REMIX_PORT": "x"}, "REMIX_PORT"),
        ([], {"REMIX_CACHE_SIZE": "much"}, "REMIX_CACHE_SIZE"),
        (["--store", ""], {}, "REMIX_STORE"),
        ([], {"REMIX_MEDIA": "1"}, "REMIX_MEDIA=1 needs REMIX_SHARDS"),
        ([], {"REMIX_TOKEN": "   "}, "REMIX_TOKEN"),
        ([], {"REMIX_TOKEN": "s\N{LATIN SMALL LETTER E WITH ACUTE}cret"}, "REMIX_TOKEN"),
        ([], {"REMIX_TOKEN": "se cret"}, "REMIX_TOKEN"),
    ],
)
def test_invalid_settings_are_rejected_before_the_service_listens(
    options: list[str],
    environment: dict[str, str],
    message: str,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, _, err = command("serve", *options)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert "cret" not in err


def test_a_port_in_use_is_rejected(trained_store: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        options = ["--store", str(trained_store), "--port", str(port)]
        command = [str(Path(sys.executable).parent / "remix"), "serve", *options]
        process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert process.returncode == 2
    assert f"127.0.0.1:{port}" in process.stderr
    assert "Traceback" not in process.stderr


def test_the_service_imports_neither_torch_nor_ray() -> None:
    code = "import sys, service.serve, service.report; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"torch", "ray", "torchaudio", "torchvision", "av", "trainer"} & set(loaded)
