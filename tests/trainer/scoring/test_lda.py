"""Out-of-fold heads: compared with discriminants fitted one by one, for any batches."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import RemixError
from pipeline.scores.build import join_scores, score_rows
from tests.support.stores import make_features, run_config
from trainer.data.inputs import Inputs
from trainer.models.checkpoint import architecture
from trainer.models.model import model_for
from trainer.process_group import World
from trainer.scoring.cross_fitting import fit_heads
from trainer.scoring.lda import FOLDS, Grid, Statistics, fit, folds_of
from trainer.scoring.predictor import Predictor

ROWS, CLASSES, DIM = np.arange(400) * 3, 4, 7


def data(num_classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(2)
    labels = draw.integers(0, num_classes, len(ROWS))
    return (
        draw.normal(size=(len(ROWS), DIM)) + draw.normal(size=(num_classes, DIM))[labels]
    ).astype(np.float32), labels


def statistics(
    integers: np.ndarray, labels: np.ndarray, batch_size: int, num_classes: int = CLASSES
) -> Statistics:
    result = Statistics(num_classes, DIM)
    for start in range(0, len(ROWS), batch_size):
        part = slice(start, start + batch_size)
        result.add(integers[part], labels[part], folds_of(ROWS[part], 5))
    return result


def discriminant(train: np.ndarray, labels: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Linear discriminant analysis with OAS, from its formulas, fitted to given rows: (n, C)."""
    classes = range(CLASSES)
    means = np.stack([train[labels == c].mean(axis=0) for c in classes])
    residuals = train - means[labels]
    n, p = len(train) - CLASSES, train.shape[1]
    sample = residuals.T @ residuals / n
    trace_of_square, square_of_trace = np.trace(sample @ sample), np.trace(sample) ** 2
    rho = ((1 - 2 / p) * trace_of_square + square_of_trace) / (
        (n + 1 - 2 / p) * (trace_of_square - square_of_trace / p)
    )
    inverse = np.linalg.inv(
        (1 - min(rho, 1)) * sample + min(rho, 1) * np.trace(sample) / p * np.eye(p)
    )
    distances = np.stack(
        [np.einsum("nd,de,ne->n", x - means[c], inverse, x - means[c]) for c in classes], axis=1
    )
    odds = np.bincount(labels, minlength=CLASSES) * np.exp(
        -(distances - distances.min(axis=1, keepdims=True)) / 2
    )
    return odds / odds.sum(axis=1, keepdims=True)


def test_every_row_is_predicted_by_a_discriminant_of_the_other_folds() -> None:
    features, labels = data()
    grid, folds = Grid.of(features[:64]), folds_of(ROWS, 5)
    integers = grid(features)
    result = fit(statistics(integers, labels, 64))(integers, folds)
    assert np.bincount(folds, minlength=FOLDS).min() > 50
    for fold in range(FOLDS):
        own = folds == fold
        np.testing.assert_allclose(
            result[own], discriminant(integers[~own], labels[~own], integers[own]), atol=1e-5
        )
        # on unrounded features, in units of the grid: rounding to integers changes little
        exact = np.ldexp(features.astype(np.float64), grid.exponents)
        np.testing.assert_allclose(
            result[own], discriminant(exact[~own], labels[~own], exact[own]), atol=0.02
        )


def test_a_row_does_not_influence_its_own_head() -> None:
    features, labels = data()
    integers, folds = Grid.of(features[:64])(features), folds_of(ROWS, 5)
    changed = labels.copy()
    changed[folds == 2] = (changed[folds == 2] + 1) % CLASSES
    before, after = (
        fit(statistics(integers, each, 64))(integers, folds) for each in (labels, changed)
    )
    np.testing.assert_array_equal(before[folds == 2], after[folds == 2])
    assert (before[folds == 1] != after[folds == 1]).any()


@pytest.mark.parametrize("batch_size", [1, 37, 400])
def test_statistics_do_not_depend_on_batches_or_ranks(batch_size: int) -> None:
    features, labels = data()
    integers = Grid.of(features[:64])(features)
    expected = statistics(integers, labels, 64).values
    np.testing.assert_array_equal(statistics(integers, labels, batch_size).values, expected)
    assert np.abs(integers).max() > 1000  # sums of products are far from small


def test_constant_features_give_the_class_frequencies() -> None:
    labels = np.repeat(np.arange(CLASSES), [40, 60, 100, 200])
    integers, folds = Grid.of(np.zeros((4, DIM)))(np.ones((400, DIM))), folds_of(ROWS, 5)
    result = fit(statistics(integers, labels, 64))(integers, folds)
    for fold in range(FOLDS):
        expected = np.bincount(labels[folds != fold], minlength=CLASSES) / (folds != fold).sum()
        np.testing.assert_allclose(
            result[folds == fold],
            np.broadcast_to(expected, (int((folds == fold).sum()), CLASSES)),
            rtol=1e-6,
        )


def test_class_without_rows_and_statistics_without_rows() -> None:
    features, labels = data(3)
    integers, folds = Grid.of(features[:64])(features), folds_of(ROWS, 5)
    result = fit(statistics(integers, labels, 64))(integers, folds)
    assert (result[:, 3] == 0).all() and np.isfinite(result).all()
    np.testing.assert_array_equal(fit(Statistics(CLASSES, DIM))(integers, folds), np.float32(0.25))


def test_scores_of_a_model_by_heads_fitted_to_its_features(tmp_path: Path) -> None:
    features = make_features(tmp_path / "features" / "made", missing=0.2)
    rows, tables = features.rows_of("train"), []
    config = run_config(tmp_path)
    model = model_for(config.model, features, 0)
    predictor = Predictor(
        model,
        Inputs(architecture(config.model, features), 0, World().device),
        features,
        World().device,
    )
    predict = fit_heads(config, features, World(), predictor)
    for batch_size in (32, 1000):
        batches = [
            (i, score_rows(features, rows[i : i + batch_size], predict(rows[i : i + batch_size])))
            for i in range(0, len(rows), batch_size)
        ]
        tables.append(join_scores(batches, features, 0, {}))
    np.testing.assert_allclose(*(table["kl_touch"].to_numpy() for table in tables), atol=1e-4)
    np.testing.assert_array_equal(
        np.isnan(tables[0]["kl_touch"].to_numpy()),
        ~features.has[rows, features.modalities.index("touch")],
    )
    right = tables[0]["predicted_sound"].to_numpy() == features.labels[rows]
    assert right.mean() > 0.6  # an untrained encoder, but linearly separable classes

    with (
        np.errstate(invalid="ignore"),
        pytest.raises(RemixError, match=r"(?=.*\bsound\b)(?=.*\b\d+\b)"),
    ):
        for value in model.encoder("sound").parameters():
            value.data.fill_(float("nan"))
        fit_heads(config, features, World(), predictor)
