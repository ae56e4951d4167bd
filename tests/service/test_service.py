"""The service returns the content of the files of a real store."""

import json
import re
from pathlib import Path

import httpx
import pyarrow as pa
import pytest

from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import read_table, write_table
from pipeline.storage.metadata import fingerprint
from pipeline.storage.schemas import REJECTED
from pipeline.storage.store_path import StorePath
from service.http.formats import ARROW
from tests.support.http_client import PLAN, RUN, get, walk
from tests.support.serving import serving
from tests.support.stores import make_features
from trainer.run_directory import Run


def test_runs_match_their_files(client: httpx.Client, run: Run) -> None:
    listed = get(client, "/v1/runs")
    names = [f"demo-{method}-seed0" for method in ("joint", "remix", "unimodal")]
    assert [item["name"] for item in listed["items"]] == names
    assert listed["next"] is None
    detail, run_json = get(client, RUN), run.metadata
    result, epochs = run_json["result"], run.epochs().to_pylist()
    assert detail["status"] == "finished"
    assert detail["test_accuracy"] == result["test_accuracy"]
    best = epochs[result["best_epoch"]]
    assert detail["best"] == {
        "epoch": best["epoch"],
        "metric": "loss",
        "value": best["calibrated_loss"],
        "validation_accuracy": best["validation_accuracy"],
        "in_warmup": False,
    }
    keys = ("readout", "epochs", "validation_loss", "test_accuracy")
    assert detail["assembled"] == {key: result["assembled"][key] for key in keys}
    assert detail["metrics"] == result["metrics"]
    assert detail["confusion"] == result["confusion"]
    assert detail["stopped_epoch"] is None
    assert (detail["plans"], detail["scores"]) == ([0, 1, 2, 3], [2, 3])
    assert detail["config"] == {
        key: value for key, value in run_json["config"].items() if key != "store"
    }
    assert {key: value for key, value in detail.items() if key in listed["items"][1]} == listed[
        "items"
    ][1]


def test_epochs_match_the_table(client: httpx.Client, run: Run) -> None:
    rows = run.epochs().to_pylist()
    items = list(walk(client, f"{RUN}/epochs?limit=3"))
    assert len(items) == len(rows) == 4
    for item, row in zip(items, rows, strict=True):
        plain = "epoch policy num_steps num_rows train_loss validation_accuracy churn"
        plain += " calibrated_loss temperature macro_f1 best_epoch"
        assert all(item[key] == row[key] for key in plain.split())
        own = "share train_accuracy validation_accuracy gradient_cosine zero_mask_accuracy"
        own += " calibrated_loss temperature best_epoch"
        for name in ("sound", "sight", "touch"):
            assert item["modalities"][name] == {key: row[f"{key}_{name}"] for key in own.split()}
        stages = ("score", "plan", "load", "step", "validate", "epoch")
        assert item["seconds"] == {key: row[f"{key}_seconds"] for key in stages}


def test_the_best_epoch_is_that_of_the_metric_and_warm_up_is_flagged(store: Path, run: Run) -> None:
    copy, epochs = Run.open(StorePath.at(store / "runs" / "demo-remix-seed0")), run.epochs()
    config = copy.metadata["config"]
    train = {**config["train"], "select": {"metric": "macro_f1", "from": "start"}}
    copy.update(config={**config, "train": train}, status="running", result=None)
    column = epochs.column_names.index("best_epoch")
    write_table(
        copy.path / "epochs.arrow",
        epochs.set_column(column, "best_epoch", pa.array([0.0, 1.0, 1.0, 1.0])),
    )
    with serving(store) as url, httpx.Client(base_url=url) as client:
        detail = get(client, RUN)
        row = epochs.to_pylist()[1]
        assert detail["best"] == {
            "epoch": 1,
            "metric": "macro_f1",
            "value": row["macro_f1"],
            "validation_accuracy": row["validation_accuracy"],
            "in_warmup": True,
        }
        assert (detail["test_accuracy"], detail["assembled"]) == (None, None)


