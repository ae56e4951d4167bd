"""Mid-fusion: the rules of MMTM and CentralNet computed apart, and runs with and without remix."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from pipeline.decode.media.shapes import BYTES
from pipeline.features.feature_set import FeatureSet
from tests.support.midfusion import alone, batch, make, over_fusions
from tests.support.stores import make_features, run_config
from trainer.comparison.methods import with_method
from trainer.data.inputs import Inputs
from trainer.launch import launch
from trainer.models import checkpoint as checkpoints
from trainer.models.encoder_config import EncoderConfig
from trainer.models.encoders import build_encoder
from trainer.models.midfusion import CentralNet, Mmtm
from trainer.models.model import model_for
from trainer.scoring.predictor import Predictor


@pytest.mark.parametrize("kind", ["resnet18", "cnn", "mlp", "text"])
def test_an_encoder_stage_by_stage_is_the_encoder(kind: str) -> None:
    shapes = {"resnet18": (2, 3, 32, 32), "cnn": (1, 20, 24), "mlp": (5, 2), "text": (9,)}
    encoder, dim = build_encoder(
        EncoderConfig(kind=kind, width=4, hidden=8), shapes[kind], BYTES if kind == "text" else None
    )
    encoder.eval()
    x = torch.randint(257, (3, 9)) if kind == "text" else torch.randn(3, *shapes[kind])
    shown, feature = alone(encoder, x, [None] * len(encoder.channels))
    assert [tuple(mean.shape) for mean in shown] == [
        (3, num) for num in encoder.channels
    ] and encoder.channels[-1] == dim
    torch.testing.assert_close(feature, encoder(x), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(feature, shown[-1])
    # gates of 2 on the last stage double the feature; gates of 0 on the first remove the input
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
    inputs, present, _ = batch(("picture", "vector"))
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
    outputs = model(inputs, present)
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
    inputs, present, _ = batch(names)
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
    outputs = model(inputs, present)
    torch.testing.assert_close(
        outputs.fused, h @ fusion.output.weight.T + fusion.output.bias, rtol=1e-4, atol=1e-5
    )
    for k, name in enumerate(names):
        torch.testing.assert_close(outputs.unimodal[name], model.head(name)(shown[k][-1]))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    make_features(store / "features" / "made", missing=0.2, num_rows=120)
    return store


@pytest.mark.parametrize("method", ["mmtm+remix", "centralnet"])
def test_runs_learn(store: Path, method: str) -> None:
    config = with_method(run_config(store, model={"hidden": 16}, optimizer={"lr": 3e-3}), method, 0)
    run = launch(config)
    loss = run.epochs()["train_loss"].to_pylist()
    assert run.metadata["status"] == "finished" and loss[1] < loss[0] and loss[-1] < loss[-2]
    assert run.scores(2).exists() == ("remix" in method)


@over_fusions
def test_what_is_scored_is_each_modality_by_itself(store: Path, fusion: str) -> None:
    config = run_config(store, model={"fusion": fusion, "hidden": 16})
    features, rows = FeatureSet.open(config.features_path), np.arange(20)
    model = model_for(config.model, features, 0).eval()
    inputs = Inputs(checkpoints.architecture(config.model, features), 0, torch.device("cpu"))
    found = Predictor(model, inputs, features, torch.device("cpu"))(rows)
    present = {
        name: torch.from_numpy(features.has[rows, k]) for k, name in enumerate(features.modalities)
    }
    given = inputs(
        {name: torch.from_numpy(features.read(name, rows)) for name in features.modalities},
        rows,
        training=False,
    )
    whole = model(given, present)
    torch.testing.assert_close(torch.from_numpy(found["fused"]), whole.fused.softmax(1))
    for name in features.modalities:
        own, alone = present[name], model(given, present, name).unimodal[name].softmax(1)
        torch.testing.assert_close(torch.from_numpy(found[name])[own], alone[own])
        assert torch.allclose(whole.unimodal[name].softmax(1)[own], alone[own]) == (
            fusion == "centralnet"
        )
