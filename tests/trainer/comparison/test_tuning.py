"""Settings chosen for each method by validation, on seeds that the comparison does not use."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.storage.store_path import StorePath
from tests.support.stores import make_features, run_config
from trainer.comparison.compare import compare
from trainer.comparison.tables import markdown
from trainer.comparison.tuning import Tuning, tune, tuning_of
from trainer.config import RunConfig
from trainer.launch import launch
from trainer.run_directory import Run

SHORT = {"epochs": 2, "warmup_epochs": 1}


def test_each_method_gets_the_values_that_validate_best(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", num_rows=60)
    config, trained = run_config(tmp_path, name="c", train=SHORT), list[str]()

    def train(each: RunConfig) -> Run:
        trained.append(each.name)
        return launch(each, resume=True)

    tuning = Tuning(fields={"optimizer.lr": ["1e-5", 0.01]}, seeds=[1, 2])
    result = compare(config, ["joint_heads"], [0], train, tuning)
    methods = ["joint_heads", "unimodal"]
    assert trained == [
        *(f"c-tune-{m}-{k}-seed{seed}" for m in methods for k in (0, 1) for seed in (1, 2)),
        *(f"c-{method}-seed0" for method in methods),
    ]
    assert (result["tuning"]["metric"], result["tuning"]["seeds"]) == ("loss", [1, 2])
    for row, tuned in zip(result["methods"], result["tuning"]["methods"], strict=True):
        method = row["method"]
        assert tuned["method"] == method
        assert [trial["values"] for trial in tuned["trials"]] == [
            {"optimizer.lr": 1e-5},
            {"optimizer.lr": 0.01},
        ]
        for k, trial in enumerate(tuned["trials"]):
            each = [lowest_loss(tmp_path, f"c-tune-{method}-{k}-seed{seed}") for seed in (1, 2)]
            assert (trial["each"], trial["mean"]) == (each, pytest.approx(np.mean(each)))
        lowest = min(tuned["trials"], key=lambda trial: float(trial["mean"]))
        assert row["tuned"] == tuned["chosen"] == lowest["values"]
        run = Run.open(StorePath.at(tmp_path / "runs" / f"c-{method}-seed0"))
        assert run.metadata["config"]["optimizer"]["lr"] == row["tuned"]["optimizer.lr"]
    main = markdown(result).splitlines()[0]
    assert "optimizer.lr" in main


def lowest_loss(store: Path, name: str) -> float:
    """Calibrated loss of the epoch after the warm-up, the only one that can be tested."""
    epochs = Run.open(StorePath.at(store / "runs" / name)).epochs()
    return float(epochs["calibrated_loss"][1].as_py())


def test_the_highest_accuracy_is_chosen_and_the_first_of_equal_ones(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", num_rows=60)
    config = run_config(tmp_path, train={**SHORT, "select": {"metric": "accuracy"}})
    fields = {"optimizer.lr": [1e-6, 0.01], "train.assemble": [False, True]}
    tuned = tune(config, "remix", Tuning(fields=fields, seeds=[3]), partial(launch, resume=True))
    low, also_low, high, also_high = (trial["mean"] for trial in tuned["trials"])
    assert low == also_low < high == also_high  # validation does not depend on train.assemble
    assert tuned["chosen"] == {"optimizer.lr": 0.01, "train.assemble": False}


def test_several_fields_are_a_grid_on_the_seeds_after_those_of_the_table() -> None:
    tuning = tuning_of({"optimizer.lr": [1, 2], "train.batch_size": [8, 16]}, range(3, 6), 2)
    assert tuning is not None
    assert list(tuning.seeds) == [6, 7]
    assert [tuple(values.values()) for values in tuning.grid] == [(1, 8), (1, 16), (2, 8), (2, 16)]
    assert tuning_of({}, range(3), 2) is None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"optimizer.rate": [1]}, "rate"),
        ({"optimizer.lr": [-1.0]}, "lr"),
        ({"optimizer.lr": []}, "lr"),
        ({"optimizer.lr": [1, 1]}, "lr"),
        ({"seed": [1, 2]}, "seed"),
        ({"resources.workers": [0, 1]}, "resources"),
        ({"model.mask": ["skip", "none"]}, "mask"),
    ],
)
def test_invalid_fields_are_refused_before_training(
    tmp_path: Path, fields: dict[str, list[object]], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        compare(
            run_config(tmp_path),
            ["remix"],
            [0],
            lambda each: pytest.fail("trained"),
            Tuning(fields=fields, seeds=[1]),
        )
