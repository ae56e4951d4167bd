"""Options that commands share: version, completion, verbosity."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import remix
from pipeline.plans.plan import BatchPlan
from tests.support.stores import Command, make_features


def test_the_version_is_printed(command: Command) -> None:
    assert command("--version") == (0, f"remix {remix.__version__}\n", "")


@pytest.mark.parametrize("name", ["train", "plan", "score", "verify", "generate"])
def test_the_help_of_a_command_is_complete_in_a_narrow_terminal(name: str) -> None:
    arguments = [sys.executable, "-m", "remix", name, "--help"]
    environment = os.environ | {"COLUMNS": "40"}
    shown = subprocess.run(arguments, env=environment, capture_output=True, text=True).stdout
    assert "--verbose" in shown
    assert "…" not in shown


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_commands_and_values_are_completed(shell: str) -> None:
    script = "import sys; sys.argv = ['remix']; from remix.cli.app import main; main()"
    for typed, expected in (("remix ver", "verify"), ("remix compare c.yaml --budget f", "flops")):
        words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
        words["_TYPER_COMPLETE_ARGS"] = typed
        environment = os.environ | words | {"_REMIX_COMPLETE": f"complete_{shell}"}
        arguments = [sys.executable, "-c", script]
        ended = subprocess.run(arguments, env=environment, capture_output=True, text=True)
        assert expected in ended.stdout, ended.stderr


def test_verbose_shows_where_an_error_was_raised_and_quiet_only_the_error(tmp_path: Path) -> None:
    shown = {}
    for option in ("--verbose", "--quiet", "-v", "-q"):
        arguments = [sys.executable, "-m", "remix", "stats", str(tmp_path / "none.arrow"), option]
        ended = subprocess.run(arguments, capture_output=True, text=True)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert "none.arrow" in ended.stderr
        shown[option] = "Traceback" in ended.stderr
    assert shown == {"--verbose": True, "--quiet": False, "-v": True, "-q": False}


def run_file(tmp_path: Path) -> Path:
    make_features(tmp_path / "store" / "features" / "made", num_rows=60)
    train = {"epochs": 3, "warmup_epochs": 1}
    fields = {"name": "filed", "features": "made", "store": "/proc/nowhere", "train": train}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def test_set_and_store_replace_values_of_the_file(tmp_path: Path, command: Command) -> None:
    file, store = run_file(tmp_path), tmp_path / "store"
    values = ("--set", "train.epochs=1", "--set", "plan={order: mixed}", "--set", "name=other")
    code, _, err = command("train", file, *values, "--store", store)
    assert code == 0, err
    config = json.loads((store / "runs" / "other" / "run.json").read_text())["config"]
    assert config["store"] == str(store)
    assert (config["train"]["epochs"], config["train"]["warmup_epochs"]) == (1, 1)
    assert config["plan"]["order"] == "mixed"


@pytest.mark.parametrize("name", ["train", "compare", "submit"])
@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("train.epoch=1", "train.epoch"),
        ("train.epochs=x", "train.epochs"),
        ("a=[", "a"),
        ("b", "b"),
    ],
)
def test_an_invalid_value_is_named(
    tmp_path: Path, command: Command, name: str, value: str, word: str
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("{name: filed, features: made}")
    code, _, err = command(name, file, "--set", value, "--store", tmp_path / "store")
    assert (code, word in err) == (2, True), err
    assert not (tmp_path / "store").exists()


def test_names_are_looked_up_in_the_store(
    tmp_path: Path, trained_store: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def path_of(name: str, *options: object) -> str:
        code, out, err = command("inspect", name, *options, "--json")
        assert code == 0, err
        return str(json.loads(out)["path"])

    run, name = trained_store / "runs" / "demo-remix-seed0", "demo-remix-seed0"
    store = ("--store", trained_store)
    assert path_of(name, *store) == path_of(str(run)) == str(run)
    assert path_of("made", *store) == str(trained_store / "features" / "made")
    assert command("verify", name, *store)[0] == 0
    assert command("report", name, "--out", tmp_path / "run.html", *store)[0] == 0
    checkpoint = ("--checkpoint", run / "checkpoints" / "none.pt", "--out", tmp_path / "s.arrow")
    assert "none.pt" in command("score", "made", *checkpoint, *store)[2]
    code, _, err = command("verify", "nobody", *store)
    assert (code, str(trained_store / "runs" / "nobody") in err) == (2, True)

    monkeypatch.setenv("REMIX_STORE", str(trained_store))
    monkeypatch.chdir(tmp_path)
    assert path_of(name) == str(run)
    (tmp_path / name).symlink_to(trained_store / "features" / "made")
    assert path_of(name) == str(tmp_path / name)
    assert path_of(name, *store) == str(run)


def test_a_plan_replaces_another_file_by_force_alone(
    tmp_path: Path, trained_store: Path, command: Command
) -> None:
    scores, *_ = (trained_store / "runs" / "demo-remix-seed0" / "scores").glob("epoch-*.arrow")
    out = ("--out", tmp_path / "plan.arrow")
    assert command("plan", scores, *out)[0] == 0
    first = (tmp_path / "plan.arrow").read_bytes()
    assert command("plan", scores, *out)[0] == 0  # the same plan
    code, _, err = command("plan", scores, *out, "--seed", 1)
    assert (code, "plan.arrow" in err) == (2, True)
    assert (tmp_path / "plan.arrow").read_bytes() == first
    assert command("plan", scores, *out, "--seed", 1, "--force")[0] == 0
    assert (tmp_path / "plan.arrow").read_bytes() != first

    (tmp_path / "notes.txt").write_text("mine")
    assert command("plan", scores, "--out", tmp_path / "notes.txt")[0] == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"

    arguments = [sys.executable, "-m", "remix", "plan", str(scores), "--out", "-", "--json"]
    ended = subprocess.run(arguments, capture_output=True)
    assert ended.stdout == first
    opened = BatchPlan.open(tmp_path / "plan.arrow")
    assert json.loads(ended.stderr)["steps"] == len(opened)


def test_doctor_describes_the_machine_on_one_screen(
    trained_store: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    code, out, _ = command("doctor", "--store", trained_store)
    assert (code, len(out.splitlines()) <= 24) == (0, True)
    result = json.loads(command("doctor", "--store", trained_store, "--json")[1])
    runs = len([*(trained_store / "runs").iterdir()])
    assert (result["ok"], f"{runs} runs, 1 feature sets" in result["store"]) == (True, True)
    assert {"remix", "packages", "cuda", "ray", "shared memory", "ports", "disk"} <= result.keys()


def test_doctor_reports_what_cannot_be_reached(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:  # bound, but nobody listens
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", f"ray://{address}")
        code, out, _ = command("doctor", "--store", tmp_path, "--json")
        assert (code, address in json.loads(out)["ray"]) == (1, True)
        monkeypatch.delenv("RAY_ADDRESS")
        bucket = f"s3://KEY:hush@bucket/store?endpoint_override={address}&scheme=http"
        code, out, _ = command("doctor", "--store", bucket, "--json")
    assert (code, "hush" in out, json.loads(out)["ok"]) == (1, False, False)
