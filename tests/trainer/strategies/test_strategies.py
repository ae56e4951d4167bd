"""Steps of the other methods, compared with their papers' formulas in NumPy."""

import math
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import Step
from pipeline.storage.schemas import ALL
from tests.support.stores import run_config
from tests.support.strategy_runs import EQUAL, NAMES, SGD, Harness, asked
from trainer.data.inputs import Inputs
from trainer.models import checkpoint as checkpoints
from trainer.models.fusion import FUSIONS, Additive
from trainer.models.model import MultimodalModel, model_for
from trainer.models.shared_head import SharedHead
from trainer.scoring.shapley import by_subset, shapley
from trainer.strategies.ogm_ge import coefficients


def rows_with(features: FeatureSet, num: int, present: list[bool]) -> np.ndarray[Any, Any]:
    return np.flatnonzero((features.has == present).all(axis=1))[:num]


def gradients(model: MultimodalModel) -> dict[str, np.ndarray[Any, Any]]:
    return {
        name: value.grad.double().numpy().copy()
        for name, value in model.named_parameters()
        if value.grad is not None
    }


def softmax(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, kind in FUSIONS.items()
        if isinstance(kind, type) and issubclass(kind, Additive)
    ],
)
def test_the_parts_add_up_to_the_fused_logits_and_each_is_of_its_modality(name: str) -> None:
    torch.manual_seed(0)
    fusion = FUSIONS[name]([5, 3, 4], 6, 8)
    assert isinstance(fusion, Additive)
    features, logits = (
        [torch.randn(7, dim) for dim in (5, 3, 4)],
        [torch.randn(7, 6) for _ in range(3)],
    )
    parts = fusion.parts(features, logits)
    assert torch.allclose(sum(parts), fusion(features, logits), atol=1e-6)
    changed = fusion.parts([features[0] + 1, *features[1:]], [logits[0] + 1, *logits[1:]])
    assert [torch.equal(a, b) for a, b in zip(parts, changed, strict=True)] == [False, True, True]


def test_two_modalities_have_the_ratio_and_the_coefficients_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        (a, v), alpha = rng.random(2) + 0.01, rng.random()
        rho = v / a  # equation 9, where the batches' sums have one number of rows
        expected = [
            1 - math.tanh(alpha / rho) if rho < 1 else 1.0,
            1 - math.tanh(alpha * rho) if rho > 1 else 1.0,
        ]
        assert coefficients([a, v], alpha) == pytest.approx(expected)
    assert coefficients([0.4, None, 0.2], 0.5) == pytest.approx([1 - math.tanh(1.0), 1, 1])
    assert coefficients([0.6, 0.2, 0.1], 1.0) == pytest.approx([1 - math.tanh(4), 1, 1])
    assert coefficients([None, None, 0.2], 0.5) == [1, 1, 1]


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_ogm_ge_multiplies_an_encoders_gradient_and_adds_noise_of_its_deviation(
    store: Path, fusion: str
) -> None:
    harness = Harness(asked(store, "ogm_ge", optimizer=SGD, model={**EQUAL, "fusion": fusion}))
    model, step = harness.model, harness.step
    batch = harness.load(Step(step=0, modality=ALL, rows=harness.features.rows_of("train")[:32]))
    outputs, labels, present = step.forward(batch, 0)
    step.loss(outputs, labels, present, batch).backward()
    before = gradients(model)
    torch.manual_seed(7)
    step.after_backward(outputs, labels, present)
    first = gradients(model)
    for name, value in model.named_parameters():
        if value.grad is not None:
            value.grad.copy_(torch.from_numpy(before[name]))
    torch.manual_seed(7)
    torch.rand(3)  # what a layer drew is of no account
    step.after_backward(outputs, labels, present)
    assert all(np.array_equal(first[name], again) for name, again in gradients(model).items())

    if fusion == "concat":
        weight, bias = (
            model.fusion.output.weight.detach().numpy(),
            model.fusion.output.bias.detach().numpy(),
        )
        each = [(w, bias / 3) for w in np.split(weight, 3, axis=1)]
    else:
        each = [
            (output.weight.detach().numpy(), output.bias.detach().numpy())
            for output in model.fusion.outputs
        ]
    scores, y = [], labels.numpy()
    for name, (w, b) in zip(NAMES, each, strict=True):
        x, own = outputs.features[name].numpy(), present[name].numpy()
        scores.append((softmax(x @ w.T + b)[np.arange(len(y)), y] * own).sum() / own.sum())
    strongest = int(np.argmax(scores))
    for k, name in enumerate(NAMES):
        rho = scores[k] / np.mean([score for j, score in enumerate(scores) if j != k])
        coefficient = 1 - np.tanh(0.8 * rho) if rho > 1 else 1.0
        assert coefficient < 1 or k != strongest
        noise, spread = [], []
        for key, gradient in before.items():
            if f"modality-{name}" in key and key.startswith("encoders"):
                noise.append((first[key] - coefficient * gradient).ravel())
                spread.append(np.full(gradient.size, gradient.std(ddof=1)))
        unit = np.concatenate(noise) / np.concatenate(spread)
        assert abs(unit.mean()) < 4 / math.sqrt(len(unit))
        assert unit.std() == pytest.approx(1, abs=4 / math.sqrt(2 * len(unit)))
    assert all(
        np.array_equal(first[key], before[key]) for key in before if not key.startswith("encoders")
    )


