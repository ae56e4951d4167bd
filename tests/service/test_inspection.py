"""Points, ranked lists and moves agree with what the Arrow files contain, of three modalities."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import write_table
from pipeline.storage.store_path import StorePath
from tests.support.http_client import RUN, get, walk
from tests.support.pages import copy_run, replan
from tests.support.serving import serving
from trainer.run_directory import Run

NAMES = ("sound", "sight", "touch")
HEADS = [f"predicted_{head}" for head in ("fused", *NAMES)]
BITS = np.log2(3)


@pytest.fixture(scope="module")
def samples(trained_store: Path) -> list[dict[str, Any]]:
    features = FeatureSet.open(StorePath.at(trained_store / "features" / "made"))
    rows: list[dict[str, Any]] = features.samples.to_pylist()
    return rows


def assigned(run: Run, epoch: int) -> dict[int, str]:
    """The modality that each planned row trains."""
    plan = BatchPlan.open(run.plan(epoch))
    return {row: step.modality for step in plan.steps() for row in step.rows.tolist()}


def difficulties(run: Run, epoch: int) -> dict[int, dict[str, float | None]]:
    """Difficulty of each scored row by modality."""
    return {
        row["row"]: {
            name: None
            if np.isnan(row[f"kl_{name}"])
            else min(max(1 - row[f"kl_{name}"] / BITS, 0), 1)
            for name in NAMES
        }
        for row in Scores.open(run.scores(epoch)).table.to_pylist()
    }


def test_points_are_the_scores_of_the_same_samples_in_each_epoch(
    client: httpx.Client, run: Run, samples: list[dict[str, Any]]
) -> None:
    every = {epoch: get(client, f"{RUN}/scores/{epoch}/points") for epoch in (2, 3)}
    scores = {row["row"]: row for row in Scores.open(run.scores(3)).table.to_pylist()}
    expected, plan, points = difficulties(run, 3), assigned(run, 3), every[3]
    assert points["row"] == sorted(expected)
    assert points["sample_id"] == [samples[row]["sample_id"] for row in points["row"]]
    assert points["label"] == [samples[row]["label"] for row in points["row"]]
    assert points["assigned"] == [plan[row] for row in points["row"]]
    assert set(points["assigned"]) == set(NAMES)
    for name in NAMES:
        own = [expected[row][name] for row in points["row"]]
        assert None in own or name == "sound"
        shown = points["difficulty"][name]
        assert [value is None for value in shown] == [value is None for value in own]
        assert [v for v in shown if v is not None] == pytest.approx(
            [v for v in own if v is not None], abs=1e-4
        )
        assert points["correct"][name] == [
            None if value is None else scores[row][f"predicted_{name}"] == scores[row]["label"]
            for row, value in zip(points["row"], own, strict=True)
        ]
    few = {epoch: get(client, f"{RUN}/scores/{epoch}/points?limit=40") for epoch in (2, 3)}
    assert few[2]["row"] == few[3]["row"] != points["row"][:40]
    assert few[2]["difficulty"] != few[3]["difficulty"]
    counts, drawn = Counter(plan.values()), Counter(few[3]["assigned"])
    assert (few[3]["num_rows"], few[3]["num_points"]) == (len(expected), 40)
    assert few[3]["counts"] == [
        {"assigned": name, "num_rows": counts[name], "num_points": drawn[name]} for name in NAMES
    ]
    get(client, f"{RUN}/scores/0/points", 404)


def test_the_hardest_samples_are_those_of_the_scores(
    client: httpx.Client, run: Run, samples: list[dict[str, Any]]
) -> None:
    expected = difficulties(run, 3)
    url = f"{RUN}/scores/latest/hardest"
    for modality in (None, "touch"):
        values = {
            row: float(
                np.mean([v for k, v in own.items() if v is not None and k == (modality or k)])
            )
            for row, own in expected.items()
            if modality is None or own[modality] is not None
        }
        for class_name in (None, "c1"):
            chosen = [row for row in values if class_name in (None, f"c{samples[row]['label']}")]
            query = f"limit=17{f'&modality={modality}' if modality else ''}"
            query += f"&class={class_name}" if class_name else ""
            items = list(walk(client, f"{url}?{query}"))
            assert {item["row"] for item in items} == set(chosen)
            ranked = [item["value"] for item in items]
            assert ranked == sorted(ranked, reverse=True)
            assert ranked == pytest.approx([values[item["row"]] for item in items])
            page = get(client, f"{url}?{query}")
            assert (page["num_rows"], page["epoch"], page["split"]) == (len(chosen), 3, "train")
    first = get(client, f"{url}?limit=1")["items"][0]
    sample = samples[first["row"]]
    assert (first["sample_id"], first["class_name"]) == (
        sample["sample_id"],
        f"c{sample['label']}",
    )
    assert first["difficulty"] == pytest.approx(expected[first["row"]])
    none = get(client, f"{url}?split=test")
    assert (none["items"], none["num_rows"], none["next"]) == ([], 0, None)
    assert "train" in none["reason"]
    assert "smell" in get(client, f"{url}?modality=smell", 404)["detail"]
    assert "c9" in get(client, f"{url}?class=c9", 404)["detail"]


def test_changes_are_counted_over_all_plans(store: Path, samples: list[dict[str, Any]]) -> None:
    run = copy_run(store, "again")
    features = FeatureSet.open(StorePath.at(store / "features" / "made"))
    replan(run, features, batch_size=2)
    for kind in ("plan", "plan_stats", "plan_index"):
        for epoch, source in ((4, 2), (5, 3)):
            getattr(run, kind)(epoch).write_bytes(getattr(run, kind)(source).read_bytes())
    plans = [assigned(run, epoch) for epoch in range(2, 6)]
    changes = {row: sum(a[row] != b[row] for a, b in pairwise(plans)) for row in plans[0]}
    expected = {row: num for row, num in changes.items() if num}
    assert set(expected.values()) == {3}
    assert 0 < len(expected) < len(changes)
    with serving(store) as url, httpx.Client(base_url=url) as client:
        items = list(walk(client, "/v1/runs/again/changes?limit=9"))
        assert {item["row"]: item["num_changes"] for item in items} == expected
        assert all(item["assigned"] == plans[-1][item["row"]] for item in items)
        assert all(item["sample_id"] == samples[item["row"]]["sample_id"] for item in items)
        page = get(client, "/v1/runs/again/changes?class=c2&split=train")
        own = [row for row in expected if samples[row]["label"] == 2]
        assert sorted(item["row"] for item in page["items"]) == sorted(own)
        assert (page["num_rows"], page["num_plans"]) == (len(own), 6)
        run.plan(4).write_bytes(b"")
        assert "epoch-0004" in get(client, "/v1/runs/again/changes", 500)["detail"]


def test_mistakes_are_the_wrong_predictions_of_the_test_split(
    client: httpx.Client, run: Run, samples: list[dict[str, Any]]
) -> None:
    wrong = [row for row in run.test().to_pylist() if row["predicted_fused"] != row["label"]]
    wrong.sort(key=lambda row: (-row["p_predicted_fused"], row["row"]))
    assert wrong
    items = list(walk(client, f"{RUN}/mistakes?limit=5"))
    assert [(item["row"], item["predicted"], item["label"]) for item in items] == [
        (row["row"], row["predicted_fused"], row["label"]) for row in wrong
    ]
    for item, row in zip(items, wrong, strict=True):
        assert item["p_label"] == pytest.approx(row["p_label_fused"])
        assert item["p_predicted"] == pytest.approx(row["p_predicted_fused"])
        names = (item["class_name"], item["predicted_name"])
        assert names == (f"c{row['label']}", f"c{row['predicted_fused']}")
        assert samples[row["row"]]["split"] == "test"
        assert item["right"] == [
            name
            for name in NAMES
            if samples[row["row"]][f"has_{name}"] and row[f"predicted_{name}"] == row["label"]
        ]
    label = wrong[0]["label"]
    page = get(client, f"{RUN}/mistakes?class=c{label}&split=test")
    assert page["num_rows"] == sum(row["label"] == label for row in wrong)
    assert "test" in get(client, f"{RUN}/mistakes?split=validation")["reason"]


def test_confident_mistakes_come_first_and_equal_ones_by_row(store: Path) -> None:
    path = StorePath.at(store / RUN.removeprefix("/v1/") / "test.arrow")
    columns = {"row": np.arange(4), "sample_id": [f"s{row:04d}" for row in range(4)]}
    columns |= {name: pa.array([0] * 4, pa.int32()) for name in ("label", *HEADS[1:])}
    columns[HEADS[0]] = pa.array([1, 1, 0, 2], pa.int32())
    columns["p_label_fused"] = pa.array([0.3, 0.25, 0.9, 0.1], pa.float32())
    columns["p_predicted_fused"] = pa.array([0.5, 0.75, 0.9, 0.75], pa.float32())
    write_table(path, pa.table(columns))
    with serving(store) as url, httpx.Client(base_url=url) as client:
        items = get(client, f"{RUN}/mistakes")["items"]
    assert [(item["row"], item["p_predicted"]) for item in items] == [
        (1, 0.75),
        (3, 0.75),
        (0, 0.5),
    ]


def test_moves_between_two_plans(
    client: httpx.Client, run: Run, samples: list[dict[str, Any]]
) -> None:
    before, after = assigned(run, 2), assigned(run, 3)
    moved = {row: (before[row], after[row]) for row in before if before[row] != after[row]}
    assert moved
    response = get(client, f"{RUN}/plans/2/moves?to=3&limit=1000")
    assert (response["num_rows"], response["num_moved"]) == (len(before), len(moved))
    assert {
        (each["before"], each["after"]): each["num_rows"] for each in response["counts"]
    } == Counter((before[row], after[row]) for row in before)
    items = response["items"]
    assert {item["row"]: (item["before"], item["after"]) for item in items} == moved
    assert all(item["sample_id"] == samples[item["row"]]["sample_id"] for item in items)
    stats = get(client, f"{RUN}/plans/3/stats")
    assert stats["churn"] == pytest.approx(len(moved) / len(before))
    few = get(client, f"{RUN}/plans/2/moves?to=latest&limit=3")
    assert [item for item in items if item in few["items"]] == few["items"]
    assert len(few["items"]) == 3
    warm = get(client, f"{RUN}/plans/1/moves?to=3")["counts"]
    assert {each["before"] for each in warm} == {"all"}
    assert "9" in get(client, f"{RUN}/plans/2/moves?to=9", 404)["detail"]
