"""Mid-fusion: the rules of MMTM and CentralNet computed apart, masking, and runs with and without remix."""

import re
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18

from pipeline.features.feature_set import FeatureSet
from tests.support.stores import make_features, run_config
from trainer.comparison.methods import with_method
from trainer.data.inputs import Inputs
from trainer.launch import launch
from trainer.models import checkpoint as checkpoints
from trainer.models.encoders import Encoder, EncoderConfig, Stages, build_encoder, finish
from trainer.models.midfusion import MIDFUSIONS, CentralNet, Mmtm
from trainer.models.model import ModelConfig, MultimodalModel, Outputs, build_model, model_for
from trainer.scoring.predictor import Predictor

SHAPES: dict[str, tuple[int, ...]] = {
    "frames": (2, 3, 16, 16),
    "note": (9,),
    "picture": (1, 12, 9),
    "vector": (5, 2),
}
"""Four stages, two, four, two."""
CLASSES, ROWS = 5, 6
MASKS = ("skip", "feature", "input")
Given = tuple[dict[str, Tensor], dict[str, Tensor], Tensor]
OWN = r"encoders\.modality-picture|fusion\.(exchanges\.\d\.excite|projections\.\d|alphas\.\d)\.1"
over_fusions = pytest.mark.parametrize("fusion", MIDFUSIONS)


def make(
    names: tuple[str, ...], fusion: str, mask: str = "skip", norm: str = "batch", seed: int = 0
) -> MultimodalModel:
    config = ModelConfig.model_validate(
        {
            "fusion": fusion,
            "mask": mask,
            "hidden": 12,
            "encoder": {"width": 4, "hidden": 8, "norm": norm},
        }
    )
    return build_model(
        config,
        {name: SHAPES[name] for name in names},
        CLASSES,
        seed,
        ids=[name for name in names if name == "note"],
    )


def batch(names: tuple[str, ...], size: int = ROWS) -> Given:
    generator = torch.Generator().manual_seed(1)
    inputs = {name: torch.randn(size, *SHAPES[name], generator=generator) for name in names}
    if "note" in inputs:
        inputs["note"] = torch.randint(257, (size, 9), generator=generator)
    return (
        inputs,
        {name: torch.ones(size, dtype=torch.bool) for name in names},
        torch.randint(CLASSES, (size,), generator=generator),
    )


def alone(encoder: Encoder, x: Tensor, gates: list[Tensor | None]) -> tuple[list[Tensor], Tensor]:
    """What an encoder shows under given gates, and its feature."""
    stages: Stages = encoder.stages(x)
    shown = [stages.send(gate) for gate in [None, *gates[:-1]]]
    return shown, finish(stages, gates[-1])


