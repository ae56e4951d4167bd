import json
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import MismatchError
from pipeline.plans.config import PlanConfig
from pipeline.plans.plan import BatchPlan
from pipeline.plans.planner import build, joint_plan_builder, remix_plan_builder
from pipeline.plans.stats import plan_statistics, statistics_at
from pipeline.scores.histograms import score_histograms
from pipeline.scores.table import Scores
from pipeline.storage.store_path import StorePath
from tests.support.plan_tables import arithmetic_costs, scores_table

NUM_CLASSES = 5


def scores_of(num: int = 3000, num_modalities: int = 3) -> Scores:
    costs = arithmetic_costs(num, num_modalities, missing=True)
    return Scores(scores_table(costs, rows=np.arange(num) * 2 + 1, num_classes=NUM_CLASSES))


def plan_of(scores: Scores, epoch: int = 0, **config: object) -> BatchPlan:
    plan_config = PlanConfig.model_validate({"order": "interleaved", **config})
    return build(remix_plan_builder(scores, plan_config, 32, 0, epoch, num_classes=NUM_CLASSES))


@pytest.mark.parametrize(
    ("config", "batch_rows"), [({"locality": 100}, 64), ({"order": "sequential"}, 1)]
)
def test_statistics_equal_a_count_step_by_step(config: dict[str, object], batch_rows: int) -> None:
    scores = scores_of()
    plan, previous = plan_of(scores, **config), plan_of(scores, 1, policy="random")
    statistics = plan_statistics(plan, scores=scores, previous=previous, batch_rows=batch_rows)
    assert json.loads(json.dumps(statistics, allow_nan=False)) == statistics

    steps = list(plan.steps())
    label = dict(zip(scores.rows.tolist(), scores.labels.tolist(), strict=True))
    assert statistics["num_steps"] == len(steps) and statistics["num_rows"] == len(scores)
    for name in scores.modalities:
        own = [step.rows.tolist() for step in steps if step.modality == name]
        rows = [row for batch in own for row in batch]
        num_read = sum(len({row // batch_rows for row in batch}) for batch in own) * batch_rows
        classes = Counter(label[row] for row in rows)
        assert statistics["modalities"][name] == {
            "num_steps": len(own),
            "num_rows": len(rows),
            "share": pytest.approx(len(rows) / len(scores)),
            "read_amplification": pytest.approx(num_read / len(rows)),
            "class_counts": [classes[c] for c in range(NUM_CLASSES)],
        }
    sizes = Counter(len(step.rows) for step in steps)
    assert statistics["batch_sizes"] == {
        "min": min(sizes),
        "max": max(sizes),
        "mean": pytest.approx(len(scores) / len(steps)),
        "counts": {str(size): sizes[size] for size in sorted(sizes)},
    }
    moves = Counter((a.modality, b.modality) for a, b in pairwise(steps))
    assert statistics["transitions"] == {
        a: {b: moves[a, b] for b in scores.modalities} for a in scores.modalities
    }
    assert statistics["num_switches"] == sum(a != b for a, b in moves.elements())
    before, now = (
        {row: step.modality for step in p.steps() for row in step.rows.tolist()}
        for p in (previous, plan)
    )
    assert statistics["churn"] == pytest.approx(np.mean([before[row] != now[row] for row in now]))


def test_a_modality_that_gets_no_row_is_reported() -> None:
    costs = np.stack([np.full(50, 2.0), np.full(50, 1.0)], axis=1)
    statistics = plan_statistics(
        build(remix_plan_builder(Scores(scores_table(costs)), PlanConfig(), 8, 0, 0))
    )
    assert statistics["modalities"]["m0"] == {
        "num_steps": 0,
        "num_rows": 0,
        "share": 0.0,
        "read_amplification": None,
        "class_counts": None,
    }


def test_locality_lowers_read_amplification() -> None:
    global_shuffle, local = (
        plan_statistics(plan_of(scores_of(20_000, 2), locality=locality))["read_amplification"]
        for locality in (None, 256)
    )
    assert local < global_shuffle / 4


def test_histograms_count_every_score_and_those_assigned() -> None:
    scores = scores_of()
    statistics = plan_statistics(plan_of(scores), scores=scores)
    for name in scores.modalities:
        kl, part = scores.kl(name), statistics["histograms"][name]
        assert part["num_missing"] == np.isnan(kl).sum() > 0
        for histogram in (part["kl"], part["difficulty"]):
            assert sum(histogram["counts"]) == (~np.isnan(kl)).sum()
            assert sum(histogram["assigned"]) == statistics["modalities"][name]["num_rows"]
            assert len(histogram["edges"]) == len(histogram["counts"]) + 1
        assert part["kl"]["edges"][-1] == pytest.approx(np.log2(NUM_CLASSES))
        assert part["difficulty"]["mean"] == pytest.approx(
            1 - np.nanmean(kl) / np.log2(NUM_CLASSES), abs=1e-5
        )


def test_histograms_without_a_plan_or_classes() -> None:
    costs = arithmetic_costs(100, 2)
    costs[:, 1] = np.nan
    statistics = score_histograms(Scores(scores_table(costs)), num_bins=7)
    assert json.loads(json.dumps(statistics, allow_nan=False)) == statistics
    assert statistics["m0"]["difficulty"] is None and statistics["m0"]["kl"]["assigned"] is None
    assert (
        len(statistics["m0"]["kl"]["counts"]) == 7 and sum(statistics["m0"]["kl"]["counts"]) == 100
    )
    assert statistics["m1"]["num_missing"] == 100 and statistics["m1"]["kl"]["mean"] is None


def test_a_joint_plan_has_neither_churn_nor_modalities() -> None:
    scores = scores_of(200)
    labels = np.zeros(500, np.int32)
    joint = build(joint_plan_builder(scores.rows, 32, 0, 0, modalities=scores.modalities))
    statistics = plan_statistics(joint, labels=labels, previous=plan_of(scores))
    assert statistics["churn"] is None and statistics["histograms"] is None
    assert list(statistics["modalities"]) == ["all"]
    assert statistics["modalities"]["all"]["class_counts"] == [200]
    assert plan_statistics(plan_of(scores), previous=joint)["churn"] is None
    assert plan_statistics(plan_of(scores), previous=plan_of(scores, 5))["churn"] == 0
    assert plan_statistics(plan_of(scores))["modalities"]["m0"]["class_counts"] is None


@pytest.mark.parametrize("num_steps", [100, 513, 1024])
def test_the_order_of_a_long_plan_is_counted_in_equal_bins(num_steps: int) -> None:
    scores = scores_of(num_steps, 2)
    plan = build(remix_plan_builder(scores, PlanConfig(order="interleaved"), 1, 0, 0))
    order = plan_statistics(plan)["order"]
    edges, num_bins = order["edges"], min(num_steps, 512)
    assert all(type(edge) is int for edge in edges)
    assert (edges[0], edges[-1], len(edges)) == (0, num_steps, num_bins + 1)
    assert max(np.diff(edges)) - min(np.diff(edges)) <= 1
    modalities = [step.modality for step in plan.steps()]
    assert list(order["num_steps"]) == ["m0", "m1"]
    assert order["num_steps"] == {
        name: [modalities[a:b].count(name) for a, b in pairwise(edges)] for name in ("m0", "m1")
    }
    cut = len(plan) // 3
    parts = [plan.table.slice(0, cut), plan.table.slice(cut, 1), plan.table.slice(cut + 1)]
    assert plan_statistics(BatchPlan(pa.concat_tables(parts)))["order"] == order


def test_a_plan_without_steps_has_statistics() -> None:
    plan = plan_of(scores_of(100))
    statistics = plan_statistics(BatchPlan(plan.table.slice(0, 0)))
    assert statistics["order"] == {
        "edges": [0],
        "num_steps": {name: [] for name in ("m0", "m1", "m2")},
    }
    assert json.loads(json.dumps(statistics, allow_nan=False)) == statistics


def test_labels_of_all_rows_and_of_the_scored_rows_count_alike() -> None:
    scores = scores_of(150_000)
    labels = np.full(scores.rows[-1] + 100, NUM_CLASSES - 1, np.int32)
    labels[scores.rows] = scores.labels
    plan = plan_of(scores)
    by_scores, by_labels = (
        plan_statistics(plan, scores=scores),
        plan_statistics(plan, labels=labels),
    )
    assert by_labels["modalities"] == by_scores["modalities"]


def test_churn_compares_common_rows_by_modality_name() -> None:
    costs = arithmetic_costs(100, 2)
    table = scores_table(costs, names=["a", "b"])
    swapped = scores_table(costs[:, ::-1], names=["b", "a"])
    one, other = (
        build(remix_plan_builder(Scores(t), PlanConfig(), 8, 0, 0))
        for t in (table, swapped.slice(0, 60))
    )
    ties = (costs[:60, 0] == costs[:60, 1]).mean()
    assert plan_statistics(one, previous=other)["churn"] == pytest.approx(ties)


def test_statistics_of_a_plan_file_equal_those_of_its_run(
    trained_store: Path, tmp_path: Path
) -> None:
    plans = sorted(trained_store.glob("runs/*/plans/epoch-????.arrow"))
    assert len(plans) == 12
    for plan in plans:
        stored = json.loads(plan.with_suffix(".stats.json").read_text())
        assert json.loads(json.dumps(statistics_at(StorePath.at(plan)))) == stored
    alone = tmp_path / "plan.arrow"
    shutil.copy(next(path for path in reversed(plans) if "remix" in str(path)), alone)
    assert statistics_at(StorePath.at(alone))["churn"] is None
    before = next(path for path in plans if "remix" in str(path) and "0002" in path.name)
    scores = Scores.open(StorePath.at(before.parent.parent / "scores" / before.name))
    with pytest.raises(MismatchError, match=scores.fingerprint[:12]):
        statistics_at(StorePath.at(alone), scores)
