"""Copies of a remote store's parts that the processes of a node share: one download a part, never more bytes than allowed, whoever dies."""

import logging
import multiprocessing
import os
import pickle
import re
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.fs as pafs
import pytest
import torch

from pipeline.config import PlanConfig
from pipeline.errors import ConfigError, DataError, MissingError, StoreError
from pipeline.features import remote_parts as parts
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan, remix_plan
from pipeline.scores.table import Scores
from pipeline.storage import node_cache as caches
from pipeline.storage.node_cache import PartCache, RemoteFile
from pipeline.storage.store_path import Place
from tests.service.test_cache import bytes_at_once
from tests.support.stores import make_features, run_config, same_weights
from tests.system.test_s3 import upload
from trainer.data.part_prefetcher import Ahead
from trainer.data.plan_loader import Batch, PlanLoader
from trainer.launch import launch
from trainer.process_group import World

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.pipeline.storage.test_node_cache"])


class Remote(pafs.FSSpecHandler):  # type: ignore[misc]
    """A local folder that says it is remote and writes each opening of a part into a file that all processes share; it may be slow to open."""

    def __init__(self, root: Path, seconds: float = 0.0) -> None:
        super().__init__(fsspec.filesystem("dir", path=str(root), target_protocol="file"))
        self.root, self.seconds = root, seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return Remote, (self.root, self.seconds)

    def open_input_file(self, path: str) -> Any:
        with (self.root.parent / "opened").open("a") as file:
            file.write(f"{path}\n")
        time.sleep(self.seconds)
        return super().open_input_file(path)


def remote(
    features: FeatureSet, cache: PartCache | None = None, seconds: float = 0.0
) -> FeatureSet:
    """The same feature set as if it were in an object store."""
    assert features.place.local
    place = Place(pafs.PyFileSystem(Remote(features.place.local, seconds)), "")
    return FeatureSet(place, features.manifest, cache)


def downloads(features: FeatureSet) -> dict[str, int]:
    """How often each part was opened where the feature set lies."""
    opened = Path(features.place.fs.handler.root.parent / "opened")
    return (
        Counter(line for line in opened.read_text().split() if "part-" in line)
        if opened.exists()
        else Counter()
    )


def part_bytes(features: FeatureSet) -> int:
    """The size of the largest part."""
    return max(
        features.file_of(name, part).num_bytes
        for name in features.modalities
        for part in range(len(features.manifest["parts"]))
    )


def start(work: Callable[..., None], *given: object) -> BaseProcess:
    process = PROCESSES.Process(target=work, args=given)
    process.start()
    return process


def finish(processes: list[BaseProcess]) -> None:
    """Waits for processes, which must all have ended well."""
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * len(processes)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    """12 parts of 64 rows each."""
    return make_features(tmp_path_factory.mktemp("made") / "features", num_rows=768, num_parts=12)


@pytest.fixture
def features(made: FeatureSet, tmp_path: Path) -> FeatureSet:
    (tmp_path / "features").symlink_to(str(made.place.local))
    return FeatureSet(Place.at(tmp_path / "features"), made.manifest)


def read_at_random(features: FeatureSet, seed: int) -> None:
    """Reads rows of random parts and compares them with the files themselves."""
    rng = np.random.default_rng(seed)
    original = FeatureSet(Place.at(features.place.fs.handler.root), features.manifest)
    for _ in range(40):
        name, part = str(rng.choice(features.modalities)), int(rng.integers(12))
        rows = 64 * part + rng.integers(0, 64, 8)
        np.testing.assert_array_equal(features.read(name, rows), original.read(name, rows))


