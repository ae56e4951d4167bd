"""The node cache under loaders and runs: same batches and weights, prefetching in order, errors."""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, DataError
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.config import PlanConfig
from pipeline.plans.plan import BatchPlan
from pipeline.plans.planner import build, remix_plan_builder
from pipeline.scores.table import Scores
from pipeline.storage.node_cache import NodeCache
from pipeline.storage.store_path import StorePath
from tests.support.cached_features import damaged, downloads, part_bytes, remote, wait_for
from tests.support.plan_tables import scores_table
from tests.support.refusals import refused
from tests.support.stores import bytes_at_once, make_features, run_config, same_weights
from tests.system.test_s3 import upload
from trainer.data.part_prefetcher import Prefetcher
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
    """A plan of all rows with random costs."""
    costs = np.random.default_rng(0).random((features.num_rows, len(features.modalities)))
    scores = Scores(scores_table(costs, names=features.modalities))
    return build(remix_plan_builder(scores, PlanConfig(locality=locality), 16, 0, 0))


@pytest.mark.parametrize("locality", [None, 128])
@pytest.mark.parametrize("num_parts", [0, 1, 4, 50])
def test_batches_do_not_depend_on_the_cache(
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
        world = World(rank=rank, size=world_size, node_size=world_size)
        ranks.append(loaded(cached, plan, world))
    assert sum(1 for _ in zip(*ranks, strict=True)) == len(plan)
    assert list(downloads(cached).values()) == [1] * 36


def test_a_plan_without_locality_larger_than_the_cache_evicts_nothing(
    features: FeatureSet, tmp_path: Path
) -> None:
    cached = remote(features, NodeCache(tmp_path / "cache", 10 * part_bytes(features), keep=True))
    plan = local_plan(features, None)
    assert sum(1 for _ in loaded(cached, plan)) == len(plan)
    first = {path.name for path in (tmp_path / "cache").iterdir()}
    assert len(first) >= 10
    assert sum(1 for _ in loaded(cached, plan)) == len(plan)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == first
    num = downloads(cached)
    for name, part in product(features.modalities, range(12)):
        if features.file_of(name, part).sha256 in first:
            assert num[f"{name}/part-{part:05d}.arrow"] == 1


def fetchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "part-fetcher"]


def test_parts_are_prefetched_in_order_up_to_half_of_the_cache(
    features: FeatureSet, tmp_path: Path
) -> None:
    cached = remote(features, NodeCache(tmp_path / "cache", 8 * part_bytes(features)))
    order = np.random.default_rng(0).permutation(12).tolist()
    names = [f"sight/part-{part:05d}.arrow" for part in order]
    steps = [[("sight", np.arange(64 * part, 64 * part + 64))] for part in order]
    with Prefetcher(cached, steps) as ahead:
        for num_ahead in range(4, 16):
            wait_for(lambda num=num_ahead: len(downloads(cached)) >= min(num, 12))
            time.sleep(0.02)  # long enough for an unwanted download
            assert list(downloads(cached)) == names[:num_ahead]
            ahead.advance(num_ahead - 4)
    assert not fetchers()


def test_an_error_of_the_prefetching_thread_ends_thread_and_loader(
    made: FeatureSet, tmp_path: Path
) -> None:
    cached = remote(damaged(made, tmp_path / "features", 5), NodeCache(tmp_path / "cache", 2**30))
    with pytest.raises(DataError, match=r"part-00005\.arrow"):
        list(loaded(cached, local_plan(made, None)))
    wait_for(lambda: not fetchers())
    steps = [[("sound", np.array([64 * part]))] for part in (0, 1, 5)]
    with pytest.raises(DataError, match=r"part-00005\.arrow"), Prefetcher(cached, steps) as ahead:
        wait_for(lambda: not fetchers())
        ahead.advance(0)


def test_the_prefetching_thread_ends_with_a_loader_that_is_closed_early(
    features: FeatureSet, tmp_path: Path
) -> None:
    cached = remote(features, NodeCache(tmp_path / "cache", 2 * part_bytes(features)), seconds=0.1)
    batches = loaded(cached, local_plan(features, None))
    next(batches)
    assert fetchers()
    batches.close()
    assert not fetchers()


@pytest.mark.slow
def test_weights_of_runs_on_s3_do_not_depend_on_the_cache_and_an_invalid_cache_stops_a_run(
    s3: Callable[[], str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri, store = s3(), tmp_path / "store"
    make_features(store / "features" / "made", missing=0.2)
    upload(store, uri)
    short, sizes = {"epochs": 2, "warmup_epochs": 1}, (2**30, 60_000, 0)
    local = launch(run_config(store, train=short))
    for size in sizes:
        resources = {"cache_dir": str(tmp_path / f"cache-{size}"), "cache_size": size}
        run = launch(run_config(uri, name=f"run-{size}", train=short, resources=resources))
        assert same_weights(local, run)
    total = sum(path.stat().st_size for path in store.rglob("part-*"))
    large, small, none = (bytes_at_once(tmp_path / f"cache-{size}") for size in sizes)
    assert large == total and 0 < small <= 60_000 and none == 0
    warnings = [record.getMessage() for record in caplog.records if record.name == "remix.cache"]
    assert len(warnings) == 2
    for name in (f"{total / 1e9:.3g}", "plan.locality", "null", "resources.cache_size", "6e-05"):
        assert name in warnings[0]
    (tmp_path / "cache-0" / "thesis.tex").write_text("mine")
    resources = {"cache_dir": str(tmp_path / "cache-0")}
    with refused(ConfigError, file="thesis.tex"):
        launch(run_config(uri, name="refused", train=short, resources=resources))
    names = {entry.name for entry in (StorePath.at(uri) / "runs").list()}
    assert names == {f"run-{size}" for size in sizes}
