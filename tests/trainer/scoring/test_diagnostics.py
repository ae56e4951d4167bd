"""Diagnostics: they change nothing, and cosines equal those of gradients derived by hand."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.features.feature_set import FeatureSet
from tests.support.stores import make_features, run_config, same_weights, weights
from trainer.config import RunConfig
from trainer.data.inputs import Inputs
from trainer.launch import launch
from trainer.models.checkpoint import architecture
from trainer.models.model import MultimodalModel, build_model, model_for
from trainer.process_group import World
from trainer.run_directory import Run
from trainer.scoring.diagnostics import Diagnostics, gradient_cosines, probe_rows
from trainer.scoring.predictor import Predictor


def test_a_run_with_diagnostics_has_the_weights_of_one_without(tmp_path: Path) -> None:
    features = make_features(tmp_path / "features" / "made", missing=0.2)
    model = {"encoder": {"norm": "batch"}}
    off, on = (
        launch(
            run_config(
                tmp_path, name=name, model=model, train={"epochs": 3, "diagnostics": name == "on"}
            )
        )
        for name in ("off", "on")
    )
    assert same_weights(off, on)
    assert any("running_mean" in key for key in weights(on))
    names = features.modalities
    columns = [
        *(f"{kind}_{name}" for kind in ("gradient_cosine", "zero_mask_accuracy") for name in names),
        "head_gradient_cosine",
    ]
    before, actual = off.epochs(), on.epochs()
    assert all(before[column].null_count == len(before) for column in columns)
    for column in columns:
        values = actual[column].to_numpy()
        assert np.isfinite(values).all()
        assert ((values >= (0 if "accuracy" in column else -1)) & (values <= 1)).all()
    assert "zero_mask_accuracy" not in off.metadata["result"]
    masked = on.metadata["result"]["zero_mask_accuracy"]
    assert list(masked) == names
    expected = {name: alone(on, features, name) for name in names}
    assert masked == pytest.approx(expected)


def alone(run: Run, features: FeatureSet, name: str) -> float:
    """Accuracy of the fused head with one modality, from its block of the fusion's weights."""
    config = RunConfig.model_validate(run.metadata["config"])
    model = model_for(config.model, features, 0)
    model.load_state_dict(weights(run, "best"))
    model.eval()
    k = features.modalities.index(name)
    rows = features.rows_of("test")
    rows = rows[features.has[rows, k]]
    x = Inputs(architecture(config.model, features), 0, torch.device("cpu"))(
        {name: torch.from_numpy(features.read(name, rows))}, rows, training=False
    )[name]
    ends = np.cumsum([model.head(each).in_features for each in features.modalities])
    block = model.fusion.output.weight[:, ends[k] - model.head(name).in_features : ends[k]]
    with torch.no_grad():
        logits = model.encoder(name)(x) @ block.T + model.fusion.output.bias
    return float((logits.argmax(1).numpy() == features.labels[rows]).mean())


def linear_model() -> MultimodalModel:
    """A model with encoders W_k x only, whose gradients are outer products."""
    config = {"encoder": {"kind": "mlp", "hidden": 4}}
    model = build_model(
        RunConfig.model_validate({"name": "x", "features": "x", "model": config}).model,
        {"a": (3,), "b": (5,), "c": (2,)},
        3,
        0,
    ).double()
    for name, size in (("a", 3), ("b", 5), ("c", 2)):
        model.encoders[f"modality-{name}"] = torch.nn.Linear(size, 4, bias=False).double()
    return model


def test_cosines_are_those_of_the_outer_products() -> None:
    torch.manual_seed(0)
    model, n = linear_model(), 20
    x = {
        name: torch.randn(n, size, dtype=torch.float64)
        for name, size in (("a", 3), ("b", 5), ("c", 2))
    }
    has = {"a": torch.ones(n, dtype=torch.bool), "b": torch.rand(n) < 0.6, "c": torch.rand(n) < 0.8}
    labels = torch.randint(3, (n,))
    batches = [
        (
            {name: v[part] for name, v in x.items()},
            {name: v[part] for name, v in has.items()},
            labels[part],
        )
        for part in (slice(0, 7), slice(7, n))
    ]
    actual = gradient_cosines(model, batches)
    assert all(parameter.grad is None for parameter in model.parameters())
    z = {name: (x[name] @ model.encoder(name).weight.T) * has[name][:, None] for name in x}
    fusion, bias = model.fusion.output.weight, model.fusion.output.bias
    fused = error(torch.cat(list(z.values()), 1) @ fusion.T + bias, labels)
    expected, shared = {}, {}
    for k, name in enumerate(x):
        block, head = fusion[:, 4 * k : 4 * k + 4], model.head(name)
        own = error(z[name] @ head.weight.T + head.bias, labels)
        mine = x[name] * has[name][:, None]
        expected[f"gradient_cosine_{name}"] = cosine(
            (fused @ block).T @ mine, (own @ head.weight).T @ mine
        )
        only = error(z[name] @ block.T + bias, labels) * has[name][:, None]
        features = torch.zeros(n, 12, dtype=torch.float64)
        features[:, 4 * k : 4 * k + 4] = z[name]
        shared[name] = torch.cat([(only.T @ features).flatten(), only.sum(0)])
    expected["head_gradient_cosine"] = float(
        np.mean([cosine(shared[a], shared[b]) for a, b in combinations(x, 2)])
    )
    assert actual == pytest.approx(expected, abs=1e-5)  # the loss is taken in float32


def error(logits: Tensor, labels: Tensor) -> Tensor:
    """d CE / d logits"""
    return torch.softmax(logits, 1).detach() - torch.nn.functional.one_hot(labels, 3)


def cosine(first: Tensor, second: Tensor) -> float:
    return ((first * second).sum() / (first.norm() * second.norm())).item()


def test_cosines_without_gradients_are_null(tmp_path: Path) -> None:
    config = run_config(tmp_path, model={"fusion": "decision"})
    features = make_features(tmp_path / "features" / "made", num_rows=60)
    model = model_for(config.model, features, 0).train()
    inputs = Inputs(architecture(config.model, features), 0, torch.device("cpu"))
    state = torch.random.get_rng_state()
    diagnostics = Diagnostics(
        model,
        inputs,
        Predictor(model, inputs, features, torch.device("cpu")),
        features,
        config,
        World(),
    )
    actual = diagnostics.epoch()
    assert actual == diagnostics.epoch()
    assert model.training
    assert torch.equal(state, torch.random.get_rng_state())
    assert (
        actual["head_gradient_cosine"] is None
    )  # the fusion has no parameters, and the modalities share no head
    assert all(isinstance(actual[f"gradient_cosine_{name}"], float) for name in features.modalities)


def test_probe_rows_are_from_the_train_split_and_depend_on_the_seed(tmp_path: Path) -> None:
    features = make_features(
        tmp_path / "made", {"a": ((1,), "float32"), "b": ((1,), "float32")}, num_rows=800
    )
    first, again, other = (probe_rows(features, seed) for seed in (0, 0, 1))
    assert len(first) == 256
    assert (np.diff(first) > 0).all()
    assert set(first.tolist()) <= set(features.rows_of("train").tolist())
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