def test_the_entropy_fusion_is_the_papers_mix_over_what_a_row_shows() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = [3 * torch.randn(9, 4, generator=generator) for _ in range(3)]
    features = [torch.rand(9, 5, generator=generator) + 0.1 for _ in range(3)]
    features[0][0] = 0  # of an encoder that says nothing, of a modality that the row has
    present = torch.ones(3, 9, dtype=torch.bool)
    present[1, 2:4] = present[2, 3] = present[:, 8] = False
    fused = FUSIONS["entropy"]([5, 5, 5], 4, 1)(features, logits, present).numpy()
    for i in range(9):
        shown = [k for k in range(3) if present[k, i]] or [0, 1, 2]
        p = [softmax(logits[k][i : i + 1].double().numpy())[0] for k in shown]
        e = np.array([-(q * np.log(q)).sum() for q in p])
        w = np.exp(e.max() - e) / np.exp(e.max() - e).sum()
        np.testing.assert_allclose(
            fused[i],
            sum(w_k * logits[k][i].numpy() for w_k, k in zip(w, shown, strict=True)),
            rtol=1e-5,
            atol=1e-6,
        )


def test_the_projection_is_recursive_least_squares_and_keeps_old_predictions() -> None:
    rng = np.random.default_rng(0)
    xs, grads, damping = rng.normal(size=(6, 12)), rng.normal(size=(6, 3, 12)), 0.03
    torch.manual_seed(0)
    head = SharedHead(12, 3).double()
    for n in range(6):
        head.weight.grad = torch.from_numpy(grads[n].copy())
        head.project(torch.from_numpy(xs[n]), damping)
        # closed form of the recursion: P = (I + sum over earlier steps of x x^T / damping)^-1
        projection = np.linalg.inv(
            np.eye(12) + sum((np.outer(x, x) for x in xs[:n]), np.zeros((12, 12))) / damping
        )
        np.testing.assert_allclose(
            head.weight.grad.numpy(), grads[n] @ projection, rtol=1e-8, atol=1e-10
        )
        for x in xs[:n]:
            assert np.linalg.norm(head.weight.grad.numpy() @ x) < 0.05 * np.linalg.norm(
                grads[n] @ x
            )