@pytest.mark.parametrize("num_parts", [2, 5])
def test_the_bound_holds_and_no_reader_is_broken_while_processes_read_at_random(
    features: FeatureSet, tmp_path: Path, num_parts: int
) -> None:
    cache = PartCache(tmp_path / "cache", num_parts * part_bytes(features))
    processes = [start(read_at_random, remote(features, cache), seed) for seed in range(4)]
    totals = []
    while any(process.is_alive() for process in processes):
        totals.append(bytes_at_once(cache.folder))
    finish(processes)
    assert part_bytes(features) < max(totals) <= cache.max_bytes
    assert not list(cache.folder.glob("*.part"))
    assert cache.folder.stat().st_mode & 0o777 == 0o700


def fetch_all(features: FeatureSet) -> None:
    """Reads a row of every part."""
    for name in features.modalities:
        features.read(name, np.arange(0, 768, 64))


def test_processes_that_ask_together_share_one_download(
    features: FeatureSet, tmp_path: Path
) -> None:
    cached = remote(features, PartCache(tmp_path / "cache", 2**30), seconds=0.02)
    finish([start(fetch_all, cached) for _ in range(4)])
    assert list(downloads(cached).values()) == [1] * 36
    fetch_all(pickle.loads(pickle.dumps(cached)))
    assert downloads(cached).total() == 36


def test_the_same_content_is_copied_once_wherever_it_lies(
    features: FeatureSet, tmp_path: Path
) -> None:
    cache, cached = PartCache(tmp_path / "cache", 2**30), remote(features)
    file = cached.file_of("sound", 0)
    again = RemoteFile(
        place=file.place.parent / "elsewhere", sha256=file.sha256, num_bytes=file.num_bytes
    )
    assert cache.fetch(file) and cache.fetch(again)
    assert downloads(cached) == {"sound/part-00000.arrow": 1}


def damaged(made: FeatureSet, folder: Path, part: int, cut: int = 0) -> FeatureSet:
    """A copy of the feature set with a byte of one part of `sound` changed, and some cut off."""
    pafs.copy_files(
        str(made.place.local),
        str(folder),
        source_filesystem=pafs.LocalFileSystem(),
        destination_filesystem=pafs.LocalFileSystem(),
    )
    path = folder / "sound" / f"part-{part:05d}.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data[: len(data) - cut])
    return FeatureSet(Place.at(folder), made.manifest)


@pytest.mark.parametrize("cut", [0, 100])
def test_a_part_whose_content_is_not_its_manifests_is_an_error_that_names_both_hashes(
    made: FeatureSet, tmp_path: Path, cut: int
) -> None:
    cached = remote(
        damaged(made, tmp_path / "features", 5, cut), PartCache(tmp_path / "cache", 2**30)
    )
    cached.read("sound", np.array([0]))
    sha256 = cached.file_of("sound", 5).sha256
    with pytest.raises(
        DataError,
        match=rf"(?=.*sound/part-00005\.arrow)(?=.*\b{sha256}\b)(?=.*\b(?!{sha256})[0-9a-f]{{64}}\b)",
    ):
        cached.read("sound", np.array([5 * 64]))
    assert downloads(cached)["sound/part-00005.arrow"] == 2
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [
        cached.file_of("sound", 0).sha256
    ]


def test_a_part_that_is_not_there_is_missing(features: FeatureSet, tmp_path: Path) -> None:
    cached = remote(features, PartCache(tmp_path / "cache", 2**30))
    file = cached.file_of("sound", 0)
    with pytest.raises(MissingError, match="nowhere"):
        cached.cache.fetch(
            RemoteFile(
                place=file.place.parent / "nowhere", sha256=file.sha256, num_bytes=file.num_bytes
            )
        )
    assert not list((tmp_path / "cache").iterdir())
    with pytest.raises(DataError, match=r"\.\./x"):
        cached.cache.fetch(RemoteFile(place=file.place, sha256="../x", num_bytes=1))


def wait_for(ask: Callable[[], object]) -> None:
    """Asks until it is so."""
    end = time.monotonic() + 30
    while not ask():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_of_a_downloader_that_is_killed_nothing_is_taken_for_a_copy_and_others_go_on(
    features: FeatureSet, tmp_path: Path
) -> None:
    cache = PartCache(tmp_path / "cache", 4 * part_bytes(features))
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


