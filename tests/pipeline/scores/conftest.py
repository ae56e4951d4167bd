"""A small feature set that tests damage."""

import shutil
from pathlib import Path

import pytest

from pipeline.features.feature_set import FeatureSet
from tests.support.stores import SHAPES, make_features


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
    shutil.copytree(str(made.path.local), tmp_path / "features" / "made")
    return tmp_path / "features" / "made"
