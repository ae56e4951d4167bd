"""A new folder in the layout of CREMA-D for each test."""

from pathlib import Path

import pytest

from tests.support.cremad_folder import clips, make


@pytest.fixture
def src(tmp_path: Path) -> Path:
    return make(tmp_path / "src", clips())