def test_what_a_killed_downloader_left_makes_room(features: FeatureSet, tmp_path: Path) -> None:
    cache = PartCache(tmp_path / "cache", part_bytes(features), keep=True)
    process = start(fetch_all, remote(features, cache, seconds=60.0))
    wait_for(lambda: any(path.stat().st_size for path in cache.folder.glob("*.part")))
    process.kill()
    process.join()
    left = next(cache.folder.glob("*.part"))
    file = remote(features).file_of("sight", 3)
    assert left.stat().st_size and cache.fetch(file)
    assert [path.name for path in cache.folder.iterdir()] == [file.sha256]


def test_the_least_recently_used_goes_first_and_never_what_is_held(
    features: FeatureSet, tmp_path: Path
) -> None:
    files = [remote(features).file_of("sight", part) for part in range(6)]
    cache = PartCache(tmp_path / "cache", 3 * files[0].num_bytes)
    assert cache.fetch(files[0])
    held = cache.map(files[0])
    view = np.frombuffer(held, np.uint8)
    assert (
        cache.fetch(files[1])
        and cache.fetch(files[2])
        and cache.fetch(files[1])
        and cache.fetch(files[3])
    )
    assert {path.name for path in cache.folder.iterdir()} == {
        files[part].sha256 for part in (0, 1, 3)
    }
    others = [cache.map(files[4]), cache.map(files[5])]
    assert all(others)
    assert cache.map(files[1]) is None and not cache.fetch(files[2])
    del held, others
    assert cache.fetch(files[1]) and cache.fetch(files[2])
    assert {path.name for path in cache.folder.iterdir()} == {
        files[part].sha256 for part in (0, 1, 2)
    }
    assert view.tobytes() == (features.place.local / "sight" / "part-00000.arrow").read_bytes()
    del view
    assert cache.fetch(files[3]) and not (cache.folder / str(files[0].sha256)).exists()


def test_a_cache_that_keeps_gives_up_only_what_was_last_used_before_it(
    features: FeatureSet, tmp_path: Path
) -> None:
    files = [remote(features).file_of("sight", part) for part in range(4)]
    before = PartCache(tmp_path / "cache", 2 * files[0].num_bytes)
    assert before.fetch(files[0]) and before.fetch(files[1])
    cache = PartCache(tmp_path / "cache", 2 * files[0].num_bytes, keep=True)
    assert cache.fetch(files[0]) and cache.fetch(files[2]) and not cache.fetch(files[3])
    assert {path.name for path in cache.folder.iterdir()} == {files[0].sha256, files[2].sha256}


def test_a_folder_that_is_not_ours_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to("cache")
    assert PartCache(tmp_path / "link", 1).folder.stat().st_mode & 0o777 == 0o700
    (tmp_path / "cache" / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match=r"(?=.*thesis\.tex)(?=.*cache_dir)"):
        PartCache(tmp_path / "cache", 1)
    with pytest.raises(StoreError, match=r"thesis\.tex"):
        PartCache(tmp_path / "cache" / "thesis.tex", 1)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(
        ConfigError, match=rf"(?=.*\b{os.getuid()}\b)(?=.*\b{os.getuid() + 1}\b)(?=.*cache_dir)"
    ):
        PartCache(tmp_path / "cache", 1)


