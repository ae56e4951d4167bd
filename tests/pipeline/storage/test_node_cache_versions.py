"""Cached copies by file version, without a SHA-256, as the service uses them from its threads."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest

from pipeline.errors import StoreError
from pipeline.storage.node_cache import NodeCache, RemoteFile
from pipeline.storage.store_path import PIECE_BYTES, StorePath
from tests.support.cached_features import Remote


def put(remote: Remote, name: str, data: bytes) -> RemoteFile:
    """Write a file; returns its current version."""
    path = StorePath(pafs.PyFileSystem(remote), name)
    path.write_bytes(data)
    return RemoteFile(path=path, sha256=None, num_bytes=len(data), mtime_ns=path.info().mtime_ns)


def opened(remote: Remote) -> list[str]:
    """Names of the opened files, in order."""
    log = remote.root.parent / "opened"
    return log.read_text().split() if log.exists() else []


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    (tmp_path / "remote").mkdir()
    return Remote(tmp_path / "remote")


@pytest.fixture
def cache(tmp_path: Path) -> NodeCache:
    return NodeCache(tmp_path / "cache", 100)


def read(cache: NodeCache, file: RemoteFile) -> bytes | None:
    copy = cache.map(file)
    return None if copy is None else copy.to_pybytes()


def copies(cache: NodeCache) -> set[bytes]:
    return {path.read_bytes() for path in cache.folder.iterdir()}


def test_a_version_is_downloaded_once_and_completely(remote: Remote, tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(2 * PIECE_BYTES + 12345)
    file = put(remote, "a", data)
    cache = NodeCache(tmp_path / "cache", len(data))
    assert read(cache, file) == read(cache, file) == data
    assert opened(remote) == ["a"]


def test_another_version_is_another_copy(remote: Remote, cache: NodeCache) -> None:
    old = put(remote, "a", b"old")
    assert read(cache, old) == b"old"
    new = put(remote, "a", b"new")
    assert (read(cache, old), read(cache, new)) == (b"old", b"new")
    with pytest.raises(StoreError, match=r"://a\b"):
        cache.map(replace(new, mtime_ns=1))
    assert copies(cache) == {b"old", b"new"}


def test_a_file_that_cannot_be_cached_is_left_to_the_caller(
    remote: Remote, cache: NodeCache
) -> None:
    large, empty = put(remote, "a", b"x" * 101), put(remote, "b", b"")
    unknown = replace(put(remote, "c", b"x"), mtime_ns=None)
    assert [read(cache, file) for file in (large, empty, unknown)] == [None, None, None]
    assert opened(remote) == []


@pytest.mark.parametrize("fails", [False, True])
def test_concurrent_threads_share_one_download_or_its_failure(
    remote: Remote, cache: NodeCache, fails: bool
) -> None:
    file, gate = put(remote, "a", b"data"), threading.Event()

    def wait_and_fail() -> None:
        gate.wait(30)
        if fails:
            raise OSError("the network is down")

    remote.before_open = wait_and_fail
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(read, cache, file) for _ in range(8)]
        assert not wait(futures, 0.2).done
        gate.set()
        if fails:
            assert all(isinstance(future.exception(30), StoreError) for future in futures)
            assert copies(cache) == set()
        else:
            assert {future.result(30) for future in futures} == {b"data"}
            assert opened(remote) == ["a"]
    remote.before_open = lambda: None
    assert read(cache, file) == b"data"


def test_a_failed_eviction_leaves_the_file_to_the_caller_and_no_thread_waiting(
    remote: Remote, cache: NodeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = put(remote, "a", b"a" * 60), put(remote, "b", b"b" * 60)
    assert read(cache, first) == b"a" * 60

    def fail(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as broken, ThreadPoolExecutor(4) as pool:
        broken.setattr(Path, "unlink", fail)
        futures = [pool.submit(read, cache, second) for _ in range(4)]
        assert [future.result(30) for future in futures] == [None] * 4
    assert read(cache, first) == b"a" * 60
