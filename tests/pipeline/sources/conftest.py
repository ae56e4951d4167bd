"""A folder laid out as CREMA-D is, for each test anew."""

from pathlib import Path

import pytest

from tests.support.cremad_folder import clips, make


@pytest.fixture
def src(tmp_path: Path) -> Path:
    return make(tmp_path / "src", clips())