def read_on_a_full_disk(features: FeatureSet, out: Path, pause: float) -> None:
    """Reads with files limited to some bytes, which fails as a full disk does, and again without; writes down what was logged."""
    logging.basicConfig(filename=out, format="%(message)s")
    caches.PAUSE_SECONDS = pause
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, most))
    read_at_random(features, 0)
    assert features.cache and not list(features.cache.folder.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    fetch_all(FeatureSet(features.place, features.manifest, features.cache))


@pytest.mark.parametrize("pause", [0, 60])
def test_on_a_full_disk_rows_come_from_the_store_for_a_while_and_one_warning_says_so(
    features: FeatureSet, tmp_path: Path, pause: float
) -> None:
    cached = remote(features, PartCache(tmp_path / "cache", 2**30))
    finish([start(read_on_a_full_disk, cached, tmp_path / "log", pause)])
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert str(tmp_path / "cache") in line and re.search(r"\b27\b", line)
    assert len(list((tmp_path / "cache").iterdir())) == (0 if pause else 36)


def loaded(features: FeatureSet, plan: BatchPlan, world: World | None = None) -> Iterator[Batch]:
    yield from PlanLoader(
        features, plan, start=0, world=world or World(), skip_masked=True, prefetch=2
    )


def same(first: Batch, second: Batch) -> bool:
    return first.inputs.keys() == second.inputs.keys() and all(
        torch.equal(first.inputs[name], second.inputs[name]) for name in first.inputs
    )


def local_plan(features: FeatureSet, locality: int | None) -> BatchPlan:
    """A plan of all rows, each assigned to some modality, by modality in turn."""
    rng = np.random.default_rng(0)
    kl = {
        f"kl_{name}": rng.random(features.num_rows).astype(np.float32)
        for name in features.modalities
    }
    ids = {
        "row": np.arange(features.num_rows),
        "sample_id": features.samples["sample_id"],
        "label": features.labels,
    }
    return remix_plan(Scores(pa.table({**ids, **kl})), PlanConfig(locality=locality), 16, 0, 0)


@pytest.mark.parametrize("locality", [None, 128])
@pytest.mark.parametrize("num_parts", [0, 1, 4, 50])
def test_batches_are_the_same_to_the_bit_whatever_the_cache(
    features: FeatureSet, tmp_path: Path, locality: int | None, num_parts: int
) -> None:
    cache = PartCache(tmp_path / "cache", num_parts * part_bytes(features))
    plan, cached = local_plan(features, locality), remote(features, cache)
    pairs = list(zip(loaded(features, plan), loaded(cached, plan), strict=True))
    assert len(pairs) == len(plan) and all(same(*pair) for pair in pairs)


@pytest.mark.parametrize("world_size", [1, 2])
def test_with_locality_a_small_cache_fetches_each_part_once(
    features: FeatureSet, tmp_path: Path, world_size: int
) -> None:
    plan, ranks = local_plan(features, 64), []
    for rank in range(world_size):
        cached = remote(features, PartCache(tmp_path / "cache", 6 * part_bytes(features)))
        ranks.append(loaded(cached, plan, World(rank=rank, size=world_size)))
    assert sum(1 for _ in zip(*ranks, strict=True)) == len(plan)
    assert list(downloads(cached).values()) == [1] * 36


def test_a_plan_without_locality_that_does_not_fit_evicts_nothing(
    features: FeatureSet, tmp_path: Path
) -> None:
    cached = remote(features, PartCache(tmp_path / "cache", 10 * part_bytes(features), keep=True))
    first = set(consume(cached, None))
    assert len(first) >= 10
    assert set(consume(cached, None)) == first
    assert all(downloads(cached)[f"{name}/part-{part:05d}.arrow"] == 1 for name, part in first)


def consume(features: FeatureSet, locality: int | None) -> list[tuple[str, int]]:
    """The parts in the cache after an epoch."""
    assert features.cache
    assert sum(1 for _ in loaded(features, local_plan(features, locality)))
    there = {path.name for path in features.cache.folder.iterdir()}
    return [
        (name, part)
        for name in features.modalities
        for part in range(12)
        if features.file_of(name, part).sha256 in there
    ]


def fetchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "part-fetcher"]


