"""Continuing a run, also after an upgrade that added configuration fields."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import MismatchError
from tests.support.stores import interrupt, make_features, run_config, same_weights
from trainer.config import RunConfig
from trainer.launch import launch
from trainer.run_directory import Run
from trainer.scoring.offline import load


@pytest.fixture
def stopped(tmp_path: Path) -> Run:
    """A run that stopped in its first epoch after warm-up."""
    make_features(tmp_path / "features" / "made", num_rows=100)

    return interrupt(run_config(tmp_path), epoch=2)


def test_a_run_from_before_a_field_existed_is_continued(stopped: Run, tmp_path: Path) -> None:
    """An older version lacks some fields and computes another digest."""
    facts, last = stopped.metadata, stopped.checkpoint("last").local
    for part, field in (("train", "ogm_alpha"), ("model", "hidden"), ("plan", "copies")):
        del facts["config"][part][field]
    stopped.update(config=facts["config"], digest="0" * 64)
    found = torch.load(last, weights_only=True)
    del found["architecture"]["model"]["hidden"]
    del found["architecture"]["model"]["encoder"]["crop_area"]
    torch.save(found | {"digest": "0" * 64}, last)
    assert launch(run_config(tmp_path), resume=True).metadata["status"] == "finished"
    assert stopped.open_plan(3).metadata["parents"]["config"] == "0" * 64
    assert same_weights(stopped, launch(run_config(tmp_path, name="straight")))
    features = make_features(tmp_path / "features" / "made", num_rows=100)
    torch.save(found, last)
    load(stopped.checkpoint("last"), features)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"optimizer": {"lr": 0.5}}, "optimizer.lr"),
        ({"model": {"encoders": {"sight": {"kind": "mlp"}}}}, "model.encoders.sight"),
    ],
)
def test_another_configuration_is_refused_by_the_field(
    stopped: Run, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(MismatchError, match=rf"\brun\b.* {named}[;,.]"):
        launch(run_config(tmp_path, **changes), resume=True)


def test_the_digest_covers_only_fields_that_decide_the_result_and_are_not_defaults() -> None:
    def digest(**changes: Any) -> str:
        return RunConfig.model_validate({"name": "a", "features": "made", **changes}).digest

    same = {"name": "b", "store": "other", "resources": {"workers": 2}}
    spelled = {"preset": "small", "plan": {"policy": "kl", "locality": None}, "seed": 0}
    assert digest() == digest(**same) == digest(**spelled)
    others: list[dict[str, Any]] = [{"seed": 1}, {"plan": {"policy": "random"}}, {"features": "x"}]
    others += [{"preset": "paper"}, {"model": {"encoders": {"x": {}}}}]
    assert len({digest(), *(digest(**each) for each in others)}) == 6
