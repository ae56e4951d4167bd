"""Damaged or invalid checkpoints are refused with the file and the entry; their code never runs."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pipeline.errors import ConfigError, DataError, InputError, MismatchError
from pipeline.features.feature_set import FeatureSet
from pipeline.storage.store_path import StorePath
from tests.support import mutate
from tests.support.refusals import refused
from tests.support.stores import SHAPES, Command, make_features, run_config
from trainer.launch import launch
from trainer.models import checkpoint as checkpoints
from trainer.run_directory import Run

Change = Callable[[dict[str, Any]], object]


class Harm:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def torch_file(path: Path, change: Change) -> None:
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def changed(change: Change) -> Callable[[Path], None]:
    return lambda path: torch_file(path, change)


def first(state: dict[str, Any]) -> str:
    return next(iter(state["model"]))


def packed(path: Path) -> None:
    """Compress the members of the archive."""
    with zipfile.ZipFile(path) as old:
        members = [(info.filename, old.read(info)) for info in old.infolist()]
    members.append(("archive/data/bomb", bytes(2**26)))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in members:
            new.writestr(name, data)


def other_weight(path: Path) -> None:
    """Flip one bit of the largest tensor."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as members:
        at = max(members.infolist(), key=lambda member: member.file_size).header_offset
    data[at + 400] ^= 1
    path.write_bytes(data)


def harmful(path: Path) -> None:
    torch_file(path, lambda state: state.update(optimizer=Harm(path.parent / "harm")))


BAD_CHECKPOINTS: dict[str, tuple[Callable[[Path], object], type[InputError], str]] = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-300]), DataError, ""),
    "a byte of the weights": (other_weight, DataError, "ValueError"),
    "harm": (harmful, DataError, "UnpicklingError"),
    "packed": (packed, DataError, "ValueError"),
    "a list": (lambda path: torch.save([1], path), DataError, "model architecture cursor"),
    "cursor": (changed(lambda it: it["cursor"].update(step="x")), DataError, "cursor.step x"),
    "config": (
        changed(lambda it: it["architecture"]["model"].update(fusion="glue")),
        ConfigError,
        "fusion glue",
    ),
    "facts": (
        changed(lambda it: it["architecture"]["facts"]["sound"].update(mean=3)),
        DataError,
        "architecture.facts.sound.mean",
    ),
    "weights missing": (
        changed(lambda it: it["model"].pop(first(it))),
        MismatchError,
        "encoders.modality-sound.0.weight",
    ),
    "weights of another shape": (
        changed(lambda it: it["model"].update({first(it): torch.zeros(3)})),
        MismatchError,
        "encoders.modality-sound.0.weight (3,)",
    ),
    "weights that are none": (
        changed(lambda it: it["model"].update({first(it): 7})),
        DataError,
        "model.encoders.modality-sound.0.weight 7",
    ),
}


@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_invalid_checkpoints(tmp_path: Path, name: str) -> None:
    harm, error, words = BAD_CHECKPOINTS[name]
    kind = mutate.kind_of("checkpoint", tmp_path)
    assert kind.judge(kind.original)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(kind.original)
    harm(path)
    with refused(error, *words.split(), file=path) as raised:
        checkpoints.model_of(StorePath.at(path), FeatureSet.open(StorePath.at(tmp_path / "made")))
    cause = raised.value.__cause__  # None for an invalid value, whose entry is named instead
    assert isinstance(cause, ValidationError) or str(cause or "") in str(raised.value)
    assert not (tmp_path / "harm").exists()


def test_score_refuses_an_invalid_checkpoint_before_ray_starts(
    tmp_path: Path, command: Command
) -> None:
    path = tmp_path / "harmful.pt"
    kind = mutate.kind_of("checkpoint", tmp_path)
    path.write_bytes(kind.original)
    harmful(path)
    code, _, said = command(
        "score", tmp_path / "made", "--checkpoint", path, "--out", tmp_path / "scores.arrow"
    )
    assert code == 2 and str(path) in said
    assert not (tmp_path / "harm").exists() and not (tmp_path / "scores.arrow").exists()


def test_a_run_is_not_resumed_from_another_optimizer_state(tmp_path: Path) -> None:
    shapes = {key: SHAPES[key] for key in ("sound", "touch")}
    make_features(tmp_path / "features" / "made", shapes, num_rows=60)
    changes = {
        "model": {"encoders": {}, "encoder": {"kind": "mlp", "hidden": 4}},
        "train": {"epochs": 2, "warmup_epochs": 2},
    }
    run = launch(run_config(tmp_path, **changes))
    (run.path / "run.json").write_json({**run.metadata, "status": "failed"})
    path = Path(run.checkpoint("last").path)
    original = path.read_bytes()

    for change in (
        lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(5)),
        lambda state: state["optimizer"]["param_groups"].clear(),
        lambda state: state.update(optimizer=7),
    ):
        path.write_bytes(original)
        torch_file(path, change)
        with refused(MismatchError, "optimizer", file=path):
            launch(run_config(tmp_path, **changes), resume=True)
    path.write_bytes(original)
    resumed = launch(run_config(tmp_path, **changes), resume=True)
    assert Run.open(resumed.path).metadata["status"] == "finished"
