"""The node cache: one download per part for all processes, and never more bytes than allowed,
whichever process dies."""

import logging
import multiprocessing
import os
import pickle
import re
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline.errors import ConfigError, DataError, MissingError, StoreError
from pipeline.features import part_reader as parts
from pipeline.features.feature_set import FeatureSet
from pipeline.storage import node_cache as caches
from pipeline.storage.node_cache import NodeCache
from pipeline.storage.store_path import StorePath
from tests.support.cached_features import damaged, downloads, part_bytes, remote, wait_for
from tests.support.refusals import refused
from tests.support.stores import bytes_at_once

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.pipeline.storage.test_node_cache"])


def start(work: Callable[..., None], *arguments: object) -> BaseProcess:
    process = PROCESSES.Process(target=work, args=arguments)
    process.start()
    return process


def finish(processes: list[BaseProcess]) -> None:
    """Wait for processes, which must all succeed."""
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def kept(cache: NodeCache) -> set[str]:
    """File names of the copies."""
    return {path.name for path in cache.folder.iterdir()}


def read_at_random(features: FeatureSet, seed: int) -> None:
    """Read rows of random parts and compare them with the original files."""
    rng = np.random.default_rng(seed)
    original = FeatureSet(StorePath.at(features.path.fs.handler.root), features.manifest)
    for _ in range(40):
        name, part = str(rng.choice(features.modalities)), int(rng.integers(12))
        rows = 64 * part + rng.integers(0, 64, 8)
        np.testing.assert_array_equal(features.read(name, rows), original.read(name, rows))


@pytest.mark.parametrize("num_parts", [2, 5])
def test_the_limit_is_kept_and_no_reader_fails_while_processes_read_at_random(
    features: FeatureSet, tmp_path: Path, num_parts: int
) -> None:
    cache = NodeCache(tmp_path / "cache", num_parts * part_bytes(features))
    processes = [start(read_at_random, remote(features, cache), seed) for seed in range(4)]
    totals = []
    while any(process.is_alive() for process in processes):
        totals.append(bytes_at_once(cache.folder))
    finish(processes)
    assert part_bytes(features) < max(totals) <= cache.max_bytes
    assert not list(cache.folder.glob("*.part"))
    assert cache.folder.stat().st_mode & 0o777 == 0o700


def fetch_all(features: FeatureSet) -> None:
    """Read a row of every part."""
    for name in features.modalities:
        features.read(name, np.arange(0, 768, 64))


def test_concurrent_processes_share_one_download(features: FeatureSet, tmp_path: Path) -> None:
    cached = remote(features, NodeCache(tmp_path / "cache", 2**30), seconds=0.02)
    finish([start(fetch_all, cached) for _ in range(4)])
    assert list(downloads(cached).values()) == [1] * 36
    fetch_all(pickle.loads(pickle.dumps(cached)))
    assert downloads(cached).total() == 36


def test_the_same_content_at_two_paths_is_copied_once(features: FeatureSet, tmp_path: Path) -> None:
    cache, cached = NodeCache(tmp_path / "cache", 2**30), remote(features)
    file = cached.file_of("sound", 0)
    again = replace(file, path=file.path.parent / "elsewhere")
    assert cache.fetch(file) and cache.fetch(again)
    assert downloads(cached) == {"sound/part-00000.arrow": 1}


@pytest.mark.parametrize("cut", [0, 100])
def test_a_part_that_differs_from_its_manifest_is_an_error_that_names_both_hashes(
    made: FeatureSet, tmp_path: Path, cut: int
) -> None:
    cached = remote(
        damaged(made, tmp_path / "features", 5, cut), NodeCache(tmp_path / "cache", 2**30)
    )
    cached.read("sound", np.array([0]))
    sha256 = cached.file_of("sound", 5).sha256
    with refused(DataError, sha256, file="sound/part-00005.arrow") as error:
        cached.read("sound", np.array([5 * 64]))
    assert len(set(re.findall(r"\b[0-9a-f]{64}\b", str(error.value)))) == 2
    assert downloads(cached)["sound/part-00005.arrow"] == 2
    assert kept(cached.cache) == {cached.file_of("sound", 0).sha256}


def test_a_missing_part_is_an_error(features: FeatureSet, tmp_path: Path) -> None:
    cache, file = NodeCache(tmp_path / "cache", 2**30), remote(features).file_of("sound", 0)
    with refused(MissingError, file="nowhere"):
        cache.fetch(replace(file, path=file.path.parent / "nowhere"))
    assert not kept(cache)
    with refused(DataError, "'../x'"):
        cache.fetch(replace(file, sha256="../x"))


