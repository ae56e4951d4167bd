"""Metrics by class of the test split, compared with their definitions."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from pipeline.features.feature_set import FeatureSet
from tests.support.stores import make_features
from trainer.process_group import World
from trainer.scoring.metrics import MAX_CONFUSION_CLASSES, ClassMetrics

SHAPES = {"touch": ((2,), "float32"), "pulse": ((2,), "float32")}


def made(folder: Path, num_classes: int) -> FeatureSet:
    return make_features(folder, SHAPES, num_rows=400, num_classes=num_classes, missing=0.5)


def predicted(features: FeatureSet, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Random probabilities by head, that favour the label."""
    rng, num = np.random.default_rng(0), len(features.classes)
    by_head = {}
    for head in ("fused", *features.modalities):
        logits = rng.normal(size=(len(rows), num))
        logits[np.arange(len(rows)), features.labels[rows]] += 1
        p = np.exp(logits)
        by_head[head] = (p / p.sum(axis=1, keepdims=True)).astype(np.float32)
    return by_head


def area(scores: np.ndarray, positive: np.ndarray) -> float:
    """The share of the pairs of a positive and a negative row that the scores order correctly."""
    pairs = [(a > b) + 0.5 * (a == b) for a, b in product(scores[positive], scores[~positive])]
    return float(np.mean(pairs))


def test_metrics_are_those_of_their_definitions(tmp_path: Path) -> None:
    features = made(tmp_path / "features", 4)
    # class 3 is no label here, but it is predicted
    rows = np.flatnonzero(features.labels != 3)
    by_head, metrics = predicted(features, rows), ClassMetrics(features, World(), auroc=True)
    for part in np.array_split(np.arange(len(rows)), 5):
        metrics.add(rows[part], {head: p[part] for head, p in by_head.items()})
    result = metrics.result()
    assert [*result["metrics"]] == [*result["confusion"]] == ["fused", "touch", "pulse"]
    for k, (head, p) in enumerate(by_head.items()):
        present = features.has[rows, k - 1] if k else np.full(len(rows), True)
        p, labels = p[present], features.labels[rows][present]
        matrix = np.zeros((4, 4), int)
        np.add.at(matrix, (labels, p.argmax(axis=1)), 1)
        assert result["confusion"][head] == matrix.tolist()
        right, own, shown = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
        assert shown[3] > 0
        areas = [area(p[:, name], labels == name) for name in range(3)]
        measured = result["metrics"][head]
        assert measured.pop("auroc") == pytest.approx(np.mean(areas), abs=2e-3)
        assert measured == pytest.approx(
            {
                "accuracy": right.sum() / len(labels),
                "macro_f1": (2 * right / (own + shown)).mean(),
                "balanced_accuracy": (right[:3] / own[:3]).mean(),
            }
        )


def test_many_classes_have_metrics_without_a_matrix(tmp_path: Path) -> None:
    features = made(tmp_path / "features", MAX_CONFUSION_CLASSES + 1)
    rows = np.arange(400)
    by_head, metrics = predicted(features, rows), ClassMetrics(features, World(), auroc=True)
    metrics.add(rows, by_head)
    result = metrics.result()
    assert [*result] == ["metrics"]
    areas = [area(p, features.labels == k) for k, p in enumerate(by_head["fused"].T)]
    assert result["metrics"]["fused"]["auroc"] == pytest.approx(np.mean(areas), abs=2e-3)


def test_a_head_without_rows_has_no_metrics(tmp_path: Path) -> None:
    features = made(tmp_path / "features", 3)
    rows = np.flatnonzero(~features.has[:, 1])
    metrics = ClassMetrics(features, World(), auroc=False)
    metrics.add(rows, predicted(features, rows))
    result = metrics.result()
    assert [*result["metrics"]] == ["fused", "touch"]
    assert "auroc" not in result["metrics"]["fused"]
