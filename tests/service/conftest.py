"""Fixtures: a copy of the trained store, and a client of a service that serves it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pipeline.storage.store_path import StorePath
from tests.support.serving import serving
from trainer.run_directory import Run


@pytest.fixture
def store(trained_store: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "store"
    shutil.copytree(trained_store, copy)
    return copy


@pytest.fixture(scope="module")
def client(trained_store: Path) -> Iterator[httpx.Client]:
    with serving(trained_store) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture(scope="module")
def run(trained_store: Path) -> Run:
    return Run.open(StorePath.at(trained_store / "runs" / "demo-remix-seed0"))
