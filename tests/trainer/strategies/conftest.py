"""A store with features for runs of all strategies."""

from pathlib import Path

import pytest

from tests.support.stores import make_features


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    make_features(store / "features" / "made", missing=0.2, num_rows=150)
    return store
