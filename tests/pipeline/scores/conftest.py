"""The command line in this process, and a small feature set to be harmed."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.features.feature_set import FeatureSet
from remix.cli import app as command_line
from tests.support.stores import SHAPES, make_features


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs `remix ...` in this process and returns its exit code and errors."""

    def run(*args: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["remix", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        return int(ended.value.code or 0), " ".join(capsys.readouterr().err.split())

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    return make_features(
        tmp_path_factory.mktemp("made") / "made",
        {key: SHAPES[key] for key in ("sound", "touch")},
        num_rows=150,
        missing=0.2,
    )


@pytest.fixture
def features(made: FeatureSet, tmp_path: Path) -> Path:
    """A copy of a feature set in a store."""
    shutil.copytree(str(made.place.local), tmp_path / "features" / "made")
    return tmp_path / "features" / "made"
