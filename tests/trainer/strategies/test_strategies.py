"""The other methods' steps: each rule against its paper's formula in NumPy, every strategy through the loop, on one rank and two, killed and resumed."""

import math
import multiprocessing
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from pipeline.errors import ConfigError
from pipeline.features.feature_set import FeatureSet, read_table
from pipeline.plans.plan import Step
from pipeline.storage.schemas import ALL
from tests.support.stores import check_coverage, make_features, run_config, same_weights, weights
from trainer import loop
from trainer.comparison.methods import with_method
from trainer.config import RunConfig
from trainer.data.inputs import Inputs
from trainer.data.plan_loader import Batch, PlanLoader
from trainer.launch import launch
from trainer.models import checkpoint as checkpoints
from trainer.models.fusion import FUSIONS, Additive
from trainer.models.model import MultimodalModel, model_for
from trainer.models.shared_head import SharedHead
from trainer.process_group import World
from trainer.run_directory import Run
from trainer.scoring.shapley import by_subset, shapley
from trainer.strategies import STRATEGIES
from trainer.strategies.base import Stepper, build_optimizer
from trainer.strategies.ogm_ge import coefficients

NAMES = ("sound", "sight", "touch")
SGD = {"kind": "sgd", "lr": 0.05, "momentum": 0.0, "weight_decay": 0.0}
EQUAL = {"encoders": {"touch": {"kind": "mlp", "hidden": 32}}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    make_features(store / "features" / "made", missing=0.2, num_rows=150)
    return store


def asked(store: Path, method: str, name: str = "run", **changes: Any) -> RunConfig:
    base: dict[str, Any] = {
        "name": name,
        "model": EQUAL,
        "train": {"epochs": 3, "warmup_epochs": 1},
    }
    return with_method(run_config(store, **{**base, **changes}), method, 0)


class Harness:
    """A strategy's step by itself, on batches of one's own."""

    def __init__(self, store: Path, method: str, **changes: Any) -> None:
        self.config = asked(store, method, optimizer=SGD, **changes)
        self.features = FeatureSet.open(self.config.features_place)
        self.model = model_for(self.config.model, self.features, seed=0)
        inputs = Inputs(
            checkpoints.architecture(self.config.model, self.features), 0, torch.device("cpu")
        )
        optimizer = build_optimizer(self.config.optimizer, self.model)
        kind = STRATEGIES[self.config.train.strategy]
        kind.check(self.config, self.model)
        self.step: Stepper = kind(self.model, self.model, inputs, optimizer, self.config, World())

    def batch(
        self,
        rows: np.ndarray[Any, Any],
        modality: str = ALL,
        assigned: list[int] | None = None,
        num_steps: int = 4,
        number: int = 0,
    ) -> Batch:
        plan: Any = range(num_steps)  # of which a loader of single steps wants the length alone
        loader = PlanLoader(
            self.features, plan, start=0, world=World(), skip_masked=True, prefetch=1
        )
        step = Step(
            step=number,
            modality=modality,
            rows=rows,
            assigned=None if assigned is None else np.array(assigned, np.int8),
        )
        return loader.load(step)


def rows_with(features: FeatureSet, num: int, has: list[bool]) -> np.ndarray[Any, Any]:
    return np.flatnonzero((features.has == has).all(axis=1))[:num]


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
    harness = Harness(store, "ogm_ge", model={**EQUAL, "fusion": fusion})
    model, step = harness.model, harness.step
    batch = harness.batch(harness.features.rows_of("train")[:32])
    outputs, labels, has = step.forward(batch, 0)
    step.loss(outputs, labels, has, batch).backward()
    before = gradients(model)
    torch.manual_seed(7)
    step.modulate(outputs, labels, has)
    first = gradients(model)
    for name, value in model.named_parameters():
        if value.grad is not None:
            value.grad.copy_(torch.from_numpy(before[name]))
    torch.manual_seed(7)
    torch.rand(3)  # what a layer drew is of no account
    step.modulate(outputs, labels, has)
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
        x, own = outputs.features[name].numpy(), has[name].numpy()
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


@pytest.mark.parametrize(("method", "changes", "match"), [
    ("ogm_ge", {"fusion": "film"}, r"(?=.*model\.fusion)(?=.*\bfilm\b)(?=.*\bconcat\b)(?=.*\bsum\b)(?=.*\bdecision\b)"),
    ("ogm_ge", {"fusion": "mmtm"}, r"(?=.*model\.fusion)(?=.*\bmmtm\b)"),
    ("mla", {"mask": "feature"}, r"(?=.*model\.mask)(?=.*\bfeature\b)(?=.*\bskip\b)"),
    ("mla", {"encoders": {"touch": {"kind": "mlp", "hidden": 16}}},
     r"(?=.*model\.heads)(?=.*\bshared\b)(?=.*\bsound\b)(?=.*\bsight\b)(?=.*\b32\b)(?=.*\btouch\b)(?=.*\b16\b)(?=.*model\.encoders)"),
])  # fmt: skip
def test_a_model_that_does_not_suit_is_refused_before_anything_is_written(
    store: Path, method: str, changes: dict[str, Any], match: str
) -> None:
    config = asked(store, method, name="refused", model={**EQUAL, **changes})
    with pytest.raises(ConfigError, match=match):
        launch(config)
    assert not config.run_place.exists()


def test_mla_needs_one_head_and_a_fusion_without_weights(store: Path) -> None:
    for model, match in (
        ({"fusion": "entropy"}, r"(?=.*model\.heads)(?=.*\bown\b)"),
        ({"heads": "shared"}, r"(?=.*model\.fusion)(?=.*\bconcat\b)"),
    ):
        with pytest.raises(ConfigError, match=match):
            launch(
                run_config(
                    store, name="refused", model={**EQUAL, **model}, train={"strategy": "mla"}
                )
            )


def test_the_entropy_fusion_is_the_papers_mix_over_what_a_row_shows() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = [3 * torch.randn(9, 4, generator=generator) for _ in range(3)]
    features = [torch.rand(9, 5, generator=generator) + 0.1 for _ in range(3)]
    features[1][2:4] = 0
    features[2][3] = 0
    for x in features:
        x[8] = 0
    fused = FUSIONS["entropy"]([5, 5, 5], 4, 1)(features, logits).numpy()
    for i in range(9):
        shown = [k for k in range(3) if features[k][i].any()] or [0, 1, 2]
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
        # the closed form of the recursion: P = (I + sum over the earlier steps of x x^T / damping)^-1
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


@pytest.mark.parametrize("kind", ["joint", "pure", "mixed", "one at a time"])
def test_a_step_of_mla_is_one_of_each_modality_in_turn(store: Path, kind: str) -> None:
    harness = Harness(store, "mla")
    features, model = harness.features, harness.model
    rows = (
        np.flatnonzero(features.has[:, 0])[:16]
        if kind != "one at a time"
        else rows_with(features, 6, [True, False, True])
    )
    assigned = [int(i % 4) - 1 for i in range(len(rows))] if kind == "mixed" else None
    rng, previous = np.random.default_rng(0), Harness(store, "mla").model
    head = model.head("sound")
    assert isinstance(head, SharedHead) and all(model.head(name) is head for name in NAMES)
    u = torch.from_numpy(rng.normal(size=(32, 4))).float()
    head.projection.copy_(torch.eye(32) - 0.1 * u @ u.T / 32)
    previous.load_state_dict(model.state_dict())
    batch = harness.batch(rows, "sight" if kind == "pure" else ALL, assigned, num_steps=4, number=2)
    taken = harness.step(batch, 0)

    inputs, labels, has = harness.step.prepare(batch, 0)
    weight, bias = (value.detach().double().numpy().copy() for value in (head.weight, head.bias))
    p, total = previous.head("sound").projection.double().numpy().copy(), 0.0
    w, b = (
        previous.head("sound").weight.detach().double().numpy().copy(),
        previous.head("sound").bias.detach().double().numpy().copy(),
    )
    right = []
    for name in ["sight"] if kind == "pure" else NAMES:
        own = has[name].numpy()
        if not own.any():
            right.append(0)
            continue
        x = np.zeros((len(rows), 32))
        encoded = previous.encoder(name)(inputs[name][has[name]])
        x[own] = encoded.detach().double().numpy()
        q, y = softmax(x @ w.T + b), np.eye(3)[labels.numpy()]
        total -= (np.log(q)[np.arange(len(rows)), labels.numpy()] * own).sum() / own.sum()
        right.append(int((q.argmax(1)[own] == labels.numpy()[own]).sum()))
        delta = (q - y) * own[:, None] / own.sum()
        expected = {
            key: value.detach().clone() for key, value in previous.encoder(name).named_parameters()
        }
        for value in previous.encoder(name).parameters():
            value.grad = None
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
    for name in untouched:
        assert all(
            torch.equal(a, b)
            for a, b in zip(
                model.encoder(name).parameters(), previous.encoder(name).parameters(), strict=True
            )
        )


@pytest.mark.parametrize("num", [1, 2, 3, 4])
def test_shapley_values_are_the_mean_over_all_orders_of_arrival(num: int) -> None:
    rng = np.random.default_rng(num)
    has = rng.random((40, num)) < 0.7
    has[~has.any(axis=1), 0] = True
    right = rng.random((2**num, 40)) < 0.5
    right[0] = False
    values = shapley(right, has)
    assert values.dtype == np.float32
    for i in range(40):
        players = [k for k in range(num) if has[i, k]]
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
        assert np.isnan(values[i, ~has[i]]).all()


def test_two_players_have_the_values_of_the_paper() -> None:
    for first, second, both in np.ndindex(2, 2, 2):
        found = shapley(
            np.array([[False], [bool(first)], [bool(second)], [bool(both)]]),
            np.array([[True, True]]),
        )[0]
        assert found.tolist() == [(first + 2 * both - second) / 2, (second + 2 * both - first) / 2]


@pytest.mark.parametrize("fusion", ["concat", "decision", "gated", "mmtm", "centralnet"])
def test_a_subsets_prediction_is_the_models_when_only_it_is_there(store: Path, fusion: str) -> None:
    config = run_config(store, model={"fusion": fusion})
    features = FeatureSet.open(config.features_place)
    model = model_for(config.model, features, seed=1).eval()
    rows = features.rows_of("train")[:20]
    inputs = Inputs(checkpoints.architecture(config.model, features), 0, torch.device("cpu"))
    x = inputs(
        {name: torch.from_numpy(features.read(name, rows)) for name in NAMES}, rows, training=False
    )
    has = {name: torch.from_numpy(features.has[rows, k]) for k, name in enumerate(NAMES)}
    with torch.inference_mode():
        found = by_subset(model, x, has)
        assert (found[0] == -1).all()
        for subset in range(1, 8):
            shown = {
                name: has[name] & torch.tensor(bool(subset >> k & 1))
                for k, name in enumerate(NAMES)
            }
            assert torch.equal(found[subset], model(x, shown).fused.argmax(1))


def stop_at(step: int) -> Any:
    def stop(event: dict[str, object]) -> None:
        if event["event"] == "step" and (event["epoch"], event["step"]) == (1, step):
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("method", ["ogm_ge", "mla", "mla+remix"])
def test_a_strategy_runs_and_resumes_to_the_same_bits(store: Path, method: str) -> None:
    straight = launch(asked(store, method))
    check_coverage(straight, 3)
    losses = straight.epochs()["train_loss"].to_pylist()
    assert all(math.isfinite(loss) for loss in losses)
    if method == "mla":
        assert losses[-1] < losses[0]
        assert not torch.equal(weights(straight)["heads.modality-sound.projection"], torch.eye(32))
    config = asked(store, method, name="stopped")
    with pytest.raises(KeyboardInterrupt):
        launch(config, progress=stop_at(2))
    assert checkpoints.load(Run(config.run_place).checkpoint("last"))["cursor"]["epoch"] <= 1
    assert same_weights(straight, launch(config, resume=True))


def train_as(rank: int, rendezvous: str, configs: list[RunConfig]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    for config in configs:
        loop.train(config, Run.open(config.run_place), World(rank=rank, size=2))
    dist.destroy_process_group()


def test_two_ranks_train_what_one_trains(store: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "optimizer": {"kind": "sgd", "lr": 0.01},
        "train": {"epochs": 2, "warmup_epochs": 2},
    }
    methods = ("joint", "unimodal", "ogm_ge", "mla")
    pairs = [
        (asked(store, method, name="one", **changes), asked(store, method, name="two", **changes))
        for method in methods
    ]
    for _, two in pairs:
        Run.create(two, FeatureSet.open(two.features_place))
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.support.stores", "trainer.launch"])
    both = [
        processes.Process(
            target=train_as, args=(rank, str(tmp_path / "rendezvous"), [two for _, two in pairs])
        )
        for rank in range(2)
    ]
    for process in both:
        process.start()
    alone = [launch(one) for one, _ in pairs]
    for process in both:
        process.join(120)
        if process.exitcode is None:
            process.kill()
        assert process.exitcode == 0
    for run, (_, two) in zip(alone, pairs, strict=True):
        first, second = weights(run), weights(Run.open(two.run_place))
        assert first.keys() == second.keys()
        for key in first:
            assert torch.allclose(first[key], second[key], rtol=1e-4, atol=1e-5), (two.name, key)
        np.testing.assert_allclose(
            run.epochs()["train_loss"].to_numpy(),
            Run.open(two.run_place).epochs()["train_loss"].to_numpy(),
            rtol=1e-4,
        )


@pytest.mark.parametrize("method", ["resample", "resample+remix"])
def test_scores_for_resampling_hold_values_that_sum_to_what_all_modalities_are_worth(
    store: Path, method: str
) -> None:
    run = launch(asked(store, method, name="valued"))
    features = FeatureSet.open(run_config(store).features_place)
    for epoch in (1, 2):
        table = read_table(run.scores(epoch))
        has = features.has[table["row"].to_numpy()]
        values = np.stack([table[f"shapley_{name}"].to_numpy() for name in NAMES], axis=1)
        assert values.dtype == np.float32
        assert np.array_equal(np.isnan(values), ~has)
        total = np.nansum(values.astype(float), axis=1)
        assert np.all(
            np.isclose(total, 0, atol=1e-5) | np.isclose(total, has.sum(axis=1), atol=1e-5)
        )
        assert 0 < np.isclose(total, has.sum(axis=1), atol=1e-5).mean() <= 1


def test_too_many_modalities_for_values_are_refused_before_work(tmp_path: Path) -> None:
    shapes = dict.fromkeys(("touch", *(f"m{i}" for i in range(6))), ((4,), "float32"))
    make_features(tmp_path / "features" / "made", shapes, num_rows=60)
    config = with_method(run_config(tmp_path), "resample", 0)
    with pytest.raises(
        ConfigError,
        match=r"(?=.*plan\.copies)(?=.*\bresample\b)(?=.*\bmade\b)(?=.*\b7\b)(?=.*\b6\b)",
    ):
        launch(config)
    assert not config.run_place.exists()
