"""Mixed plans, joint shares and copies: assignments are counted independently from the steps."""

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.plans import builder
from pipeline.plans.assign import assign
from pipeline.plans.config import PlanConfig
from pipeline.plans.plan import BatchPlan, Step
from pipeline.plans.planner import build, remix_plan_builder, write_plan
from pipeline.plans.resample import copies
from pipeline.scores.table import Scores
from pipeline.storage.schemas import MIXED_PLAN
from pipeline.storage.store_path import StorePath
from tests.support.hostile_files import with_value
from tests.support.mixed_plans import mixed, trained, valued, with_copies_counted
from tests.support.refusals import refused


def check_even(plan: BatchPlan, batch_size: int) -> None:
    """Check the number of steps per modality, and that sizes differ by at most one."""
    sizes: dict[str, list[int]] = {}
    for number, step in enumerate(plan.steps()):
        assert step.step == number
        sizes.setdefault(step.modality, []).append(len(step.rows))
    for each in sizes.values():
        assert len(each) == -(-sum(each) // batch_size)
        assert max(each) - min(each) <= 1 and max(each) <= batch_size


@settings(max_examples=40)
@given(st.integers(1, 300), st.integers(2, 4), st.integers(1, 70), st.integers(0, 2**63), st.data())
def test_any_plan_trains_the_configured_assignment(
    num: int, num_modalities: int, batch_size: int, seed: int, data: st.DataObject
) -> None:
    options = {
        "policy": data.draw(st.sampled_from(["kl", "random"])),
        "order": data.draw(st.sampled_from(["sequential", "interleaved", "mixed"])),
        "stratify": data.draw(st.booleans()),
        "locality": data.draw(st.none() | st.integers(1, 400)),
    }
    scores, share = valued(num, num_modalities), data.draw(st.sampled_from([0.0, 0.4, 1.0]))
    assignment = assign(scores, PlanConfig(**options), seed, 2)
    config = PlanConfig(**options, joint_share=share)
    kept = trained(
        build(remix_plan_builder(scores, config, batch_size, seed, 2)), scores.modalities
    )
    assert sorted(row for row, _ in kept.elements()) == scores.rows.tolist()
    assert all(modality in (-1, assignment[(row - 5) // 3]) for row, modality in kept)
    if share != 0.4:
        assert {modality == -1 for _, modality in kept} == {bool(share)}
    config = PlanConfig(**options, joint_share=share, copies="resample")
    again = build(remix_plan_builder(scores, config, batch_size, seed, 2))
    check_even(again, batch_size)
    if options["order"] == "mixed":
        assert again.table.schema.equals(MIXED_PLAN)
        assert {step.modality for step in again.steps()} == {"all"}
    assert trained(again, scores.modalities) == with_copies_counted(
        scores, np.where([(row, -1) in kept for row in scores.rows.tolist()], -1, assignment)
    )


def assigned(steps: Iterable[Step]) -> list[tuple[list[int], list[int]]]:
    return [
        (step.rows.tolist(), step.assigned.tolist()) for step in steps if step.assigned is not None
    ]


def test_assignments_can_be_read_from_any_step_and_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "CHUNK_ROWS", 64)  # so that the plan has many record batches
    scores = valued(700, 3)
    path = StorePath.at(tmp_path / "p.arrow")
    write_plan(path, remix_plan_builder(scores, mixed(joint_share=0.2), 9, 0, 1))
    plan = BatchPlan.open(path)
    assert plan.table["rows"].num_chunks > 5
    expected = [(step["rows"], step["assigned"]) for step in plan.table.to_pylist()]
    assert {-1, 0, 1, 2} == {modality for _, assignment in expected for modality in assignment}
    for start in range(0, len(plan) + 1, 3):
        assert assigned(plan.steps(start)) == expected[start:]
    sliced = BatchPlan(plan.table.slice(5, 20).combine_chunks())
    assert assigned(sliced.steps(2)) == expected[7:25]
    modality_of = {
        row: modality
        for rows, assignment in expected
        for row, modality in zip(rows, assignment, strict=True)
    }
    for step, world_size in product(plan.steps(10), (1, 2, 3, 7)):
        for rank in range(world_size):
            assert step.assigned is not None
            own = step.assigned[step.slice_of(rank, world_size)].tolist()
            assert own == [modality_of[row] for row in step.for_rank(rank, world_size).tolist()]


def kept_rows(scores: Scores, share: float, epoch: int = 1, **options: Any) -> set[int]:
    plan = build(remix_plan_builder(scores, PlanConfig(joint_share=share, **options), 64, 4, epoch))
    return {row for row, modality in trained(plan, scores.modalities) if modality == -1}


def test_joint_share_is_drawn_by_a_hash_of_the_rows() -> None:
    scores = valued(20_000, 3)
    kept = kept_rows(scores, 0.3)
    assert abs(len(kept) - 6000) < 4 * np.sqrt(20_000 * 0.3 * 0.7)
    assert kept_rows(scores, 0.3, order="mixed") == kept
    assert kept_rows(scores, 0.3, order="interleaved", policy="random", stratify=True) == kept
    some = Scores(scores.table.slice(7000, 5000))
    assert kept_rows(some, 0.3) == kept & set(some.rows.tolist())
    assert kept_rows(scores, 0.1) < kept < kept_rows(scores, 0.6)
    other = kept_rows(scores, 0.3, epoch=2)
    assert abs(len(kept & other) - 1800) < 4 * np.sqrt(1800)
    chosen = assign(scores, PlanConfig(), 4, 1)
    for k in range(3):
        among = chosen[np.isin(scores.rows, list(kept))] == k
        assert abs(among.mean() - np.mean(chosen == k)) < 0.03


def test_joint_and_unimodal_steps_in_one_plan() -> None:
    scores = valued(900, 2)
    names, among = (
        build(remix_plan_builder(scores, PlanConfig(joint_share=0.4, order=order), 16, 0, 0))
        .table["modality"]
        .to_pylist()
        for order in ("sequential", "interleaved")
    )
    assert list(dict.fromkeys(names)) == ["m0", "m1", "all"]
    assert names == sorted(names, key=["m0", "m1", "all"].index)
    assert sorted(among) == sorted(names)
    assert "all" in among[: len(among) // 4]


def test_number_of_copies_by_shapley_value() -> None:
    values = np.array([[-0.5, 0, 0.5], [1, np.nan, 2]], np.float32)
    assert copies(values).tolist() == [[3, 2, 1], [0, 0, 0]]
    actual = copies(np.array([-0.101, -0.099, 0.399, 0.401, 0.899, 0.901]))
    assert actual.tolist() == [3, 2, 2, 1, 1, 0]


def test_rows_are_repeated_in_the_modality_that_contributes_little() -> None:
    scores = valued(800, 3)
    plan = build(remix_plan_builder(scores, PlanConfig(copies="resample"), 32, 1, 2))
    chosen = assign(scores, PlanConfig(), 1, 2)
    expected = with_copies_counted(scores, chosen)
    assert trained(plan, scores.modalities) == expected
    assert {expected[row, k] for row in scores.rows.tolist() for k in range(3)} == {0, 1, 2, 3, 4}
    assert plan.metadata["copies"] == "resample"
    lacks = np.isnan(np.stack([scores.kl(name) for name in scores.modalities], axis=1))
    assert not any(lacks[(row - 5) // 3, k] for row, k in expected)


@pytest.mark.parametrize("stratify", [False, True])
def test_the_copies_of_a_row_are_shuffled_apart(stratify: bool) -> None:
    scores = valued(3000, 2, missing=False)
    plan = build(
        remix_plan_builder(scores, PlanConfig(copies="resample", stratify=stratify), 32, 0, 0)
    )
    for name in scores.modalities:
        rows = np.concatenate([step.rows for step in plan.steps() if step.modality == name])
        values, num = np.unique(rows, return_counts=True)
        by_chance = (num * (num - 1)).sum() / len(rows)  # expected neighbours of the same row
        assert (np.diff(rows) == 0).sum() < 6 * by_chance + 6
        apart = [np.ptp(np.flatnonzero(rows == row)) for row in values[num == 2]]
        assert len(apart) > 150
        # the distance of two independent uniform positions has mean 1/3 and variance 1/18
        assert abs(np.mean(apart) / len(rows) - 1 / 3) < 4 * np.sqrt(1 / 18 / len(apart))


def test_copies_stay_in_their_window() -> None:
    scores = valued(2000, 2)
    plan = build(remix_plan_builder(scores, PlanConfig(copies="resample", locality=300), 16, 0, 0))
    for name in scores.modalities:
        rows = np.concatenate([step.rows for step in plan.steps() if step.modality == name])
        windows = rows // 300
        assert np.count_nonzero(np.diff(windows)) + 1 == len(np.unique(windows)) > 10


TABLE = valued(20, 2, missing=False).table


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (TABLE.drop_columns(["shapley_m1"]), ("shapley_m1", "resample")),
        (with_value(TABLE, "shapley_m1", 2, np.nan), (11, "shapley_m1", "nan")),
        (with_value(TABLE, "shapley_m1", 2, np.inf), (11, "shapley_m1", "inf")),
    ],
)
def test_copies_require_a_shapley_value_for_every_score(
    table: pa.Table, words: tuple[object, ...]
) -> None:
    for order in ("sequential", "mixed"):
        with refused(DataError, *words):
            build(
                remix_plan_builder(
                    Scores(table), PlanConfig(copies="resample", order=order), 8, 0, 0
                )
            )
    build(remix_plan_builder(Scores(table), PlanConfig(), 8, 0, 0))