def test_a_killed_download_is_never_used_as_a_copy_and_others_continue(
    features: FeatureSet, tmp_path: Path
) -> None:
    cache = NodeCache(tmp_path / "cache", 4 * part_bytes(features))
    process = start(fetch_all, remote(features, cache, seconds=60.0))
    wait_for(lambda: any(path.stat().st_size for path in cache.folder.glob("*.part")))
    slow = next(cache.folder.glob("*.part"))
    waiting = [start(fetch_all, remote(features, cache)) for _ in range(2)]
    time.sleep(0.5)
    assert slow.stat().st_size and not (cache.folder / slow.stem).exists()
    os.kill(process.pid or 0, signal.SIGKILL)
    finish(waiting)
    assert not slow.exists()
    read_at_random(remote(features, cache), 0)


def test_the_rest_of_a_killed_download_is_evicted(features: FeatureSet, tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", part_bytes(features), keep=True)
    process = start(fetch_all, remote(features, cache, seconds=60.0))
    wait_for(lambda: any(path.stat().st_size for path in cache.folder.glob("*.part")))
    process.kill()
    process.join()
    left = next(cache.folder.glob("*.part"))
    file = remote(features).file_of("sight", 3)
    assert left.stat().st_size and cache.fetch(file)
    assert kept(cache) == {file.sha256}


def test_the_least_recently_used_copy_is_evicted_first_but_never_a_mapped_one(
    features: FeatureSet, tmp_path: Path
) -> None:
    files = [remote(features).file_of("sight", part) for part in range(6)]
    cache = NodeCache(tmp_path / "cache", 3 * files[0].num_bytes)
    assert cache.fetch(files[0])
    mapped = cache.map(files[0])
    view = np.frombuffer(mapped, np.uint8)
    assert all(cache.fetch(files[part]) for part in (1, 2, 1, 3))
    assert kept(cache) == {files[part].sha256 for part in (0, 1, 3)}
    others = [cache.map(files[4]), cache.map(files[5])]
    assert all(others)
    assert cache.map(files[1]) is None and not cache.fetch(files[2])
    del mapped, others
    assert cache.fetch(files[1]) and cache.fetch(files[2])
    assert kept(cache) == {files[part].sha256 for part in (0, 1, 2)}
    assert view.tobytes() == (features.path.local / "sight" / "part-00000.arrow").read_bytes()
    del view
    assert cache.fetch(files[3]) and not (cache.folder / str(files[0].sha256)).exists()


def test_with_keep_only_copies_last_used_before_opening_are_evicted(
    features: FeatureSet, tmp_path: Path
) -> None:
    files = [remote(features).file_of("sight", part) for part in range(4)]
    before = NodeCache(tmp_path / "cache", 2 * files[0].num_bytes)
    assert before.fetch(files[0]) and before.fetch(files[1])
    cache = NodeCache(tmp_path / "cache", 2 * files[0].num_bytes, keep=True)
    assert cache.fetch(files[0]) and cache.fetch(files[2]) and not cache.fetch(files[3])
    assert kept(cache) == {files[0].sha256, files[2].sha256}


def test_a_folder_with_other_files_or_of_another_user_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to("cache")
    assert NodeCache(tmp_path / "link", 1).folder.stat().st_mode & 0o777 == 0o700
    (tmp_path / "cache" / "thesis.tex").write_text("mine")
    with refused(ConfigError, "cache_dir", file="thesis.tex"):
        NodeCache(tmp_path / "cache", 1)
    with refused(StoreError, file="thesis.tex"):
        NodeCache(tmp_path / "cache" / "thesis.tex", 1)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with refused(ConfigError, os.getuid(), os.getuid() + 1, "cache_dir"):
        NodeCache(tmp_path / "cache", 1)


def read_on_a_full_disk(features: FeatureSet, out: Path, pause: float) -> None:
    """Read with a limit on file sizes, which acts like a full disk, then without; logs to `out`."""
    logging.basicConfig(filename=out, format="%(message)s")
    caches.PAUSE_SECONDS = pause
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, most))
    read_at_random(features, 0)
    assert features.cache and not list(features.cache.folder.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    fetch_all(FeatureSet(features.path, features.manifest, features.cache))


@pytest.mark.parametrize("pause", [0, 60])
def test_on_a_full_disk_rows_are_read_from_the_store_for_a_while_with_one_warning(
    features: FeatureSet, tmp_path: Path, pause: float
) -> None:
    cached = remote(features, NodeCache(tmp_path / "cache", 2**30))
    finish([start(read_on_a_full_disk, cached, tmp_path / "log", pause)])
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert str(tmp_path / "cache") in line and re.search(r"\b27\b", line)
    assert len(list((tmp_path / "cache").iterdir())) == (0 if pause else 36)


def test_open_local_parts_use_no_file_descriptors(features: FeatureSet) -> None:
    before = psutil.Process().num_fds()
    fetch_all(features)
    assert psutil.Process().num_fds() == before


def test_open_copies_use_a_limited_number_of_file_descriptors(
    features: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "OPEN_PARTS", 5)
    cached = remote(features, NodeCache(tmp_path / "cache", 2**30))
    before = psutil.Process().num_fds()
    fetch_all(cached)
    assert before < psutil.Process().num_fds() <= before + 5
    del cached
    assert psutil.Process().num_fds() == before
