"""Runs are assembled after training: tested, exported, and the same after a resume."""

from pathlib import Path
from shutil import copyfile

import numpy as np
import pytest
import torch

import remix
from pipeline.errors import DataError, InputError
from pipeline.features.feature_set import FeatureSet
from tests.support.stores import make_features, run_config
from trainer.launch import launch
from trainer.models import checkpoint as checkpoints
from trainer.run_directory import Run
from trainer.scoring.offline import load

NAMES = ("sound", "sight", "touch")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    make_features(store / "features" / "made", missing=0.2)
    return store


@pytest.fixture(scope="module")
def run(store: Path) -> Run:
    return launch(run_config(store, assemble=True))


def test_the_result_is_that_of_the_recorded_predictions(run: Run) -> None:
    result, test = run.metadata["result"], run.test()
    labels = test["label"].to_numpy()
    for head, columns in (("test_accuracy", "fused"), ("assembled", "assembled")):
        recorded = result[head] if columns == "fused" else result[head]["test_accuracy"]
        correct = test[f"predicted_{columns}"].to_numpy() == labels
        assert recorded["fused"] == correct.mean()
    losses = result["assembled"]["validation_loss"]
    assert result["assembled"]["readout"] == min(losses, key=losses.__getitem__)


def test_a_modalitys_part_is_that_of_its_best_epoch(run: Run) -> None:
    last = run.epochs().to_pylist()[-1]
    for name in NAMES:
        part = checkpoints.load(run.checkpoint(f"best.{name}"))
        assert part["cursor"]["epoch"] == last[f"best_epoch_{name}"] + 1
        assert {key.split(".")[1] for key in part["model"]} == {f"modality-{name}"}


def test_an_exported_model_predicts_as_the_run_without_the_run(
    store: Path, run: Run, tmp_path: Path
) -> None:
    copyfile(run.checkpoint("model").local, tmp_path / "model.pt")
    model = remix.load_model(tmp_path / "model.pt")
    features = FeatureSet.open(store / "features" / "made")
    rows = features.rows_of("test")
    has = dict(zip(NAMES, features.has[rows].T, strict=True))
    p = model.predict({name: features.read(name, rows) for name in NAMES}, has)
    assert p.shape == (len(rows), len(features.classes))
    assert p.argmax(axis=1).tolist() == run.test()["predicted_assembled"].to_pylist()
    assert (model.classes, model.modalities) == (features.classes, [*NAMES])
    alone = model.predict({"sound": features.read("sound", rows)})
    nothing = {name: np.zeros(len(rows), bool) for name in ("sight", "touch")}
    others = {name: features.read(name, rows) for name in NAMES}
    assert np.array_equal(alone, model.predict(others, nothing))


def test_an_input_that_does_not_fit_is_named(run: Run) -> None:
    model = remix.load_model(run.checkpoint("model").local)
    with pytest.raises(InputError, match="smell"):
        model.predict({"smell": np.zeros((1, 3), np.float32)})
    with pytest.raises(InputError, match="touch"):
        model.predict({"touch": np.zeros((1, 3), np.float32)})
    with pytest.raises(DataError, match=r"best\.pt"):
        remix.load_model(run.checkpoint("best").local)


def test_scores_of_an_exported_model_are_calibrated(store: Path, run: Run) -> None:
    features = FeatureSet.open(store / "features" / "made")
    rows = features.rows_of("test")
    predict, test = load(run.checkpoint("model"), features), run.test()
    p = predict(rows)
    for k, name in enumerate(NAMES):
        present = features.has[rows, k]
        own = p[name][np.arange(len(rows)), features.labels[rows]][present]
        recorded = test[f"p_label_assembled_{name}"].to_numpy()[present]
        assert own == pytest.approx(recorded, rel=1e-5)


def test_a_run_that_stops_during_assembly_ends_with_the_same_model(store: Path, run: Run) -> None:
    model, test = checkpoints.load(run.checkpoint("model")), run.test()
    result = run.metadata["result"]
    run.checkpoint("model").write_bytes(b"cut")
    run.update(status="running", result=None)
    launch(run_config(store, assemble=True), resume=True)
    again = checkpoints.load(run.checkpoint("model"))
    assert again["model"].keys() == model["model"].keys()
    assert all(torch.equal(x, model["model"][key]) for key, x in again["model"].items())
    assert again["readout"]["weights"] == model["readout"]["weights"]
    assert torch.equal(again["readout"]["bias"], model["readout"]["bias"])
    assert run.metadata["result"] == result
    # as data frames, in which NaN, for a missing modality, is equal to NaN
    assert run.test().to_pandas().equals(test.to_pandas())


@pytest.mark.parametrize("fusion", ["mmtm", "entropy"])
def test_every_fusion_is_assembled(store: Path, fusion: str) -> None:
    config = run_config(store, assemble=True, name=fusion, model={"fusion": fusion})
    result = launch(config).metadata["result"]
    epochs = result["assembled"]["epochs"]
    assert set(epochs) == {*NAMES}
    # gates tie the encoders to the fusion's weights
    assert fusion != "mmtm" or set(epochs.values()) == {result["best_epoch"]}


def test_a_shared_head_is_assembled_from_different_epochs(store: Path) -> None:
    equal = {"encoders": {"touch": {"kind": "mlp", "hidden": 32}}}
    run = launch(run_config(store, assemble=True, name="shared", method="mla+remix", model=equal))
    model = remix.load_model(run.checkpoint("model").local)
    assert model.modalities == [*NAMES]


def test_one_modality_is_assembled(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", {"touch": ((6,), "float32")})
    touch = {"encoders": {"touch": {"kind": "mlp", "hidden": 16}}}
    run = launch(run_config(tmp_path, assemble=True, method="joint_heads", model=touch))
    assert run.metadata["result"]["assembled"]["test_accuracy"]["fused"] > 0
