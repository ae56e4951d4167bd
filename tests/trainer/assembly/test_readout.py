"""Readouts agree with independent computations, and the best one is chosen."""

import numpy as np
import pytest
import torch
from scipy import optimize
from scipy.special import log_softmax, softmax

from pipeline.arrays import Float64Array, Int64Array
from trainer.assembly.readout import (
    HeadOutputs,
    Readout,
    candidates,
    choose,
    fit_linear,
    fit_temperature,
    fit_weights,
)
from trainer.models.model import FUSED

NUM_CLASSES = 4


def drawn(
    signals: dict[str, float], labels: Int64Array, seed: int, missing: float = 0.0
) -> HeadOutputs:
    """Features that show the label with noise, and heads that know the best weights for them."""
    rng, means = np.random.default_rng(seed), np.random.default_rng(9)
    features, log_p, present = {}, {}, {}
    for name, signal in signals.items():
        centres = signal * means.normal(size=(NUM_CLASSES, 5))
        x = centres[labels] + rng.normal(size=(len(labels), 5))
        features[name] = x
        log_p[name] = log_softmax(x @ centres.T - (centres**2).sum(axis=1) / 2, axis=1)
        present[name] = rng.random(len(labels)) >= missing
    # a fused head that is right half of the time, and sure of itself
    shown = np.where(
        rng.random(len(labels)) < 0.5, labels, rng.integers(NUM_CLASSES, size=len(labels))
    )
    log_p[FUSED] = log_softmax(8.0 * np.eye(NUM_CLASSES)[shown], axis=1)
    return HeadOutputs(
        present={name: torch.from_numpy(x) for name, x in present.items()},
        log_p={name: torch.from_numpy(x) for name, x in log_p.items()},
        features={name: torch.from_numpy(x) for name, x in features.items()},
    )


def labels_of(num: int, seed: int) -> Int64Array:
    return np.random.default_rng(seed).integers(NUM_CLASSES, size=num)


def cross_entropy(logits: Float64Array, labels: Int64Array) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def test_the_weights_of_log_probabilities_are_those_of_scipy() -> None:
    labels = labels_of(300, 1)
    outputs = drawn({"sound": 1.0, "sight": 0.5}, labels, 2, missing=0.3)
    heads = ["sound", "sight", FUSED]
    parts = [
        outputs.log_p[name].numpy()
        * (outputs.present[name].numpy()[:, None] if name != FUSED else 1.0)
        for name in heads
    ]

    def loss(s: Float64Array) -> float:
        logits = sum(np.log1p(np.exp(own)) * part for own, part in zip(s, parts, strict=True))
        return cross_entropy(logits, labels) + 1e-4 * float(s @ s)

    expected = optimize.minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-7}).x
    readout = fit_weights("stack", outputs, torch.from_numpy(labels), heads)
    assert [*readout.weights.values()] == pytest.approx(np.log1p(np.exp(expected)), abs=1e-4)
    logits = readout.logits(outputs).numpy()
    assert logits == pytest.approx(
        sum(weight * part for weight, part in zip(readout.weights.values(), parts, strict=True))
    )


def test_the_regression_on_features_is_that_of_scipy() -> None:
    labels = labels_of(200, 3)
    outputs = drawn({"sound": 1.0, "sight": 0.5}, labels, 4, missing=0.2)
    columns = []
    for name, values in outputs.features.items():
        present, x = outputs.present[name].numpy(), values.numpy()
        own = x[present]
        standard = (x - own.mean(axis=0)) / own.std(axis=0) / np.sqrt(10)
        columns.append(np.where(present[:, None], standard, 0))
    x = np.concatenate(columns, axis=1)

    def loss(flat: Float64Array) -> float:
        weight, bias = flat[: 10 * NUM_CLASSES].reshape(NUM_CLASSES, 10), flat[10 * NUM_CLASSES :]
        return cross_entropy(x @ weight.T + bias, labels) + 1e-3 * float((weight**2).sum())

    size = 11 * NUM_CLASSES
    expected = optimize.minimize(loss, np.zeros(size), method="BFGS", options={"gtol": 1e-6}).x
    weight, bias = (
        expected[: 10 * NUM_CLASSES].reshape(NUM_CLASSES, 10),
        expected[10 * NUM_CLASSES :],
    )
    readout = fit_linear(outputs, torch.from_numpy(labels), 1e-3)
    assert softmax(readout.logits(outputs).numpy(), axis=1) == pytest.approx(
        softmax(x @ weight.T + bias, axis=1), abs=1e-4
    )


def test_the_temperature_of_a_head_that_is_too_sure_is_the_best_of_the_grid() -> None:
    labels = labels_of(400, 5)
    outputs = drawn({"sound": 1.0}, labels, 6)
    fused = fit_temperature(outputs, torch.from_numpy(labels), [Readout(kind="fused")])
    grid = np.logspace(-1.5, 1.5, 25)
    losses = [cross_entropy(outputs.log_p[FUSED].numpy() / t, labels) for t in grid]
    assert fused.temperature == pytest.approx(grid[int(np.argmin(losses))])
    assert fused.temperature > 2


@pytest.mark.parametrize(
    "signals",
    [{"sound": 1.0}, {"sound": 1.0, "noise": 0.0}, {"sound": 1.0, "sight": 0.8, "noise": 0.0}],
)
def test_the_chosen_readout_uses_every_modality_and_noise_costs_nothing(
    signals: dict[str, float],
) -> None:
    splits = {"train": 600, "validation": 300, "test": 3000}
    labels = {name: labels_of(num, k) for k, (name, num) in enumerate(splits.items())}
    rows = {name: drawn(signals, own, 10 + k) for k, (name, own) in enumerate(labels.items())}
    y, train_y = (torch.from_numpy(labels[name]) for name in ("validation", "train"))
    by_kind = candidates(rows["validation"], rows["validation"], y, rows["train"], train_y)
    readout, losses = choose(by_kind, y, np.arange(300) % 5)
    assert [*losses] == ["fused", "late", "refit", "stack"]
    assert readout.kind == min(losses, key=losses.__getitem__) != "fused"

    def accuracy(logits: torch.Tensor) -> float:
        return float((logits.argmax(dim=1).numpy() == labels["test"]).mean())

    best = sum(rows["test"].log_p[name] for name, signal in signals.items() if signal)
    assert accuracy(readout.logits(rows["test"])) > accuracy(best) - 0.01


def test_a_row_is_read_from_the_modalities_that_it_has() -> None:
    labels = labels_of(100, 7)
    outputs = drawn({"sound": 1.0, "sight": 1.0}, labels, 8, missing=0.3)
    readout = fit_weights("late", outputs, torch.from_numpy(labels), ["sound", "sight"])
    only_sound = (outputs.present["sound"] & ~outputs.present["sight"]).numpy()
    assert only_sound.any()
    expected = readout.weights["sound"] * outputs.log_p["sound"].numpy()
    assert readout.logits(outputs).numpy()[only_sound] == pytest.approx(expected[only_sound])
