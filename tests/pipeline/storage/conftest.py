"""A small feature set, and a link to it for each test."""

from pathlib import Path

import pytest

from pipeline.features.feature_set import FeatureSet
from pipeline.storage.store_path import StorePath
from tests.support.stores import make_features


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    """12 parts of 64 rows each."""
    return make_features(tmp_path_factory.mktemp("made") / "features", num_rows=768, num_parts=12)


@pytest.fixture
def features(made: FeatureSet, tmp_path: Path) -> FeatureSet:
    (tmp_path / "features").symlink_to(str(made.path.local))
    return FeatureSet(StorePath.at(tmp_path / "features"), made.manifest)
