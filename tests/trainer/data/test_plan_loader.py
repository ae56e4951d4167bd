"""The batches of a loader are the rows of its plan, across blocks of steps."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from pipeline.plans.config import PlanConfig
from pipeline.plans.planner import build, remix_plan_builder
from pipeline.scores.table import Scores
from tests.support.plan_tables import scores_table
from tests.support.stores import make_features
from trainer.data.plan_loader import BLOCK_STEPS, PlanLoader
from trainer.process_group import World


@pytest.mark.parametrize("order", ["interleaved", "mixed"])
@pytest.mark.parametrize(("start", "accumulate"), [(0, 1), (6, 3)])
def test_batches_are_the_rows_of_the_plan(
    tmp_path: Path, start: int, accumulate: int, order: Literal["interleaved", "mixed"]
) -> None:
    features = make_features(tmp_path, num_rows=700, num_parts=5)
    names = features.modalities
    costs = np.random.default_rng(0).random((700, len(names)))
    scores = Scores(scores_table(costs, names=names))
    config = PlanConfig(order=order)
    plan = build(remix_plan_builder(scores, config, 5, 0, 0))
    assert len(plan) > 2 * BLOCK_STEPS
    loaders = [
        PlanLoader(
            features,
            plan,
            start=start,
            world=World(rank=rank, size=2),
            skip_masked=True,
            prefetch=3,
            accumulate=accumulate,
        )
        for rank in range(2)
    ]
    num = 0
    for step, *batches in zip(plan.steps(start), *loaders, strict=True):
        rows = np.concatenate([batch.rows.numpy() for batch in batches])
        assert rows.tolist() == step.rows.tolist()
        masks = True if step.assigned is None else step.trained(names)
        for batch in batches:
            own = batch.rows.numpy()
            assert batch.labels.tolist() == features.labels[own].tolist()
            assert (np.stack([*batch.present.values()], 1) == features.has[own]).all()
            read = names if step.modality == "all" else [step.modality]
            assert [*batch.inputs] == read
            for name in read:
                np.testing.assert_array_equal(batch.inputs[name], features.read(name, own))
            valid = (features.has[rows] & masks).sum(axis=0)
            assert [*batch.num_valid.values()] == valid.tolist()
            assert batch.starts_update == (num % accumulate == 0)
            is_last = step.step + 1 == len(plan)
            assert batch.ends_update == (is_last or (num + 1) % accumulate == 0)
        num += 1
    assert num == len(plan) - start
