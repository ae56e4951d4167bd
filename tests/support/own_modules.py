"""Modules as a user writes them, outside the project, for tests of import paths."""

import importlib
import sys
from pathlib import Path

import pytest

MODELS = (Path(__file__).parent / "own_models.py").read_text()
STEPS = (Path(__file__).parent / "own_steps.py").read_text()


def write_module(
    patch: pytest.MonkeyPatch, folder: Path, text: str, name: str = "own_models"
) -> None:
    """Write a module and make it importable, instead of one that is imported already."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(text)
    patch.syspath_prepend(folder)
    patch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()
