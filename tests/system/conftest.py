"""Fixtures shared by the tests of this folder: shards, features, stores, and a browser page."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from playwright.sync_api import Browser, sync_playwright

from pipeline.features.feature_set import FeatureSet
from pipeline.storage.store_path import StorePath
from service.report import write_report
from tests.support.faults import (
    DECODE,
    NUM_SHARDS,
    Decoded,
    Start,
    decode_into,
    environment,
    files,
)
from tests.support.media_files import encode_clip, encode_npy, facts, tone, write_shard
from tests.support.pages import CHROMIUM, HOSTILE, copy_run, outside, reject, replan
from tests.support.serving import serving
from tests.support.stores import make_features


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards that take a second each, but for the first."""
    folder, clip = (
        tmp_path_factory.mktemp("shards"),
        encode_clip(20, sound=tone(440, 3), size=(320, 240)),
    )
    for shard in range(NUM_SHARDS):
        numbers = range(shard * 100, shard * 100 + (40 if shard else 4))
        members = {
            f"{n:04d}": {
                "json": facts(n % 3, ("train", "train", "validation", "test")[n % 4]),
                "mp4": clip,
                "npy": encode_npy(np.full(3, n)),
            }
            for n in numbers
        }
        write_shard(folder / f"part-{shard}.tar", members)
    (folder / "decode.yaml").write_text(
        yaml.safe_dump(DECODE.model_dump(mode="json"), sort_keys=False)
    )
    return folder


@pytest.fixture(scope="session")
def decoded(shards: Path, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Decoded:
    out = tmp_path_factory.mktemp("decoded") / "out"
    fingerprint = decode_into(out, shards).fingerprint
    return Decoded(
        fingerprint, files(out), sum(path.stat().st_size for path in out.rglob("*.arrow"))
    )


@pytest.fixture(scope="module")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    make_features(store / "features" / "made", missing=0.2, num_rows=240)
    return store


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # not session-scoped: Playwright's running loop forbids asyncio.run() in this thread
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def page_store(trained_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained store with a plan of many steps, a failed run with a hostile error message, a
    damaged run, and features with rejected samples."""
    store = tmp_path_factory.mktemp("page") / "store"
    shutil.copytree(trained_store, store)
    replan(
        copy_run(store, "fine"),
        FeatureSet.open(StorePath.at(store / "features" / "made")),
        batch_size=2,
    )
    copy_run(store, "hostile").update(status="failed", error=HOSTILE)
    copy_run(store, "broken")
    (store / "runs" / "broken" / "run.json").write_text(f'{{"name": "{HOSTILE}')
    reject(store / "features" / "made", 60)
    return store


@pytest.fixture(scope="module")
def url(page_store: Path) -> Iterator[str]:
    with serving(page_store) as found:
        yield f"{found}/"


@pytest.fixture(scope="module")
def report(page_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report.html"
    outside(lambda: write_report(str(page_store / "runs" / "fine"), StorePath.at(out)))
    return out


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Starts a command of `remix`, with a Ray of its own, that does not outlive the tests."""
    started = []

    def begin(*arguments: object, log: Path) -> "subprocess.Popen[bytes]":
        command = [str(Path(sys.executable).parent / "remix"), *map(str, arguments)]
        with log.open("wb") as sink:
            process = subprocess.Popen(command, env=environment(), stdout=sink, stderr=sink)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.terminate()
        process.wait()
