"""The node cache under loaders and runs: the same batches and weights, parts fetched ahead in order, and errors passed on."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.errors import ConfigError, DataError
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.config import PlanConfig
from pipeline.plans.plan import BatchPlan
from pipeline.plans.planner import build, remix_draft
from pipeline.scores.table import Scores
from pipeline.storage.node_cache import NodeCache
from tests.support.cached_features import damaged, downloads, part_bytes, remote, wait_for
from tests.support.stores import make_features, run_config, same_weights
from tests.system.test_s3 import upload
from trainer.data.part_prefetcher import Ahead
from trainer.data.plan_loader import Batch, PlanLoader
from trainer.launch import launch
from trainer.process_group import World


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
    return build(
        remix_draft(Scores(pa.table({**ids, **kl})), PlanConfig(locality=locality), 16, 0, 0)
    )


@pytest.mark.parametrize("locality", [None, 128])
@pytest.mark.parametrize("num_parts", [0, 1, 4, 50])
def test_batches_are_the_same_to_the_bit_whatever_the_cache(
    features: FeatureSet, tmp_path: Path, locality: int | None, num_parts: int
) -> None:
    cache = NodeCache(tmp_path / "cache", num_parts * part_bytes(features))
    plan, cached = local_plan(features, locality), remote(features, cache)
    pairs = list(zip(loaded(features, plan), loaded(cached, plan), strict=True))
    assert len(pairs) == len(plan) and all(same(*pair) for pair in pairs)


@pytest.mark.parametrize("world_size", [1, 2])
def test_with_locality_a_small_cache_fetches_each_part_once(
    features: FeatureSet, tmp_path: Path, world_size: int
) -> None:
    plan, ranks = local_plan(features, 64), []
    for rank in range(world_size):
        cached = remote(features, NodeCache(tmp_path / "cache", 6 * part_bytes(features)))
        ranks.append(loaded(cached, plan, World(rank=rank, size=world_size)))
    assert sum(1 for _ in zip(*ranks, strict=True)) == len(plan)
    assert list(downloads(cached).values()) == [1] * 36


def test_a_plan_without_locality_that_does_not_fit_evicts_nothing(
    features: FeatureSet, tmp_path: Path
) -> None:
    cached = remote(features, NodeCache(tmp_path / "cache", 10 * part_bytes(features), keep=True))
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
    cached = remote(features, NodeCache(tmp_path / "cache", 8 * part_bytes(features)))
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
    cached = remote(damaged(made, tmp_path / "features", 5), NodeCache(tmp_path / "cache", 2**30))
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
    cached = remote(features, NodeCache(tmp_path / "cache", 2 * part_bytes(features)), seconds=0.1)
    batches = loaded(cached, local_plan(features, None))
    next(batches)
    assert fetchers()
    batches.close()
    assert not fetchers()


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
