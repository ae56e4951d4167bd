"""Jobs of a Ray cluster: submission, tokens, and jobs that are followed, fail or are stopped."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import yaml

from pipeline.errors import ConfigError, InputError
from remix.cli import app as command_line
from tests.support.serving import free_port
from tests.support.stores import make_features, run_config
from trainer.cluster.jobs import Cluster
from trainer.config import RunConfig
from trainer.launch import launch

TOKEN = "0123456789abcdef0123456789abcdef"
Command = Callable[..., tuple[int, str, str]]
LOCAL = "http://127.0.0.1:8265"
WORKERS = {"resources": {"workers": 1}}


def eventually(what: str, seen: Callable[[], bool], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, f"{what}: not seen in {seconds} s"
        time.sleep(0.2)


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without Ray's variables."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "REMIX_"))
    }
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        **changes,
    }


@pytest.fixture
def command(
    head: "Head", monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run `remix ...` in this process, with the cluster's address and token.

    Returns exit code, output and errors.
    """

    def run(*args: object) -> tuple[int, str, str]:
        for name in ("RAY_AUTH_TOKEN", "RAY_API_SERVER_ADDRESS"):
            monkeypatch.setenv(name, head.env[name])
        monkeypatch.setattr(sys, "argv", ["remix", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def start(*args: object, env: dict[str, str], cwd: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "remix", *map(str, args)],
        env=env,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def status(store: Path, name: str) -> str | None:
    path = store / "runs" / name / "run.json"
    return str(json.loads(path.read_text())["status"]) if path.exists() else None


def write(config: RunConfig, folder: Path) -> Path:
    path = folder / f"{config.name}.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


@dataclass
class Wire:
    """Proxy to a port; cuts each connection once after `word` has passed over one."""

    to: int
    word: bytes
    port: int = field(default_factory=free_port)
    is_cut: bool = False
    sockets: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client = self.listening.accept()[0]
            server = socket.create_connection(("127.0.0.1", self.to))
            self.sockets += [client, server]
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._hand_on, args=pair, daemon=True).start()

    def _hand_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
                if self.word in data and source.getpeername()[1] == self.to and not self.is_cut:
                    self.is_cut = True
                    for each in self.sockets:
                        each.shutdown(socket.SHUT_RDWR)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return


@dataclass(frozen=True)
class Head:
    port: int
    store: Path
    env: dict[str, str]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A one-node cluster that requires a token, separate from this process's cluster.

    Its sockets need a short path.
    """
    store, home, port = (
        tmp_path_factory.mktemp("jobs"),
        tmp_path_factory.mktemp("home"),
        free_port(),
    )
    make_features(store / "features" / "made", num_rows=60)
    env = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN, HOME=str(home))
    ports = {
        "port": free_port(),
        "dashboard-port": port,
        "ray-client-server-port": free_port(),
        "dashboard-agent-listen-port": free_port(),
    }
    ports |= {"min-worker-port": 0, "max-worker-port": 0}
    with (
        tempfile.TemporaryDirectory(prefix="rj", dir="/tmp", ignore_cleanup_errors=True) as folder,
        (home / "log").open("w") as log,
    ):
        options = [
            *(f"--{name}={value}" for name, value in ports.items()),
            f"--temp-dir={folder}",
            "--num-cpus=2",
            "--object-store-memory=100000000",
        ]
        command = ["ray", "start", "--head", *options, "--disable-usage-stats", "--block"]
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            asked = Request(
                f"http://127.0.0.1:{port}/api/version", headers={"Authorization": f"Bearer {TOKEN}"}
            )
            eventually((home / "log").read_text() or "the head", lambda: answers(asked))
            yield Head(
                port,
                store,
                environment(
                    RAY_AUTH_TOKEN=TOKEN,
                    HOME=str(home),
                    RAY_API_SERVER_ADDRESS=f"http://127.0.0.1:{port}",
                ),
            )
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # its workers end with it
            process.wait()


def answers(request: Request) -> bool:
    try:
        return bool(urlopen(request, timeout=5).status == 200)
    except OSError:
        return False


def test_a_job_is_followed_to_its_result_over_a_connection_that_breaks(
    head: Head, command: Command, tmp_path: Path
) -> None:
    small = {"train": {"epochs": 2, "warmup_epochs": 1, "batch_size": 16}}
    run = launch(run_config(head.store, **small))  # the job has only its result to report
    config = write(run_config(head.store, **WORKERS, **small), tmp_path)
    wire = Wire(to=head.port, word=b"Running entrypoint")
    code, out, err = command(
        "submit", config, "--address", f"127.0.0.1:{wire.port}", "--follow", "--json"
    )
    assert code == 0, err
    assert wire.is_cut
    result = json.loads(out)
    assert (
        result["status"] == "SUCCEEDED"
        and result["exit_code"] == 0
        and result["test_accuracy"] == run.metadata["result"]["test_accuracy"]
    )
    assert err.count("Running entrypoint") == 1
    assert '{"' not in err and TOKEN not in out + err


def test_whoever_follows_a_job_that_fails_ends_as_the_job_did(
    head: Head, command: Command, tmp_path: Path
) -> None:
    config = write(run_config(head.store, name="lost", features="nowhere", **WORKERS), tmp_path)
    code, out, err = command("submit", config, "--follow")
    assert code == 2 and "FAILED" in out and re.search(r"\b2\b", out)
    assert "features/nowhere" in err


@pytest.mark.slow
def test_a_job_outlives_its_follower_and_ends_in_order_when_it_is_stopped(
    head: Head, command: Command, tmp_path: Path
) -> None:
    config = write(run_config(head.store, name="long", train={"epochs": 5000}, **WORKERS), tmp_path)
    follower = start("submit", config, "--follow", env=head.env)
    assert follower.stderr
    assert any("epochs: " in line for line in follower.stderr)
    code, _, err = command("submit", config)
    assert code == 2
    stop = re.search(r"ray job stop [^`]*(remix-long-\w+)", err)
    assert stop
    follower.send_signal(signal.SIGINT)
    _, err = follower.communicate(timeout=30)
    assert follower.returncode == 130 and stop[0] in err
    assert status(head.store, "long") == "running"

    asked = subprocess.run(stop[0].split(), env={**head.env, "RAY_AUTH_MODE": "token"})
    assert asked.returncode == 0
    assert status(head.store, "long") == "interrupted"


def test_without_a_token_nobody_gets_in(head: Head, tmp_path: Path) -> None:
    env = {**head.env, "RAY_AUTH_TOKEN": "", "HOME": str(tmp_path)}
    process = start("submit", write(run_config(head.store, **WORKERS), tmp_path), env=env)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 2 and out == "" and "Traceback" not in err
    assert f"http://127.0.0.1:{head.port}" in err and "RAY_AUTH_TOKEN" in err


def test_a_token_is_sought_where_ray_seeks_it_and_never_shown(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = head.env["RAY_API_SERVER_ADDRESS"]
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", address)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("stale\n")
    with pytest.raises(InputError, match=rf"(?s)(?=.*{address})(?=.*RAY_AUTH_TOKEN)") as error:
        Cluster()
    assert "stale" not in str(error.value)
    (tmp_path / ".ray" / "auth_token").write_text(f"{TOKEN}\n")
    Cluster()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match="RAY_AUTH_TOKEN_PATH"):
        Cluster()
    (tmp_path / "stale").write_text("stale")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "stale"))
    with pytest.raises(InputError):
        Cluster()
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    Cluster()


def test_an_unreachable_cluster_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    with pytest.raises(InputError, match=rf"(?s)(?=.*{address})(?=.*--address)") as error:
        Cluster(address)
    assert error.value.exit_code == 2


def test_an_invalid_configuration_is_refused_before_submission(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text("name: run\nfeatures: made\nworkers: 2\n")
    code, _, err = command("submit", tmp_path / "run.yaml", "--address", "http://127.0.0.1:1")
    assert code == 2 and re.search(r"(?<![\w.])workers\b", err) and "run.yaml" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_training_reads_its_config_from_standard_input_and_leaves_in_order_on_a_signal(
    tmp_path: Path, number: int
) -> None:
    make_features(tmp_path / "features" / "made")
    config = run_config(tmp_path, train={"epochs": 5000})
    command = [sys.executable, "-m", "remix", "train", "-"]
    process = subprocess.Popen(
        command,
        env=environment(REMIX_PROGRESS="json"),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stderr
    process.stdin.write(json.dumps(config.model_dump(mode="json")))
    process.stdin.close()
    report = json.loads(process.stderr.readline())["progress"]
    assert report["title"] == "run" and report["total"] == 5000
    process.send_signal(number)
    last = process.stderr.read().splitlines()[-1]
    assert process.wait(60) == 128 + number
    facts = json.loads((tmp_path / "runs" / "run" / "run.json").read_text())
    assert facts["status"] == "interrupted" and "error" not in facts
    assert "--resume" in last and "'run'" in last