def test_plans_and_statistics_match_their_files(client: httpx.Client, run: Run) -> None:
    items = list(walk(client, f"{RUN}/plans?limit=2"))
    assert [(item["epoch"], item["policy"], item["has_scores"]) for item in items] == [
        (0, "joint", False),
        (1, "joint", False),
        (2, "kl", True),
        (3, "kl", True),
    ]
    for item in items:
        epoch = item["epoch"]
        plan, stats = BatchPlan.open(run.plan(epoch)), run.plan_stats(epoch).read_json()
        detail = get(client, f"{RUN}/plans/{epoch}")
        assert detail | item == detail
        assert detail["fingerprint"] == plan.fingerprint
        assert detail["parents"] == plan.metadata["parents"]
        assert detail["num_steps"] == len(plan)
        assert detail["bytes"] == run.plan(epoch).info().size
        assert get(client, f"{RUN}/plans/{epoch}/stats") == stats


def test_pages_of_steps_match_the_plan(client: httpx.Client, run: Run) -> None:
    plan = BatchPlan.open(run.plan(2))
    steps = [
        {"step": step.step, "modality": step.modality, "rows": step.rows.tolist()}
        for step in plan.steps()
    ]
    assert get(client, f"{PLAN}/steps")["items"] == steps
    for limit in (1, 2, 5):
        assert list(walk(client, f"{PLAN}/steps?limit={limit}")) == steps
        for modality in ("sound", "sight", "touch"):
            expected = [step for step in steps if step["modality"] == modality]
            assert expected
            assert list(walk(client, f"{PLAN}/steps?limit={limit}&modality={modality}")) == expected
    assert get(client, f"{PLAN}/steps?start=3&limit=2")["items"] == steps[3:5]
    assert get(client, f"{PLAN}/steps?start=2000000000") == {"items": [], "next": None}
    detail = get(client, f"{PLAN}/steps?modality=smell", 404)["detail"]
    assert all(name in detail for name in ("sound", "sight", "touch"))


def test_steps_as_arrow_match_the_plan_and_its_metadata(client: httpx.Client, run: Run) -> None:
    plan = BatchPlan.open(run.plan(2))

    def steps(query: str, accept: str = ARROW) -> pa.Table:
        response = client.get(f"{PLAN}/steps{query}", headers={"Accept": accept})
        assert response.headers["content-type"] == ARROW
        return pa.ipc.open_stream(response.content).read_all()

    table = steps("")
    assert table.equals(plan.table, check_metadata=True)
    assert fingerprint(table, plan.metadata) == plan.fingerprint
    assert steps("?start=2&limit=3").equals(plan.table.slice(2, 3))
    one = steps("?modality=touch", f"{ARROW};q=0.9, application/json;q=0.1")
    assert set(one["modality"].to_pylist()) == {"touch"}
    preferred = {"Accept": f"application/json, {ARROW};q=0.5"}
    response = client.get(f"{PLAN}/steps", headers=preferred)
    assert response.headers["content-type"] == "application/json"


def test_histograms_match_the_statistics(client: httpx.Client, run: Run) -> None:
    stored = run.plan_stats(3).read_json()["histograms"]
    histogram = get(client, f"{RUN}/scores/3/histogram")
    scores = Scores.open(run.scores(3))
    assert (histogram["num_rows"], histogram["num_classes"]) == (len(scores), 3)
    for name, histograms in histogram["modalities"].items():
        assert histograms["num_missing"] == stored[name]["num_missing"]
        for what in ("kl", "difficulty"):
            assert histograms[what] == stored[name][what] | {"assigned": None}
    few = get(client, f"{RUN}/scores/3/histogram?bins=3")["modalities"]["touch"]["kl"]
    assert len(few["counts"]) == 3
    assert sum(few["counts"]) + histogram["modalities"]["touch"]["num_missing"] == len(scores)
    assert re.search(r"(?<![\w-])0\b", get(client, f"{RUN}/scores/0/histogram", 404)["detail"])


