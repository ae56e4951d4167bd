"""Copies of remote files: one download a version, never more bytes than allowed, nothing left of a failure."""

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.fs as pafs
import pytest

from pipeline.errors import ConfigError, MissingError, StoreError
from pipeline.storage.store_path import PIECE_BYTES, Place
from service.store.cache import FileCache


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


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    (tmp_path / "remote").mkdir()
    return Remote(tmp_path / "remote")


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[FileCache]:
    made = FileCache(tmp_path / "cache", 100)
    yield made
    made.close()


def put(remote: Remote, name: str, data: bytes) -> tuple[Place, pafs.FileInfo]:
    place = Place(pafs.PyFileSystem(remote), name)
    place.write_bytes(data)
    remote.opened.clear()
    return place, place.info()


def copies(cache: FileCache) -> dict[bytes, int]:
    return {path.read_bytes(): path.stat().st_size for path in cache.folder.iterdir()}


def bytes_at_once(folder: Path) -> int:
    """Bytes of files that were all there at one moment: opened before it, and not unlinked after it."""
    held = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            held.append(os.open(path, os.O_RDONLY))
    sizes = [os.fstat(each).st_size for each in held]
    total = sum(size for each, size in zip(held, sizes, strict=True) if os.fstat(each).st_nlink)
    for each in held:
        os.close(each)
    return total


def test_a_copy_is_the_file_downloaded_once(remote: Remote, cache: FileCache) -> None:
    place, info = put(remote, "a", b"x" * 100)
    first = cache.local(place, info)
    assert first and first.read_bytes() == b"x" * 100
    assert cache.local(place, info) == first
    assert remote.opened == ["a"]
    assert cache.folder.stat().st_mode & 0o777 == 0o700


def test_a_file_of_several_pieces_is_copied_whole(remote: Remote, tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(2 * PIECE_BYTES + 12345)
    cache = FileCache(tmp_path / "cache", len(data))
    copy = cache.local(*put(remote, "a", data))
    assert copy and copy.read_bytes() == data
    cache.close()


def test_another_version_is_another_copy(remote: Remote, cache: FileCache) -> None:
    place, info = put(remote, "a", b"old")
    old = cache.local(place, info)
    _, changed = put(remote, "a", b"new")
    new = cache.local(place, changed)
    assert old and new and (old.read_bytes(), new.read_bytes()) == (b"old", b"new")
    with pytest.raises(StoreError, match=r"://a\b"):
        FileCache.local(cache, place, pafs.FileInfo("a", pafs.FileType.File, mtime_ns=1, size=3))


def test_a_file_larger_than_the_cache_is_left_to_the_caller(
    remote: Remote, cache: FileCache
) -> None:
    kept = cache.local(*put(remote, "a", b"x" * 100))
    assert cache.local(*put(remote, "b", b"x" * 101)) is None
    assert kept and kept.exists()
    assert remote.opened == []


def test_threads_that_ask_together_share_one_download(remote: Remote, cache: FileCache) -> None:
    place, info = put(remote, "a", b"data")
    gate = threading.Event()
    remote.before_open = lambda: gate.wait(30)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(cache.local, place, info) for _ in range(8)]
        assert not wait(asked, 0.2).done
        gate.set()
        found = {each.result(30) for each in asked}
    assert len(found) == 1
    assert remote.opened == ["a"]


def test_the_least_recently_used_goes_first_and_stays_readable_where_it_is_open(
    remote: Remote, cache: FileCache
) -> None:
    files = {name: put(remote, name, name.encode() * 30) for name in "abcd"}
    opened = {name: cache.local(*files[name]).open("rb") for name in "abc"}  # type: ignore[union-attr]
    cache.local(*files["a"])
    cache.local(*files["d"])
    assert copies(cache).keys() == {b"a" * 30, b"c" * 30, b"d" * 30}
    cache.local(*put(remote, "e", b"e" * 70))
    assert copies(cache).keys() == {b"d" * 30, b"e" * 70}
    for name, file in opened.items():
        with file:
            assert file.read() == name.encode() * 30
    assert cache.local(*files["b"]).read_bytes() == b"b" * 30  # type: ignore[union-attr]


