"""Options that commands share: version, completion, verbosity."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import remix
from tests.support.stores import Command


def test_the_version_is_printed(command: Command) -> None:
    assert command("--version") == (0, f"remix {remix.__version__}\n", "")


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
