"""The fusion is trained on the features of each scoring, and nothing else is."""

from pathlib import Path

import pytest
import torch

from pipeline.errors import ConfigError
from tests.support.stores import interrupt, make_features, run_config, same_weights, weights
from trainer.config import RunConfig
from trainer.launch import launch


def config_of(store: Path, name: str, *, refit: bool, **model: object) -> RunConfig:
    train = {"epochs": 3, "warmup_epochs": 1, "refit_fusion": refit}
    touch = {"encoders": {"touch": {"kind": "mlp", "hidden": 16}}}
    return run_config(store, name=name, train=train, model={**touch, **model})


def test_the_fusion_alone_is_trained_and_a_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", missing=0.2)
    refit = launch(config_of(tmp_path, "refit", refit=True))
    plain = launch(config_of(tmp_path, "plain", refit=False))
    assert not torch.equal(
        weights(refit)["fusion.output.weight"], weights(plain)["fusion.output.weight"]
    )
    for epoch, step in ((1, 0), (2, 0), (2, 3)):
        config = config_of(tmp_path, f"stopped-{epoch}-{step}", refit=True)
        interrupt(config, epoch, step)
        assert same_weights(refit, launch(config, resume=True))


@pytest.mark.parametrize("fusion", ["decision", "mmtm"])
def test_a_fusion_without_a_layer_on_the_features_is_refused(tmp_path: Path, fusion: str) -> None:
    make_features(tmp_path / "features" / "made")
    with pytest.raises(ConfigError, match=rf"(?=.*refit_fusion)(?=.*{fusion})"):
        launch(config_of(tmp_path, "refused", refit=True, fusion=fusion))