def test_the_bound_holds_while_threads_come_and_go(remote: Remote, cache: FileCache) -> None:
    rng = np.random.default_rng(0)
    files = {
        name: put(remote, name, name.encode() * int(size))
        for name, size in zip("abcdefghijkl", rng.integers(1, 100, 12), strict=True)
    }
    remote.before_open = lambda: time.sleep(0.001)
    wrong: list[str] = []
    totals: list[int] = []
    done = threading.Event()

    def use(seed: int) -> None:
        for name in np.random.default_rng(seed).choice(list(files), 40).tolist():
            copy = cache.local(*files[name])
            try:
                held = os.open(copy or "", os.O_RDONLY)
            except FileNotFoundError:
                continue  # evicted by another thread, as it may be
            data = os.read(held, 1000)
            os.close(held)
            if data != name.encode() * (files[name][1].size or 0):
                wrong.append(name)

    def watch() -> None:
        while not done.is_set():
            totals.append(bytes_at_once(cache.folder))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(use, range(6)))
    done.set()
    watcher.join()
    assert not wrong
    assert 0 < max(totals) <= 100
    assert sum(copies(cache).values()) <= 100
    assert all(len(path.name) == 64 for path in cache.folder.iterdir())


def test_downloads_that_do_not_fit_together_wait_for_each_other(
    remote: Remote, cache: FileCache
) -> None:
    first, second = put(remote, "a", b"a" * 60), put(remote, "b", b"b" * 60)
    gate, opening = threading.Event(), threading.Event()
    remote.before_open = lambda: (opening.set(), gate.wait(30))
    with ThreadPoolExecutor(2) as pool:
        early = pool.submit(cache.local, *first)
        assert opening.wait(30)
        late = pool.submit(cache.local, *second)
        assert not wait([late], 0.2).done
        assert remote.opened == ["a"]
        gate.set()
        assert early.result(30) and late.result(30)
    assert copies(cache).keys() == {b"b" * 60}


def test_a_download_that_fails_leaves_nothing_and_is_tried_again(
    remote: Remote, cache: FileCache
) -> None:
    place, info = put(remote, "a", b"x" * 100)

    def fail() -> None:
        raise OSError("the network is down")

    remote.before_open = fail
    for _ in range(2):  # what was reserved for the first is free again
        with pytest.raises(StoreError, match=r"(?=.*://a\b)(?=.*the network is down)"):
            cache.local(place, info)
        assert list(cache.folder.iterdir()) == []
    remote.before_open = lambda: None
    assert cache.local(place, info)


def test_all_who_wait_for_a_download_learn_that_it_failed(remote: Remote, cache: FileCache) -> None:
    place, info = put(remote, "a", b"data")
    gate = threading.Event()

    def fail() -> None:
        gate.wait(30)
        raise OSError("the network is down")

    remote.before_open = fail
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(cache.local, place, info) for _ in range(4)]
        assert not wait(asked, 0.2).done
        gate.set()
        assert all(isinstance(each.exception(30), StoreError) for each in asked)


def test_a_file_that_vanished_is_missing(remote: Remote, cache: FileCache) -> None:
    place, info = put(remote, "a", b"data")
    place.delete()
    with pytest.raises(MissingError, match=r"://a\b"):
        cache.local(place, info)
    assert list(cache.folder.iterdir()) == []


def test_a_disk_that_cannot_be_written_is_named(remote: Remote, cache: FileCache) -> None:
    place, info = put(remote, "a", b"data")
    cache.folder.rmdir()
    with pytest.raises(StoreError, match="cache_dir"):
        cache.local(place, info)


def test_what_a_killed_service_left_goes_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o755)
    (folder / f"{'a' * 64}.part").write_bytes(b"half")
    (folder / ("b" * 64)).write_bytes(b"whole")
    cache = FileCache(folder, 100)
    assert list(folder.iterdir()) == []
    assert folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(ConfigError, match=re.escape(str(folder))):
        FileCache(folder, 100)
    cache.close()
    assert not folder.exists()
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        FileCache(folder, 100)
    assert (folder / "thesis.tex").read_text() == "mine"
    with pytest.raises(StoreError, match=r"thesis\.tex"):
        FileCache(folder / "thesis.tex", 100)