def same_encoders(first: MultimodalModel, second: MultimodalModel, name: str) -> bool:
    pairs = zip(first.encoder(name).parameters(), second.encoder(name).parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("kind", ["joint", "pure", "mixed", "one at a time"])
def test_a_step_of_mla_is_one_of_each_modality_in_turn(store: Path, kind: str) -> None:
    config = asked(store, "mla", optimizer=SGD)
    harness = Harness(config)
    features, model = harness.features, harness.model
    rows = (
        np.flatnonzero(features.has[:, 0])[:16]
        if kind != "one at a time"
        else rows_with(features, 6, [True, False, True])
    )
    assigned = (np.arange(len(rows)) % 4 - 1).astype(np.int8) if kind == "mixed" else None
    rng, previous = np.random.default_rng(0), Harness(config).model
    head = model.head("sound")
    assert isinstance(head, SharedHead) and all(model.head(name) is head for name in NAMES)
    u = torch.from_numpy(rng.normal(size=(32, 4))).float()
    head.projection.copy_(torch.eye(32) - 0.1 * u @ u.T / 32)
    previous.load_state_dict(model.state_dict())
    modality = "sight" if kind == "pure" else ALL
    batch = harness.load(Step(step=2, modality=modality, rows=rows, assigned=assigned))
    taken = harness.step(batch, 0)

    inputs, labels, present = harness.step.prepare(batch, 0)
    weight, bias = (value.detach().double().numpy().copy() for value in (head.weight, head.bias))
    p, total = previous.head("sound").projection.double().numpy().copy(), 0.0
    w, b = (
        previous.head("sound").weight.detach().double().numpy().copy(),
        previous.head("sound").bias.detach().double().numpy().copy(),
    )
    right = []
    for name in ["sight"] if kind == "pure" else NAMES:
        own = present[name].numpy()
        if not own.any():
            right.append(0)
            continue
        x = np.zeros((len(rows), 32))
        encoded = previous.encoder(name)(inputs[name][present[name]])
        x[own] = encoded.detach().double().numpy()
        q, y = softmax(x @ w.T + b), np.eye(3)[labels.numpy()]
        total -= (np.log(q)[np.arange(len(rows)), labels.numpy()] * own).sum() / own.sum()
        right.append(int((q.argmax(1)[own] == labels.numpy()[own]).sum()))
        delta = (q - y) * own[:, None] / own.sum()
        expected = {
            key: value.detach().clone() for key, value in previous.encoder(name).named_parameters()
        }
        previous.encoder(name).zero_grad()
        encoded.backward(torch.from_numpy((delta @ w)[own]).float())
        for key, value in previous.encoder(name).named_parameters():
            expected[key] -= 0.05 * value.grad
        for key, value in model.encoder(name).named_parameters():
            assert torch.allclose(value, expected[key], atol=1e-5), (name, key)
        mean, damping = x[own].mean(axis=0), 0.1 ** (1 + 2 / 4)
        w, b = w - 0.05 * (delta.T @ x) @ p, b - 0.05 * delta.sum(axis=0)
        k = p @ mean
        p = p - np.outer(k, k) / (damping + mean @ k)
    np.testing.assert_allclose(weight, w, atol=1e-5)
    np.testing.assert_allclose(bias, b, atol=1e-5)
    np.testing.assert_allclose(head.projection.numpy(), p, atol=1e-5)
    assert float(taken.loss) == pytest.approx(total, rel=1e-5)
    assert taken.num_correct.tolist()[1:] == ([0, *right, 0] if kind == "pure" else right)
    untouched = {"pure": ("sound", "touch"), "one at a time": ("sight",)}.get(kind, ())
    assert all(same_encoders(model, previous, name) for name in untouched)


@pytest.mark.parametrize("num", [1, 2, 3, 4])
def test_shapley_values_are_the_mean_over_all_orders_of_arrival(num: int) -> None:
    rng = np.random.default_rng(num)
    present = rng.random((40, num)) < 0.7
    present[~present.any(axis=1), 0] = True
    right = rng.random((2**num, 40)) < 0.5
    right[0] = False
    values = shapley(right, present)
    assert values.dtype == np.float32
    for i in range(40):
        players = [k for k in range(num) if present[i, k]]
        marginal = dict.fromkeys(players, 0.0)
        orders = list(permutations(players))
        for order in orders:
            subset, worth = 0, 0
            for player in order:
                subset |= 1 << player
                now = bin(subset).count("1") if right[subset, i] else 0
                marginal[player] += (now - worth) / len(orders)
                worth = now
        assert [marginal[k] for k in players] == pytest.approx(
            values[i, players].tolist(), abs=1e-6
        )
        assert np.isnan(values[i, ~present[i]]).all()


@pytest.mark.parametrize("fusion", ["concat", "decision", "gated", "mmtm", "centralnet"])
def test_a_subsets_prediction_is_the_models_when_only_it_is_there(store: Path, fusion: str) -> None:
    config = run_config(store, model={"fusion": fusion})
    features = FeatureSet.open(config.features_path)
    model = model_for(config.model, features, seed=1).eval()
    rows = features.rows_of("train")[:20]
    inputs = Inputs(checkpoints.architecture(config.model, features), 0, torch.device("cpu"))
    x = inputs(
        {name: torch.from_numpy(features.read(name, rows)) for name in NAMES}, rows, training=False
    )
    present = {name: torch.from_numpy(features.has[rows, k]) for k, name in enumerate(NAMES)}
    with torch.inference_mode():
        found = by_subset(model, x, present)
        assert (found[0] == -1).all()
        for subset in range(1, 8):
            shown = {
                name: present[name] & torch.tensor(bool(subset >> k & 1))
                for k, name in enumerate(NAMES)
            }
            assert torch.equal(found[subset], model(x, shown).fused.argmax(1))