def test_parts_are_fetched_in_order_and_at_most_half_of_the_cache_ahead(
    features: FeatureSet, tmp_path: Path
) -> None:
    cached = remote(features, PartCache(tmp_path / "cache", 8 * part_bytes(features)))
    order = np.random.default_rng(0).permutation(12).tolist()
    names = [f"sight/part-{part:05d}.arrow" for part in order]
    with Ahead(
        cached, [[("sight", np.arange(64 * part, 64 * part + 64))] for part in order]
    ) as ahead:
        for num_ahead in range(4, 16):
            wait_for(lambda num=num_ahead: len(downloads(cached)) >= min(num, 12))
            time.sleep(0.02)  # what it should not do would take no longer
            assert list(downloads(cached)) == names[:num_ahead]
            ahead.reach(num_ahead - 4)
    assert not fetchers()


def test_an_error_of_the_fetching_thread_ends_the_loader_and_the_thread_with_it(
    made: FeatureSet, tmp_path: Path
) -> None:
    cached = remote(damaged(made, tmp_path / "features", 5), PartCache(tmp_path / "cache", 2**30))
    with pytest.raises(DataError, match=r"part-00005\.arrow"):
        list(loaded(cached, local_plan(made, None)))
    wait_for(lambda: not fetchers())
    steps = [[("sound", np.array([64 * part]))] for part in (0, 1, 5)]
    with pytest.raises(DataError, match=r"part-00005\.arrow"), Ahead(cached, steps) as ahead:
        wait_for(lambda: not fetchers())
        ahead.reach(0)


def test_the_fetching_thread_ends_with_a_loader_that_is_left_early(
    features: FeatureSet, tmp_path: Path
) -> None:
    cached = remote(features, PartCache(tmp_path / "cache", 2 * part_bytes(features)), seconds=0.1)
    batches = loaded(cached, local_plan(features, None))
    next(batches)
    assert fetchers()
    batches.close()
    assert not fetchers()


def test_open_parts_of_a_disk_take_no_file_descriptors(features: FeatureSet) -> None:
    before = psutil.Process().num_fds()
    fetch_all(features)
    assert psutil.Process().num_fds() == before


def test_open_copies_take_a_bounded_number_of_file_descriptors(
    features: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "OPEN_PARTS", 5)
    cached = remote(features, PartCache(tmp_path / "cache", 2**30))
    before = psutil.Process().num_fds()
    fetch_all(cached)
    assert before < psutil.Process().num_fds() <= before + 5
    del cached
    assert psutil.Process().num_fds() == before


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make_features(tmp_path / "store" / "features" / "made", missing=0.2)
    return tmp_path / "store"


def test_a_run_on_s3_gives_the_same_weights_with_and_without_a_cache(
    store: Path, s3: Callable[[], str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = s3()
    upload(store, uri)
    short, sizes = {"epochs": 2, "warmup_epochs": 1}, (2**30, 60_000, 0)
    local = launch(run_config(store, train=short))
    for size in sizes:
        resources = {"cache_dir": str(tmp_path / f"cache-{size}"), "cache_size": size}
        run = launch(run_config(uri, name=f"run-{size}", train=short, resources=resources))
        assert same_weights(local, run)
    total = sum(path.stat().st_size for path in store.rglob("part-*"))
    found = {
        size: sum(path.stat().st_size for path in (tmp_path / f"cache-{size}").iterdir())
        for size in sizes
    }
    assert found[2**30] == total and 0 < found[60_000] <= 60_000 and found[0] == 0
    warnings = [record.getMessage() for record in caplog.records if record.name == "remix.cache"]
    assert len(warnings) == 2
    assert all(
        named in warnings[0]
        for named in (
            f"{total / 1e9:.3g}",
            "plan.locality",
            "null",
            "resources.cache_size",
            "6e-05",
        )
    )


def test_a_cache_folder_that_is_refused_stops_a_run_before_it_is_made(
    store: Path, s3: Callable[[], str], tmp_path: Path
) -> None:
    uri = s3()
    place = upload(store, uri)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        launch(run_config(uri, resources={"cache_dir": str(tmp_path / "cache")}))
    assert not (place / "runs").exists()
