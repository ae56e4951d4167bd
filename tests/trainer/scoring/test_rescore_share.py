"""`train.rescore_share`: an epoch scores a share of the rows; the others keep their last scores."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.arrays import Array
from pipeline.features.feature_set import FeatureSet
from pipeline.scores.table import Scores
from tests.support.stores import interrupt, make_features, run_config, same_weights
from tests.support.verify_edits import edited, problems_of, with_value
from trainer.config import RunConfig
from trainer.cost import Meter
from trainer.launch import launch
from trainer.run_directory import Run

EPOCHS = range(1, 8)
"""The epochs that are scored."""


def third(store: Path, **changes: Any) -> RunConfig:
    train = {"epochs": 8, "warmup_epochs": 1, "rescore_share": 1 / 3, "refit_fusion": True}
    return run_config(store, train=train, **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    store = tmp_path_factory.mktemp("store")
    make_features(store / "features" / "made", missing=0.2)
    return launch(third(store))


def values(scores: Scores) -> Array:
    return np.stack([scores.kl(name) for name in scores.modalities])


def scored_rows(run: Run) -> list[set[int]]:
    """The rows of each scored epoch after the first whose scores differ from those before."""
    tables = [run.open_scores(epoch) for epoch in EPOCHS]
    return [
        set(after.rows[((values(after) != values(before)) & ~np.isnan(values(after))).any(axis=0)])
        for before, after in pairwise(tables)
    ]


def test_each_row_is_scored_once_in_a_block_of_epochs(run: Run) -> None:
    features = FeatureSet.open(RunConfig.model_validate(run.metadata["config"]).features_path)
    rows = set(features.rows_of("train").tolist())
    # the block of the epochs 1 to 3 begins with one that scores all rows
    second, third, *block = scored_rows(run)[:5]
    assert not second & third and 0 < len(second | third) < len(rows)
    assert set.union(*block) == rows and sum(map(len, block)) == len(rows)
    assert all(len(part) > len(rows) / 6 for part in block)
    assert problems_of(run) == []


def test_scores_that_are_counted_as_cost_are_those_computed(run: Run) -> None:
    config = RunConfig.model_validate(run.metadata["config"])
    meter = Meter(config, FeatureSet.open(config.features_path))
    scores = [run.open_scores(EPOCHS[0]).rows, *map(sorted, scored_rows(run))]
    steps = sum(meter.train(run.open_plan(epoch)) for epoch in range(8))
    validated = meter.predict(meter.features.rows_of("validation"))
    assert meter.training(run) == steps + 8 * validated + sum(
        meter.score(np.array(rows)) for rows in scores
    )


def test_a_resumed_run_comes_to_the_same_bits(run: Run) -> None:
    store = run.path.parent.parent.local
    interrupt(third(store, name="stopped"), epoch=5, step=2)
    resumed = launch(third(store, name="stopped"), resume=True)
    assert same_weights(run, resumed)
    for epoch in EPOCHS:
        assert np.array_equal(
            values(run.open_scores(epoch)), values(resumed.open_scores(epoch)), equal_nan=True
        )
    # another score of a row that epoch 7 did not score
    row = sorted(set(run.open_scores(7).rows.tolist()) - scored_rows(run)[-1])[0]
    position = int(np.searchsorted(run.open_scores(7).rows, row))
    change = with_value("p_label_touch", position, 0.5)
    edited("scores/epoch-0007.arrow", change, hashed=True)(resumed)
    assert "scores/epoch-0007.arrow" in [name for name, _ in problems_of(resumed)]