@pytest.mark.parametrize("kind", ["resnet18", "cnn", "mlp", "text"])
def test_an_encoder_stage_by_stage_is_the_encoder(kind: str) -> None:
    shapes = {"resnet18": (2, 3, 32, 32), "cnn": (1, 20, 24), "mlp": (5, 2), "text": (9,)}
    encoder, dim = build_encoder(
        EncoderConfig(kind=kind, width=4, hidden=8), shapes[kind], ids=kind == "text"
    )
    encoder.eval()
    x = torch.randint(257, (3, 9)) if kind == "text" else torch.randn(3, *shapes[kind])
    shown, feature = alone(encoder, x, [None] * len(encoder.channels))
    assert [tuple(mean.shape) for mean in shown] == [
        (3, num) for num in encoder.channels
    ] and encoder.channels[-1] == dim
    torch.testing.assert_close(feature, encoder(x), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(feature, shown[-1])
    # gates of 2 on the last stage double the feature; of 0 on the first one leave nothing of the input
    ones = [torch.ones(3, num) for num in encoder.channels]
    torch.testing.assert_close(alone(encoder, x, [*ones[:-1], 2 * ones[-1]])[1], 2 * feature)
    blind = alone(encoder, x, [0 * ones[0], *ones[1:]])[1]
    torch.testing.assert_close(blind, blind[:1].expand(3, -1) if kind != "text" else blind)
    assert not torch.allclose(blind, feature)


def test_the_resnet_is_that_of_torchvision() -> None:
    torch.manual_seed(3)
    ours, _ = build_encoder(EncoderConfig(kind="resnet18"), (3, 32, 32))
    torch.manual_seed(3)
    theirs = resnet18(weights=None)
    theirs.fc = nn.Identity()
    state = theirs.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in ours.state_dict().items()) and len(
        state
    ) == len(ours.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_the_gates_of_mmtm() -> None:
    model = make(("picture", "vector"), "mmtm").eval()
    inputs, has, _ = batch(("picture", "vector"))
    fusion = model.fusion
    assert isinstance(fusion, Mmtm) and list(fusion.exchanges) == [
        "2",
        "3",
    ]  # of the picture's four stages the vector has the last two
    blocks = [
        nn.Sequential(*list(model.encoder("picture").children())[3 * i : 3 * i + 3])
        for i in range(4)
    ]
    layers = [
        nn.Sequential(*list(model.encoder("vector").children())[3 * i : 3 * i + 3])
        for i in range(2)
    ]
    picture, vector = blocks[1](blocks[0](inputs["picture"])), inputs["vector"].flatten(1)
    for i in range(2):
        picture, vector = blocks[2 + i](picture), layers[i](vector)
        exchange = fusion.exchanges[str(2 + i)]
        channels = picture.shape[1] + vector.shape[1]
        assert exchange.squeeze.weight.shape == (channels // 4, channels)
        squeezed = torch.cat([picture.mean((2, 3)), vector], 1)
        z = (squeezed @ exchange.squeeze.weight.T + exchange.squeeze.bias).clamp(min=0)
        gates = [
            2 / (1 + torch.exp(-(z @ exchange.excite[k].weight.T + exchange.excite[k].bias)))
            for k in ("0", "1")
        ]
        picture, vector = picture * gates[0][:, :, None, None], vector * gates[1]
    logits = [model.head("picture")(picture.mean((2, 3))), model.head("vector")(vector)]
    outputs = model(inputs, has)
    for name, expected in zip(("picture", "vector"), logits, strict=True):
        torch.testing.assert_close(outputs.unimodal[name], expected)
    torch.testing.assert_close(outputs.fused, (logits[0] + logits[1]) / 2)


def test_mmtm_sits_after_the_last_three_stages_that_are_shared() -> None:
    meetings = {
        ("frames", "picture"): ["1", "2", "3"],
        ("note", "vector"): ["0", "1"],
        ("frames", "note", "vector"): ["2", "3"],
        ("note",): [],
    }
    for names, expected in meetings.items():
        fusion = make(names, "mmtm").fusion
        assert isinstance(fusion, Mmtm) and list(fusion.exchanges) == expected


def test_the_sums_of_centralnet() -> None:
    names = ("frames", "vector")
    model = make(names, "centralnet").eval()
    inputs, has, _ = batch(names)
    fusion = model.fusion
    assert isinstance(fusion, CentralNet)
    with torch.no_grad():
        for number, parameter in enumerate([*fusion.alphas.parameters(), *fusion.central]):
            parameter.fill_(0.5 + 0.3 * number)
    shown = [
        alone(model.encoder(name), inputs[name], [None] * len(model.encoder(name).channels))[0]
        for name in names
    ]
    h = None
    for point in range(4):
        total = fusion.alphas[point]["0"] * (
            shown[0][point] @ fusion.projections[point]["0"].weight.T
        )
        if point >= 2:
            total = total + fusion.alphas[point]["1"] * (
                shown[1][point - 2] @ fusion.projections[point]["1"].weight.T
            )
        if h is not None:
            total = total + fusion.central[point - 1] * h
        x = total @ fusion.layers[point][0].weight.T + fusion.layers[point][0].bias
        h = (
            (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        ).clamp(min=0)
    assert h is not None
    outputs = model(inputs, has)
    torch.testing.assert_close(
        outputs.fused, h @ fusion.output.weight.T + fusion.output.bias, rtol=1e-4, atol=1e-5
    )
    for k, name in enumerate(names):
        torch.testing.assert_close(outputs.unimodal[name], model.head(name)(shown[k][-1]))


@pytest.mark.parametrize("names", [("frames", "note"), ("picture", "vector", "frames")])
@over_fusions
def test_skip_gives_the_bits_of_feature(fusion: str, names: tuple[str, ...]) -> None:
    inputs, has, _ = batch(names)
    has[names[-1]] = torch.arange(ROWS) < 4
    for train, training in product(names, (False, True)):
        for autocast in (False, True):
            skip, feature = (make(names, fusion, mask).train(training) for mask in MASKS[:2])
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                only, ran, both = (
                    skip({train: inputs[train]}, has, train),
                    feature(inputs, has, train),
                    feature(inputs, has),
                )
            assert only.fused.shape == (ROWS, CLASSES) and set(only.unimodal) == set(
                ran.unimodal
            ) == {train}
            assert torch.equal(only.fused, ran.fused) and torch.equal(
                only.unimodal[train], ran.unimodal[train]
            )
            assert not torch.equal(only.fused, both.fused)


@over_fusions
def test_rows_that_keep_different_modalities(fusion: str) -> None:
    names = ("frames", "note", "vector")
    inputs, has, _ = batch(names)
    has["vector"] = torch.arange(ROWS) % 4 != 3
    mine = torch.arange(ROWS) % 4  # the modality that each row keeps; 3: all
    keep = {name: (mine == k) | (mine == 3) for k, name in enumerate(names)}
    skip, feature = (make(names, fusion, mask).eval() for mask in MASKS[:2])
    mixed = skip(inputs, has, keep=keep)
    torch.testing.assert_close(feature(inputs, has, keep=keep).fused, mixed.fused)
    for row in range(ROWS):
        one = partial(pick, row=row)
        expected = skip(one(inputs), one(has), names[mine[row]] if mine[row] < 3 else "all")
        torch.testing.assert_close(mixed.fused[row], expected.fused[0], rtol=1e-4, atol=1e-5)


def pick(values: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: value[row : row + 1] for name, value in values.items()}


@pytest.mark.parametrize("mask", MASKS)
@over_fusions
def test_a_row_depends_on_what_it_has_and_on_no_other(fusion: str, mask: str) -> None:
    names = ("frames", "note", "picture")
    model = make(names, fusion, mask).eval()
    inputs, has, _ = batch(names)
    has["frames"] = torch.tensor([True, False, True, True, False, True])
    outputs = model(inputs, has)
    inputs["frames"][~has["frames"]] = float("nan")
    again = model(inputs, has)
    assert torch.equal(again.fused, outputs.fused) and torch.equal(
        again.unimodal["note"], outputs.unimodal["note"]
    )
    absent = model(inputs, {**has, "frames": torch.zeros(ROWS, dtype=torch.bool)}).fused
    torch.testing.assert_close(absent[~has["frames"]], outputs.fused[~has["frames"]])
    assert not torch.allclose(absent[has["frames"]], outputs.fused[has["frames"]])
    for row in range(ROWS):
        torch.testing.assert_close(
            model(pick(inputs, row), pick(has, row)).fused[0],
            outputs.fused[row],
            rtol=1e-4,
            atol=1e-5,
        )
    nothing = model(inputs, {name: torch.zeros(ROWS, dtype=torch.bool) for name in names}).fused
    assert nothing.isfinite().all() and torch.equal(nothing, nothing[:1].expand(ROWS, -1))


@pytest.mark.parametrize("mask", MASKS)
@over_fusions
def test_a_modality_is_predicted_by_itself(fusion: str, mask: str) -> None:
    names = ("frames", "note", "vector")
    model = make(names, fusion, mask).eval()
    inputs, has, _ = batch(names)
    has["note"] = torch.arange(ROWS) % 2 == 0
    first = model.predict(inputs, has)
    assert torch.equal(first.fused, model(inputs, has).fused)
    other = {**inputs, "frames": torch.randn_like(inputs["frames"])}
    second = model.predict(other, {**has, "note": torch.zeros(ROWS, dtype=torch.bool)})
    assert torch.equal(first.unimodal["vector"], second.unimodal["vector"]) and not torch.equal(
        first.fused, second.fused
    )
    features = model.features(inputs, has)
    for name in names:
        skipping = make(names, fusion).eval()(inputs, has, name).unimodal[name]
        assert torch.equal(first.unimodal[name][has[name]], skipping[has[name]])
        assert torch.equal(model.head(name)(features[name]), first.unimodal[name])
    assert torch.equal(model(other, has).unimodal["vector"], first.unimodal["vector"]) == (
        fusion == "centralnet"
    )


@pytest.mark.parametrize("mask", MASKS)
@over_fusions
def test_what_moves_of_a_masked_modality(fusion: str, mask: str) -> None:
    names = ("frames", "picture")
    model = make(names, fusion, mask)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-2)
    inputs, has, labels = batch(names)

    def step(train: str) -> None:
        optimizer.zero_grad(set_to_none=True)
        outputs = model(inputs, has, train)
        losses(outputs, labels).backward()
        optimizer.step()

    def own() -> dict[str, Tensor]:
        """What is the picture's alone: its encoder with the statistics, its gates, projections and weights, and their moments."""
        parts = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        mine = {key: part for key, part in parts.items() if re.match(OWN, key)}
        moments = {
            f"{key} {name}": value
            for key, part in mine.items()
            for name, value in optimizer.state.get(part, {}).items()
        }
        return {key: value.detach().clone() for key, value in (mine | moments).items()}

    step("all")
    before = own()
    assert all(any(word in key for key in before) for word in ("running_mean", "fusion", "exp_avg"))
    for _ in range(2):
        step("frames")
    moved = {key: not torch.equal(value, before[key]) for key, value in own().items()}
    assert (
        not any(moved.values())
        if mask == "skip"
        else all(moved[key] for key in moved if "exp_avg" in key or "running" in key)
    )


def losses(outputs: Outputs, labels: Tensor) -> Tensor:
    return torch.stack(
        [F.cross_entropy(x, labels) for x in (outputs.fused, *outputs.unimodal.values())]
    ).sum()


@pytest.mark.parametrize("mask", MASKS)
@over_fusions
def test_an_empty_slice_steps(fusion: str, mask: str) -> None:
    names = tuple(SHAPES)
    model = make(names, fusion, mask)
    before = [b.clone() for b in model.buffers()]
    inputs, has, _ = batch(names, 0)
    for train in ("all", *names):
        outputs = model(inputs, has, train)
        assert outputs.fused.shape == (0, CLASSES) and all(
            x.shape == (0, CLASSES) for x in outputs.unimodal.values()
        )
        torch.cat([outputs.fused, *outputs.unimodal.values()]).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("train", ["all", "picture"])
@over_fusions
def test_the_gradients_of_slices_add_up(fusion: str, train: str) -> None:
    names = ("frames", "note", "picture")
    inputs, has, labels = batch(names, 7)
    has["note"][2:4] = False

    def gradients(slices: list[slice]) -> list[Tensor | None]:
        model = make(names, fusion, norm="group")
        for part in slices:
            outputs = model(
                {name: x[part] for name, x in inputs.items()},
                {name: x[part] for name, x in has.items()},
                train,
            )
            (F.cross_entropy(outputs.fused, labels[part], reduction="sum") / len(labels)).backward()
        return [p.grad for p in model.parameters()]

    whole, parts = (
        gradients([slice(None)]),
        gradients([slice(0, 2), slice(2, 2), slice(2, 4), slice(4, 7)]),
    )
    assert any(g is not None and g.any() for g in whole)
    for a, b in zip(whole, parts, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@over_fusions
def test_weights_depend_on_seed_and_name_alone(fusion: str) -> None:
    names = ("frames", "vector")
    state, again, other = (make(names, fusion, seed=seed).state_dict() for seed in (0, 0, 1))
    late = make(names, "concat").state_dict()
    assert all(torch.equal(state[key], again[key]) for key in state)
    assert all(torch.equal(state[key], late[key]) for key in late if not key.startswith("fusion"))
    assert any(not torch.equal(state[key], other[key]) for key in state if key.startswith("fusion"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    make_features(store / "features" / "made", missing=0.2, num_rows=120)
    return store


@pytest.mark.parametrize("method", ["mmtm", "mmtm+remix", "centralnet", "centralnet+remix"])
def test_runs_learn(store: Path, method: str) -> None:
    config = with_method(run_config(store, model={"hidden": 16}, optimizer={"lr": 3e-3}), method, 0)
    run = launch(config)
    loss = run.epochs()["train_loss"].to_pylist()
    assert run.facts["status"] == "finished" and loss[1] < loss[0] and loss[-1] < loss[-2]
    assert run.scores(2).exists() == ("remix" in method)


@over_fusions
def test_what_is_scored_is_each_modality_by_itself(store: Path, fusion: str) -> None:
    config = run_config(store, model={"fusion": fusion, "hidden": 16})
    features, rows = FeatureSet.open(config.features_place), np.arange(20)
    model = model_for(config.model, features, 0).eval()
    inputs = Inputs(checkpoints.architecture(config.model, features), 0, torch.device("cpu"))
    found = Predictor(model, inputs, features, torch.device("cpu"))(rows)
    has = {
        name: torch.from_numpy(features.has[rows, k]) for k, name in enumerate(features.modalities)
    }
    given = inputs(
        {name: torch.from_numpy(features.read(name, rows)) for name in features.modalities},
        rows,
        training=False,
    )
    whole = model(given, has)
    torch.testing.assert_close(torch.from_numpy(found["fused"]), whole.fused.softmax(1))
    for name in features.modalities:
        own, alone = has[name], model(given, has, name).unimodal[name].softmax(1)
        torch.testing.assert_close(torch.from_numpy(found[name])[own], alone[own])
        assert torch.allclose(whole.unimodal[name].softmax(1)[own], alone[own]) == (
            fusion == "centralnet"
        )
