"""Copies of files whose SHA-256 is not known, by version: what the service keeps, from its threads."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.fs as pafs
import pytest

from pipeline.errors import StoreError
from pipeline.storage.node_cache import NodeCache, RemoteFile
from pipeline.storage.store_path import PIECE_BYTES, Place


class Remote(pafs.FSSpecHandler):  # type: ignore[misc]
    """A local folder that says it is remote, counts what is opened, and lets a test hold or fail an opening."""

    def __init__(self, root: Path) -> None:
        super().__init__(fsspec.filesystem("dir", path=str(root), target_protocol="file"))
        self.opened: list[str] = []
        self.before_open: Callable[[], object] = lambda: None

    def open_input_file(self, path: str) -> Any:
        self.opened.append(path)
        self.before_open()
        return super().open_input_file(path)

    def put(self, name: str, data: bytes) -> RemoteFile:
        """Writes a file, and says which version of it there is now."""
        place = Place(pafs.PyFileSystem(self), name)
        place.write_bytes(data)
        self.opened.clear()
        return RemoteFile(
            place=place, sha256=None, num_bytes=len(data), mtime_ns=place.info().mtime_ns
        )


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


def test_a_version_is_downloaded_once_in_whole(remote: Remote, tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(2 * PIECE_BYTES + 12345)
    file = remote.put("a", data)
    cache = NodeCache(tmp_path / "cache", len(data))
    assert read(cache, file) == read(cache, file) == data
    assert remote.opened == ["a"]


def test_another_version_is_another_copy(remote: Remote, cache: NodeCache) -> None:
    old = remote.put("a", b"old")
    assert read(cache, old) == b"old"
    new = remote.put("a", b"new")
    assert (read(cache, old), read(cache, new)) == (b"old", b"new")
    with pytest.raises(StoreError, match=r"://a\b"):
        cache.map(RemoteFile(place=new.place, sha256=None, num_bytes=3, mtime_ns=1))
    assert copies(cache) == {b"old", b"new"}


def test_what_cannot_be_copied_is_left_to_the_caller(remote: Remote, cache: NodeCache) -> None:
    large, empty, known = remote.put("a", b"x" * 101), remote.put("b", b""), remote.put("c", b"x")
    unknown = RemoteFile(place=known.place, sha256=None, num_bytes=1)
    assert [read(cache, file) for file in (large, empty, unknown)] == [None, None, None]
    assert remote.opened == []


@pytest.mark.parametrize("fails", [False, True])
def test_threads_that_ask_together_share_one_download_or_learn_that_it_failed(
    remote: Remote, cache: NodeCache, fails: bool
) -> None:
    file, gate = remote.put("a", b"data"), threading.Event()

    def wait_and_fail() -> None:
        gate.wait(30)
        if fails:
            raise OSError("the network is down")

    remote.before_open = wait_and_fail
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(read, cache, file) for _ in range(8)]
        assert not wait(asked, 0.2).done
        gate.set()
        if fails:
            assert all(isinstance(each.exception(30), StoreError) for each in asked)
            assert copies(cache) == set()
        else:
            assert {each.result(30) for each in asked} == {b"data"}
            assert remote.opened == ["a"]
    remote.before_open = lambda: None
    assert read(cache, file) == b"data"


def test_an_eviction_that_fails_leaves_the_file_to_the_caller_and_nobody_waiting(
    remote: Remote, cache: NodeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = remote.put("a", b"a" * 60), remote.put("b", b"b" * 60)
    assert read(cache, first) == b"a" * 60

    def fail(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as broken, ThreadPoolExecutor(4) as pool:
        broken.setattr(Path, "unlink", fail)
        asked = [pool.submit(read, cache, second) for _ in range(4)]
        assert [each.result(30) for each in asked] == [None] * 4
    assert read(cache, first) == b"a" * 60
