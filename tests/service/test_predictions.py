"""Reliability and accuracy by class of a run's test predictions."""

from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest

from pipeline.storage.arrow_files import write_table
from pipeline.storage.store_path import StorePath
from tests.support.http_client import RUN, get, walk
from tests.support.serving import serving

HEADS = ["fused", "sound", "sight", "touch"]
LABELS, PREDICTED = [0, 0, 1, 1, 2], [0, 1, 1, 1, 0]
CONFIDENCES = [0.5, 0.75, 0.75, 1.0, 0.25]


def written(**changes: object) -> pa.Table:
    """Five test samples, the same predictions by all heads; the first one lacks `touch`."""
    columns: dict[str, object] = {"row": np.arange(5), "label": pa.array(LABELS, pa.int32())}
    for head in HEADS:
        columns[f"predicted_{head}"] = pa.array(PREDICTED, pa.int32())
        columns[f"p_predicted_{head}"] = pa.array(CONFIDENCES, pa.float32())
    own = [float("nan"), *CONFIDENCES[1:]]
    columns["p_predicted_touch"] = pa.array(own, pa.float32())
    return pa.table({**columns, **changes})


def put(store: Path, table: pa.Table) -> None:
    write_table(StorePath.at(store / RUN.removeprefix("/v1/") / "test.arrow"), table)


def test_bins_and_classes_are_counted_from_the_test_predictions(store: Path) -> None:
    with serving(store) as url, httpx.Client(base_url=url) as client:
        put(store, written())
        found = get(client, f"{RUN}/predictions?bins=4")
        assert (found["num_rows"], found["num_classes"], [*found["heads"]]) == (5, 3, HEADS)
        assert found["heads"]["fused"] == {
            "num_rows": 5,
            "accuracy": 0.6,
            "confidence": 0.65,
            # bins of 0.25, 0.5, and 0.75 to 1: (|0 - 0.25| + |1 - 0.5| + |2 - 2.5|) / 5
            "calibration_error": 0.25,
            "bins": [
                {"low": 0, "high": 0.25, "num_rows": 0, "confidence": None, "accuracy": None},
                {"low": 0.25, "high": 0.5, "num_rows": 1, "confidence": 0.25, "accuracy": 0},
                {"low": 0.5, "high": 0.75, "num_rows": 1, "confidence": 0.5, "accuracy": 1},
                {
                    "low": 0.75,
                    "high": 1,
                    "num_rows": 3,
                    "confidence": pytest.approx(2.5 / 3),
                    "accuracy": pytest.approx(2 / 3),
                },
            ],
        }
        assert found["heads"]["touch"]["num_rows"] == 4
        page = get(client, f"{RUN}/predictions/classes?start=0&limit=2")
        assert [item["label"] for item in page["items"]] == [0, 1] and page["next"]
        classes = list(walk(client, f"{RUN}/predictions/classes?limit=2"))
        assert [(c["label"], *c["heads"]["fused"].values()) for c in classes] == [
            (0, 2, 1, 0.5),
            (1, 2, 2, 1.0),
            (2, 1, 0, 0.0),
        ]
        assert [[*c["heads"]["touch"].values()] for c in classes] == [
            [1, 0, 0.0],
            [2, 2, 1.0],
            [1, 0, 0.0],
        ]


def test_trained_runs_agree_with_their_results(client: httpx.Client) -> None:
    run, found = get(client, RUN), get(client, f"{RUN}/predictions")
    for head in HEADS:
        assert found["heads"][head]["accuracy"] == pytest.approx(run["test_accuracy"][head])
    assembled = run["assembled"]["test_accuracy"]
    assert found["heads"]["assembled"]["accuracy"] == pytest.approx(assembled["fused"])
    assert found["heads"]["assembled_touch"]["accuracy"] == pytest.approx(assembled["touch"])
    classes = list(walk(client, f"{RUN}/predictions/classes"))
    assert [c["heads"]["sight"]["num_correct"] for c in classes] == [
        counts[label] for label, counts in enumerate(run["confusion"]["sight"])
    ]


def test_predictions_that_cannot_be_counted_are_named(store: Path) -> None:
    test = store / RUN.removeprefix("/v1/") / "test.arrow"
    with serving(store) as url, httpx.Client(base_url=url) as client:
        hostile = pa.array([2**31 - 1, 0, 1, 1, 2], pa.int32())
        above = pa.array([1.5, *CONFIDENCES[1:]], pa.float32())
        for change in ({"label": hostile}, {"p_predicted_sight": above}):
            put(store, written(**change))
            problem = get(client, f"{RUN}/predictions", 500)
            assert problem["type"] == "urn:remix:damaged" and "test.arrow" in problem["detail"]
        test.unlink()
        assert get(client, f"{RUN}/predictions/classes", 404)["status"] == 404
