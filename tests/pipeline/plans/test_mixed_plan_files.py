"""Files of mixed plans: validation, index, statistics and the command."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import DataError
from pipeline.plans import builder
from pipeline.plans.config import PlanConfig
from pipeline.plans.plan import BatchPlan
from pipeline.plans.planner import build, remix_plan_builder, write_plan
from pipeline.plans.stats import plan_statistics
from pipeline.plans.step_index import STEPS_SCHEMA, step_of, write_step_index
from pipeline.storage.arrow_files import write_table
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.schemas import MIXED_PLAN, PLAN
from pipeline.storage.store_path import StorePath
from tests.support.mixed_plans import Change, Steps, mixed, rewrite, trained, valued
from tests.support.refusals import refused
from tests.support.stores import Command


def put(at: int, value: Any) -> Change:
    """Replace the assignment of the first row of a step."""
    return lambda steps: steps[at]["assigned"].__setitem__(0, value)


def twice(steps: Steps) -> None:
    steps[3]["rows"][0] = steps[1]["rows"][0]


LIES: list[tuple[Change, bool, str]] = [
    (lambda steps: steps[2]["assigned"].pop(), False, "assigned 2 7 8"),
    (put(5, 3), False, "assigned 5 3"),
    (put(0, -2), False, "assigned 0 -2"),
    (put(4, None), True, "assigned"),
    (twice, False, "rows 1 3"),
]


@pytest.mark.parametrize(("change", "plain", "words"), LIES)
def test_invalid_mixed_plan_is_refused(
    tmp_path: Path, change: Change, plain: bool, words: str
) -> None:
    path = StorePath.at(tmp_path / "p.arrow")
    write_plan(path, remix_plan_builder(valued(64, 3), mixed(), 8, 0, 0))
    rewrite(path, lambda steps: None)
    BatchPlan.open(path)
    rewrite(path, change, MIXED_PLAN, plain=plain)  # nothing with nulls has a fingerprint
    with refused(DataError, *words.split(), file=path):
        BatchPlan.open(path)


def test_column_assigned_must_have_its_type(tmp_path: Path) -> None:
    path = StorePath.at(tmp_path / "p.arrow")
    write_plan(path, remix_plan_builder(valued(64, 3), mixed(), 8, 0, 0))
    rewrite(path, lambda steps: None, PLAN.append(pa.field("assigned", pa.list_(pa.int16()))))
    with refused(DataError, "assigned", "int16", "int8", file=path):
        BatchPlan.open(path)


@pytest.mark.parametrize("order", ["sequential", "mixed"])
def test_repeated_rows_require_metadata_copies(tmp_path: Path, order: Any) -> None:
    path = StorePath.at(tmp_path / "p.arrow")
    config = PlanConfig(order=order, copies="resample")
    write_plan(path, remix_plan_builder(valued(64, 3), config, 8, 0, 0))
    BatchPlan.open(path, num_rows=200)
    with refused(DataError, "rows", 100, file=path):
        BatchPlan.open(path, num_rows=100)
    rewrite(path, lambda steps: None, without="copies")
    with refused(DataError, "rows", file=path):
        BatchPlan.open(path)


def test_step_index_has_the_first_step_of_a_repeated_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "CHUNK_ROWS", 64)
    for order in ("interleaved", "mixed"):
        config = PlanConfig(order=order, copies="resample")
        plan = build(remix_plan_builder(valued(300, 3), config, 8, 0, 0))
        path = StorePath.at(tmp_path / "i.arrow")
        write_step_index(path, plan, 1000)
        first: dict[int, int] = {}
        for step in plan.steps():
            for row in step.rows.tolist():
                first.setdefault(row, step.step)
        index = BatchFile(path, STEPS_SCHEMA)
        for row in range(1000):
            assert step_of(index, row) == first.get(row)


def test_statistics_count_rows_by_their_assignment() -> None:
    scores = valued(900, 3)
    for options in ({}, {"joint_share": 0.3}, {"copies": "resample", "joint_share": 1.0}):
        config = mixed(**options)
        plan = build(remix_plan_builder(scores, config, 16, 0, 1))
        previous = build(remix_plan_builder(scores, config, 16, 0, 0))
        statistics = plan_statistics(plan, scores=scores, previous=previous)
        counts: Counter[int] = Counter()
        for (_, owner), num in trained(plan, scores.modalities).items():
            counts[owner] += num
        assert list(statistics["modalities"]) == ["m0", "m1", "m2", "all"]
        for k, name in zip((0, 1, 2, -1), statistics["modalities"], strict=True):
            each = statistics["modalities"][name]
            assert each["num_rows"] == counts[k]
            assert each["num_steps"] == (len(plan) if k < 0 else 0)
            assert each["share"] == pytest.approx(counts[k] / counts.total())
            if "copies" not in options:
                assignment = dict(trained(plan, scores.modalities).keys())
                mine = scores.labels[[assignment[row] == k for row in scores.rows.tolist()]]
                assert each["class_counts"] == np.bincount(mine, minlength=5).tolist()
        assert (
            statistics["num_rows"] == counts.total() == sum(len(step.rows) for step in plan.steps())
        )
        assert statistics["num_switches"] == 0
        assert statistics["churn"] == (None if "joint_share" in options else 0.0)


def test_the_command_accepts_all_options_of_mixed_plans(tmp_path: Path, command: Command) -> None:
    scores = valued(200, 3)
    source, out = tmp_path / "s.arrow", tmp_path / "p.arrow"
    write_table(StorePath.at(source), scores.table)
    options = "--order mixed --joint-share 0.4 --copies resample --batch-size 16 --seed 3 --epoch 5"
    options = options.split()
    code, statistics, err = command("plan", source, "--out", out, *options, "--json")
    assert code == 0, err
    wanted = build(remix_plan_builder(scores, mixed(joint_share=0.4, copies="resample"), 16, 3, 5))
    assert json.loads(statistics)["fingerprint"] == wanted.fingerprint
    assert BatchPlan.open(out).fingerprint == wanted.fingerprint
    assert command("stats", out, "--scores", source)[0] == 0
    write_table(StorePath.at(source), scores.table.drop_columns(["shapley_m2"]))
    code, _, err = command("plan", source, "--out", tmp_path / "no.arrow", *options)
    assert (code, "shapley_m2" in err) == (2, True), err
    assert not (tmp_path / "no.arrow").exists()
    code, _, err = command("plan", source, "--out", tmp_path / "no.arrow", "--joint-share", 1.5)
    assert (code, "joint_share" in err) == (2, True), err
