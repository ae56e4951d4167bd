"""Runs of every strategy: refused models, one and two ranks, resuming, scores for resampling."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.features.feature_set import FeatureSet
from pipeline.storage.arrow_files import read_table
from tests.support.ranks import on_two_ranks
from tests.support.stores import (
    check_coverage,
    interrupt,
    make_features,
    run_config,
    same_weights,
    weights,
)
from tests.support.strategy_runs import EQUAL, NAMES, asked
from trainer import loop
from trainer.comparison.methods import with_method
from trainer.config import RunConfig
from trainer.data.part_prefetcher import open_features
from trainer.launch import launch
from trainer.process_group import World
from trainer.run_directory import Run


@pytest.mark.parametrize(("method", "changes", "match"), [
    ("ogm_ge", {"fusion": "film"},
     r"(?=.*model\.fusion)(?=.*\bfilm\b)(?=.*\bconcat\b)(?=.*\bsum\b)(?=.*\bdecision\b)"),
    ("ogm_ge", {"fusion": "mmtm"}, r"(?=.*model\.fusion)(?=.*\bmmtm\b)"),
    ("mla", {"mask": "feature"}, r"(?=.*model\.mask)(?=.*\bfeature\b)(?=.*\bskip\b)"),
    ("mla", {"encoders": {"touch": {"kind": "mlp", "hidden": 16}}},
     r"(?=.*model\.heads)(?=.*\bshared\b)(?=.*\bsound\b)(?=.*\bsight\b)(?=.*\b32\b)"
     r"(?=.*\btouch\b)(?=.*\b16\b)(?=.*model\.encoders)"),
])  # fmt: skip
def test_a_model_that_does_not_suit_is_refused_before_anything_is_written(
    store: Path, method: str, changes: dict[str, Any], match: str
) -> None:
    config = asked(store, method, name="refused", model={**EQUAL, **changes})
    with pytest.raises(ConfigError, match=match):
        launch(config)
    assert not config.run_path.exists()


def test_mla_needs_one_head_and_a_fusion_without_weights(store: Path) -> None:
    given = {"heads": "own", "fusion": "concat"}
    for model, match in (
        ({"fusion": "entropy"}, r"(?=.*model\.heads)(?=.*\bown\b)"),
        ({"heads": "shared"}, r"(?=.*model\.fusion)(?=.*\bconcat\b)"),
    ):
        with pytest.raises(ConfigError, match=match):
            launch(
                run_config(store, name="refused", model={**EQUAL, **given, **model}, method="mla")
            )


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
    interrupt(config, epoch=1, step=2)
    assert same_weights(straight, launch(config, resume=True))


def train_all(world: World, configs: list[RunConfig]) -> None:
    for config in configs:
        loop.train(config, Run.open(config.run_path), open_features(config), world)


def test_two_ranks_train_what_one_trains(store: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "optimizer": {"kind": "sgd", "lr": 0.01},
        "train": {"epochs": 2, "warmup_epochs": 2, "assemble": True},
    }
    methods = ("joint", "unimodal", "ogm_ge", "mla")
    pairs = [
        (asked(store, method, name="one", **changes), asked(store, method, name="two", **changes))
        for method in methods
    ]
    for _, two in pairs:
        Run.create(two, FeatureSet.open(two.features_path))
    on_two_ranks(tmp_path, train_all, [two for _, two in pairs])
    alone = [launch(one) for one, _ in pairs]
    for run, (_, two) in zip(alone, pairs, strict=True):
        first, second = weights(run), weights(Run.open(two.run_path))
        assert first.keys() == second.keys()
        for key in first:
            assert torch.allclose(first[key], second[key], rtol=1e-4, atol=1e-5), (two.name, key)
        np.testing.assert_allclose(
            run.epochs()["train_loss"].to_numpy(),
            Run.open(two.run_path).epochs()["train_loss"].to_numpy(),
            rtol=1e-4,
        )
        results = [each.metadata["result"]["assembled"] for each in (run, Run.open(two.run_path))]
        assert results[0]["readout"] == results[1]["readout"]
        assert results[1]["validation_loss"] == pytest.approx(
            results[0]["validation_loss"], rel=1e-3
        )


@pytest.mark.parametrize("method", ["resample", "resample+remix"])
def test_scores_for_resampling_hold_values_that_sum_to_what_all_modalities_are_worth(
    store: Path, method: str
) -> None:
    run = launch(asked(store, method, name="valued"))
    features = FeatureSet.open(run_config(store).features_path)
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
    assert not config.run_path.exists()
