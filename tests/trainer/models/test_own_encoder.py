"""Encoders by import path: built, trained, recorded, and refused if they are others or missing."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import remix
from pipeline.errors import ConfigError, MismatchError
from tests.support.own_modules import MODELS, write_module
from tests.support.stores import make_features, run_config
from trainer.config import RunConfig
from trainer.launch import launch
from trainer.models.checkpoint import model_of
from trainer.models.encoder_config import EncoderConfig
from trainer.models.encoders import build_encoder
from trainer.models.model_config import ModelConfig
from trainer.models.torchvision_models import torchvision_encoder
from trainer.run_directory import Run
from trainer.verification.verify import verify

SMALL = {"kind": "own_models:Small", "args": {"size": 5}}


@pytest.fixture(autouse=True)
def own_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_module(monkeypatch, tmp_path / "own", MODELS)


def own(store: Path, **changes: Any) -> RunConfig:
    """A run with an own encoder of two modalities."""
    encoders = {"touch": SMALL, "sound": SMALL}
    return run_config(store, model={"encoders": encoders}, **changes)


def finished(store: Path) -> Run:
    make_features(store / "features" / "made", missing=0.2, num_rows=100)
    return launch(own(store, assemble=True, train={"epochs": 2, "warmup_epochs": 1}))


def test_a_run_with_an_own_encoder_is_recorded_verified_and_loaded(tmp_path: Path) -> None:
    run = finished(tmp_path)
    model, _ = model_of(run.checkpoint("last"), remix.FeatureSet.open(tmp_path / "features/made"))
    assert [sum(x.numel() for x in model.encoder(n).parameters()) for n in ("sound", "touch")] == [
        (16 * 16 + 1) * 5,
        (6 * 8 + 1) * 5,
    ]
    recorded = run.metadata["extensions"]
    assert list(recorded) == ["own_models:Small"]
    assert recorded["own_models:Small"]["package"] is None
    assert len(recorded["own_models:Small"]["sha256"]) == 64
    assert verify(run)["ok"]
    assembled = remix.load_model(str(run.path / "checkpoints" / "model.pt"))
    p = assembled.predict({"touch": np.zeros((3, 6, 8), np.float32)})
    assert p.shape == (3, 3)


def test_another_or_a_missing_module_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(tmp_path)
    config, before = RunConfig.model_validate(run.metadata["config"]), run.metadata
    last, features = run.checkpoint("last"), remix.FeatureSet.open(tmp_path / "features/made")
    assert launch(config, resume=True).metadata == before
    digest = config.digest
    write_module(monkeypatch, tmp_path / "other", MODELS.replace("relu", "tanh"))
    for use in (
        lambda: launch(config, resume=True),
        lambda: model_of(last, features),
        lambda: remix.load_model(str(run.path / "checkpoints" / "model.pt")),
    ):
        with pytest.raises(MismatchError, match="own_models:Small"):
            use()
    assert config.digest != digest
    assert not verify(run)["ok"]
    (tmp_path / "other" / "own_models.py").unlink()
    (tmp_path / "own" / "own_models.py").unlink()
    monkeypatch.delitem(sys.modules, "own_models")
    with pytest.raises(ConfigError, match="own_models"):
        launch(config, resume=True)
    with pytest.raises(ConfigError, match="own_models"):
        model_of(last, features)
    assert run.metadata == before


@pytest.mark.parametrize(
    ("encoder", "named"),
    [
        ({"kind": "absent_models:Small"}, "absent_models"),
        ({"kind": "own_models:Absent"}, "Absent"),
        ({"kind": "own_models:Small", "args": {"sise": 4}}, "sise"),
        ({"kind": "own_models:WrongSize"}, "out_dim"),
        ({"kind": "own_models:nothing"}, "NoneType"),
    ],
)
def test_an_encoder_that_cannot_be_used_is_refused_before_work(
    tmp_path: Path, encoder: dict[str, Any], named: str
) -> None:
    make_features(tmp_path / "features" / "made")
    config = run_config(tmp_path, model={"encoders": {"touch": encoder}})
    with pytest.raises(ConfigError, match=named):
        launch(config)
    assert not config.run_path.exists()


@pytest.mark.parametrize(
    "encoder",
    [
        {"kind": "cmm"},
        {"kind": "own_models"},
        {"kind": "cnn", "args": {"size": 4}},
        {"kind": "cnn", "name": "resnet18"},
        {"kind": "timm"},
    ],
)
def test_a_wrong_name_or_needless_arguments_are_refused(
    tmp_path: Path, encoder: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="encoder"):
        run_config(tmp_path, model={"encoders": {"touch": encoder}})


def test_mid_fusion_takes_an_own_encoder_as_one_stage(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", num_rows=100)
    run = launch(
        own(
            tmp_path,
            method="mmtm",
            train={"epochs": 1, "warmup_epochs": 0},
        )
    )
    assert run.metadata["status"] == "finished"


def test_models_of_torchvision_encode_images_and_frames(tmp_path: Path) -> None:
    shapes = {"sound": ((1, 32, 32), "float16"), "sight": ((2, 3, 32, 32), "uint8")}
    make_features(tmp_path / "features" / "made", shapes, num_rows=60)
    kind = {"kind": "torchvision", "name": "shufflenet_v2_x0_5"}
    train = {"epochs": 1, "warmup_epochs": 0}
    model = {"encoders": {"sound": kind, "sight": kind}}
    config = run_config(tmp_path, train=train).model_copy(
        update={"model": ModelConfig.model_validate(model)}
    )
    run = launch(config)
    recorded = run.metadata["extensions"]["torchvision.models:get_model"]
    assert recorded["package"] == f"torchvision {version('torchvision')}"
    assert verify(run)["ok"]


@pytest.mark.parametrize(
    "fields", [{"name": "resnet0"}, {"name": "resnet18", "args": {"weights": "x"}}]
)
def test_a_model_that_torchvision_lacks_or_its_weights_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="torchvision"):
        build_encoder(EncoderConfig.model_validate({"kind": "torchvision", **fields}), (3, 8, 8))


def test_channels_of_torchvision_sum_to_the_same_response() -> None:
    def first(channels: int) -> torch.Tensor:
        torch.manual_seed(0)
        model = torchvision_encoder((channels, 32, 32), "resnet18")
        assert model.out_dim == 512
        return model.get_parameter("conv1.weight").sum(1)

    torch.testing.assert_close(first(1), first(3))
    torch.testing.assert_close(first(5), first(3))


def test_a_model_of_torchvision_trains_on_a_single_row() -> None:
    config = EncoderConfig(kind="torchvision", name="resnet18")
    encoder, dim = build_encoder(config, (3, 32, 32))
    assert encoder.train()(torch.zeros(1, 3, 32, 32)).shape == (1, dim)