def test_the_history_of_a_sample_matches_a_scan(
    client: httpx.Client, run: Run, trained_store: Path
) -> None:
    features = FeatureSet.open(StorePath.at(trained_store / "features" / "made"))
    plans = {
        epoch: {
            row: step
            for step in BatchPlan.open(run.plan(epoch)).steps()
            for row in step.rows.tolist()
        }
        for epoch in range(4)
    }
    scores = {
        epoch: {row["row"]: row for row in Scores.open(run.scores(epoch)).table.to_pylist()}
        for epoch in (2, 3)
    }
    seen = set()
    for sample in features.samples.to_pylist():
        history = get(client, f"{RUN}/samples/{sample['sample_id']}")
        row = sample["row"]
        for key in ("row", "sample_id", "label", "split", "shard"):
            assert history[key] == sample[key]
        assert history["class_name"] == features.classes[sample["label"]]
        assert history["has"] == {name: sample[f"has_{name}"] for name in features.modalities}
        assert [epoch["epoch"] for epoch in history["epochs"]] == [0, 1, 2, 3]
        for epoch in history["epochs"]:
            step = plans[epoch["epoch"]].get(row)
            expected = (step.step, step.modality) if step else (None, None)
            assert (epoch["step"], epoch["assigned"]) == expected
            scored = scores.get(epoch["epoch"], {}).get(row)
            assert (epoch["modalities"] is None) == (scored is None)
            for name, score in (epoch["modalities"] or {}).items():
                missing = not sample[f"has_{name}"]
                assert score["kl"] == (None if missing else pytest.approx(scored[f"kl_{name}"]))
                assert score["predicted"] == (None if missing else scored[f"predicted_{name}"])
                assert missing or score["difficulty"] == pytest.approx(
                    min(max(1 - score["kl"] / 1.584962500721156, 0), 1)
                )
                seen.add(missing)
    assert seen == {True, False}
    assert "nobody" in get(client, f"{RUN}/samples/nobody", 404)["detail"]
    assert get(client, f"{RUN}/samples/a%2Fb/c", 404)["instance"].endswith("/samples/a/b/c")


def test_features_and_comparisons_match_their_files(
    client: httpx.Client, trained_store: Path
) -> None:
    manifest = json.loads((trained_store / "features" / "made" / "manifest.json").read_text())
    detail = get(client, "/v1/features/made")
    assert all(
        detail[key] == manifest[key] for key in ("classes", "splits", "num_rows", "fingerprint")
    )
    assert detail["modalities"]["touch"]["shape"] == [6, 8]
    assert [item["name"] for item in walk(client, "/v1/features")] == ["made"]
    samples = FeatureSet.open(StorePath.at(trained_store / "features" / "made")).samples.to_pylist()
    listed = list(walk(client, "/v1/features/made/samples?limit=70"))
    assert [(item["row"], item["sample_id"], item["has"]["touch"]) for item in listed] == [
        (row["row"], row["sample_id"], row["has_touch"]) for row in samples
    ]
    assert get(client, "/v1/features/made/samples?start=17&limit=1")["items"] == listed[17:18]
    table = json.loads((trained_store / "comparisons" / "demo" / "table.json").read_text())
    comparison = get(client, "/v1/comparisons/demo")
    assert comparison == {name: table[name] for name in comparison}
    curves = read_table(StorePath.at(trained_store / "comparisons" / "demo" / "curves.arrow"))
    names = ["method", "epoch", "validation_accuracy"]
    points = list(walk(client, "/v1/comparisons/demo/curves?limit=3"))
    assert [{name: point[name] for name in names} for point in points] == curves.select(
        names
    ).to_pylist()
    assert get(client, "/v1/comparisons")["items"] == [
        {
            "name": "demo",
            "status": "finished",
            "methods": ["joint", "unimodal", "remix"],
            "seeds": [0],
        }
    ]


def test_rejected_samples_are_listed_with_their_reasons(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made")
    common = {"shard": "a.tar", "stage": "video", "reason": "truncated", "error": "ends early"}
    rows = [{**common, "sample_id": f"x{i}"} for i in range(5)]
    rejected = StorePath.at(tmp_path / "features" / "made" / "rejected.arrow")
    write_table(rejected, pa.Table.from_pylist(rows, REJECTED))
    with serving(tmp_path) as url, httpx.Client(base_url=url) as client:
        assert list(walk(client, "/v1/features/made/rejected?limit=2")) == rows


def test_the_service_writes_nothing_into_the_store(trained_store: Path) -> None:
    known = {"run": "demo-remix-seed0", "epoch": 2, "sample_id": "s0001", "fingerprint": "0" * 64}
    known |= {"row": 1, "modality": "sound", "suffix": "mp4"}

    def state() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_size)
            for path in trained_store.rglob("*")
        }

    before = state()
    with serving(trained_store) as url, httpx.Client(base_url=url) as client:
        for path in client.get("/openapi.json").json()["paths"]:
            name = "demo" if "comparisons" in path else "made"
            assert client.get(path.format(**known, name=name)).status_code in (200, 404)
    assert state() == before
