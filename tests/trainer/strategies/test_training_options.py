"""Accumulated steps, class weights and label smoothing: the weights and losses of single steps."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.plans.plan import Step
from pipeline.storage.schemas import ALL
from tests.support.stores import run_config
from tests.support.strategy_runs import NAMES, SGD, Harness
from trainer.launch import launch
from trainer.models.model import FUSED
from trainer.strategies.class_weights import class_weights


def harness(store: Path, **train: Any) -> Harness:
    return Harness(run_config(store, optimizer=SGD, train=train))


def cut(step: Step, *sizes: int) -> list[Step]:
    """The rows of a step in several steps."""
    ends = np.cumsum(sizes)
    return [
        Step(
            step=number,
            modality=step.modality,
            rows=step.rows[end - size : end],
            assigned=None if step.assigned is None else step.assigned[end - size : end],
        )
        for number, (size, end) in enumerate(zip(sizes, ends, strict=True))
    ]


def after(tested: Harness, steps: list[Step]) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The weights after an update by steps, and the steps' losses."""
    losses = [float(tested.step(tested.load(step, steps), epoch=0).loss) for step in steps]
    return copy.deepcopy(tested.model.state_dict()), losses


ROWS = np.arange(16)
ASSIGNED = np.array([0, 1, -1, 2] * 4, np.int8)


@pytest.mark.parametrize(
    "step",
    [
        Step(step=0, modality=ALL, rows=ROWS),  # some of the rows lack a modality
        Step(step=0, modality="sight", rows=ROWS),
        Step(step=0, modality=ALL, rows=ROWS, assigned=ASSIGNED),
    ],
)
@pytest.mark.parametrize("sizes", [(8, 8), (8, 6, 2)])
def test_steps_that_train_the_same_are_one_batch(
    store: Path, step: Step, sizes: tuple[int, ...]
) -> None:
    start = copy.deepcopy(harness(store).model.state_dict())
    expected, [loss] = after(harness(store), [step])
    weights, losses = after(harness(store), cut(step, *sizes))
    assert max(float((expected[key] - start[key]).abs().max()) for key in start) > 1e-3
    for key, value in expected.items():
        torch.testing.assert_close(weights[key], value, atol=1e-6, rtol=1e-4)
    if step.modality == "sight" or step.assigned is not None:
        assert np.average(losses, weights=sizes) == pytest.approx(loss, rel=1e-4)


def test_steps_of_different_modalities_count_by_their_rows(store: Path) -> None:
    pair = [
        Step(step=0, modality="sound", rows=ROWS[:12]),
        Step(step=1, modality="touch", rows=ROWS[12:]),
    ]
    start = harness(store).model.state_dict()
    single = [after(harness(store), [step])[0] for step in pair]
    together, _ = after(harness(store), pair)
    for key, value in start.items():
        expected = value + 0.75 * (single[0][key] - value) + 0.25 * (single[1][key] - value)
        torch.testing.assert_close(together[key], expected, atol=1e-6, rtol=1e-4)


def test_weighted_and_smoothed_losses_are_those_of_their_formulas(store: Path) -> None:
    given = {"c0": 2.0, "c2": 0.5}
    tested = harness(store, label_smoothing=0.3, class_weights=given, warmup_weight=0.0)
    weights = class_weights(tested.step.config, tested.features)
    tested.step.class_weights = weights
    assert weights is not None
    assert weights.tolist() == [2.0, 1.0, 0.5]
    batch = tested.load(Step(step=0, modality=ALL, rows=ROWS))
    outputs, labels, _ = tested.step.forward(batch, epoch=0)
    log_p = torch.log_softmax(outputs.fused, dim=1)
    # the target probability: 0.7 for the label, and 0.1 more for each of the 3 classes
    target = torch.full_like(log_p, 0.1)
    target[range(16), labels] += 0.7
    expected = -(weights * target * log_p).sum() / 16
    assert float(tested.step(batch, epoch=0).loss) == pytest.approx(expected.item(), rel=1e-5)


def test_balanced_weights_make_classes_equal(store: Path) -> None:
    tested = harness(store, class_weights="balanced")
    weights = class_weights(tested.step.config, tested.features)
    counts = np.bincount(tested.features.labels[tested.features.rows_of("train")])
    assert len(set(counts)) > 1
    np.testing.assert_allclose(weights, counts.sum() / (3 * counts), rtol=1e-6)


TWICE = {"accumulate": 2}


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("accumulate", {"method": "ogm_ge", "model": {"fusion": "sum"}, "train": TWICE}),
        ("class_weights", {"train": {"class_weights": {"c9": 1.0}}}),
    ],
)
def test_options_that_do_not_fit_are_refused(
    store: Path, field: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=field):
        launch(run_config(store, name="refused", **changes))


def test_divisors_of_one_step_are_its_own_rows(store: Path) -> None:
    batch = harness(store).load(Step(step=0, modality=ALL, rows=ROWS))
    assert batch.divisors == {FUSED: 16, **{name: batch.num_valid[name] for name in NAMES}}
    assert batch.num_valid["sound"] == 16 > batch.num_valid["touch"]
