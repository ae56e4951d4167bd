"""Runs with mixed plans: training follows them, faults are reported, the service shows them."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan
from pipeline.storage.store_path import StorePath
from tests.support.mixed_plans import METHODS, Steps, rewrite, trained
from tests.support.serving import serving
from tests.support.stores import check_coverage, make_features, run_config
from trainer.comparison.methods import with_method
from trainer.launch import launch
from trainer.run_directory import Run
from trainer.verification.verify import verify


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run of each method; read only."""
    store = tmp_path_factory.mktemp("store")
    make_features(store / "features" / "made", missing=0.2, num_rows=120)
    for method in METHODS:
        launch(with_method(run_config(store, train={"epochs": 3, "warmup_epochs": 1}), method, 0))
    return store


def run_of(store: Path, method: str) -> Run:
    return Run.open(StorePath.at(store / "runs" / with_method(run_config(store), method, 0).name))


@pytest.mark.parametrize("method", METHODS)
def test_training_follows_the_plans(store: Path, method: str) -> None:
    run, features = (
        run_of(store, method),
        FeatureSet.open(StorePath.at(store / "features" / "made")),
    )
    assert verify(run)["problems"] == []
    check_coverage(run, 3)
    names, epochs = features.modalities, run.epochs().to_pylist()
    for epoch in (1, 2):
        pairs, taken = trained(BatchPlan.open(run.plan(epoch)), names), run.steps(epoch)
        assert epochs[epoch]["num_rows"] == pairs.total()
        for k, name in enumerate(names):
            rows = {pair: num for pair, num in pairs.items() if features.has[pair[0], k]}
            assignments = range(-1, 3) if method == "reassemble" else (-1, k)
            shown = sum(num for (_, owner), num in rows.items() if owner in assignments)
            assert sum(taken[f"num_rows_{name}"].to_pylist()) == shown, (epoch, name)
            share = sum(num for (_, owner), num in pairs.items() if owner == k) / pairs.total()
            assert epochs[epoch][f"share_{name}"] == pytest.approx(share)


def first(steps: Steps, so: Callable[[int], object]) -> tuple[dict[str, Any], int]:
    """The first step with a row whose assignment fulfils a condition, and the row's position."""
    return next((step, i) for step in steps for i, row in enumerate(step["rows"]) if so(row))


def reassigned(steps: Steps, has: np.ndarray) -> None:
    """Assign a row that has all modalities to another one."""
    step, at = first(steps, lambda row: has[row].all())
    step["assigned"][at] = (step["assigned"][at] + 1) % 3


def lacking(steps: Steps, has: np.ndarray) -> None:
    step, at = first(steps, lambda row: not has[row].all())
    step["assigned"][at] = int(np.argmin(has[step["rows"][at]]))


def fewer(steps: Steps, has: np.ndarray) -> None:
    """Remove one copy of a repeated row."""
    num = Counter(row for step in steps for row in step["rows"])
    step, at = first(steps[::-1], lambda row: num[row] > 2)
    for name in {"rows", "assigned"} & step.keys():
        del step[name][at]


FAULTS: list[tuple[str, Callable[[Steps, np.ndarray], object]]] = [
    ("decouple", reassigned),
    ("decouple", lacking),
    ("resample", fewer),
]


@pytest.mark.parametrize(("method", "change"), FAULTS)
def test_a_changed_plan_is_reported(
    store: Path, tmp_path: Path, method: str, change: Callable[[Steps, np.ndarray], object]
) -> None:
    name = run_of(store, method).path.name
    shutil.copytree(store / "features", tmp_path / "features")
    shutil.copytree(store / "runs" / name, tmp_path / "runs" / name)
    run = run_of(tmp_path, method)
    has = FeatureSet.open(StorePath.at(tmp_path / "features" / "made")).has
    rewrite(run.plan(2), lambda steps: None)
    assert verify(run)["problems"] == []
    rewrite(run.plan(2), lambda steps: change(steps, has))
    problems = verify(run)["problems"]
    assert "plans/epoch-0002.arrow" in {each["artifact"] for each in problems}
    assert {each["epoch"] for each in problems} == {2}


@pytest.fixture(scope="module")
def client(store: Path) -> Iterator[httpx.Client]:
    with serving(store) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.mark.parametrize("method", ["decouple", "resample+remix"])
def test_the_service_returns_the_assignment_of_each_row(
    client: httpx.Client, store: Path, method: str
) -> None:
    run = run_of(store, method)
    for epoch in (0, 2):
        base, plan = f"/v1/runs/{run.path.name}/plans/{epoch}", BatchPlan.open(run.plan(epoch))
        items, following = [], f"{base}/steps?limit=3"
        while following:
            page = client.get(following).json()
            items, following = items + page["items"], page["next"]
        assert [{"assigned": None} | each for each in items] == [
            {"assigned": None} | step for step in plan.table.to_pylist()
        ]
        assert (items[0].get("assigned") is not None) == (epoch == 2 and method != "resample+remix")
        stats = run.plan_stats(epoch).read_json()
        assert client.get(f"{base}/stats").json() == stats
        shares = {name: each["share"] for name, each in stats["modalities"].items()}
        assert client.get(base).json()["shares"] == shares
