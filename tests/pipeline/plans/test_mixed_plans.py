"""Mixed plans, joint shares and copies: what each row trains is counted anew from the steps."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.plans import builder as draft
from pipeline.plans.assign import assign
from pipeline.plans.config import PlanConfig
from pipeline.plans.plan import BatchPlan
from pipeline.plans.planner import build, remix_draft, write_plan
from pipeline.plans.resample import copies
from pipeline.scores.table import Scores
from pipeline.storage.schemas import MIXED_PLAN
from pipeline.storage.store_path import Place
from tests.support.mixed_plans import mixed, trained, valued, with_again


def check_even(plan: BatchPlan, batch_size: int) -> None:
    """As few steps of each modality as there can be, of sizes that differ by at most one."""
    sizes: dict[str, list[int]] = {}
    for number, step in enumerate(plan.steps()):
        assert step.step == number
        sizes.setdefault(step.modality, []).append(len(step.rows))
    for each in sizes.values():
        assert len(each) == -(-sum(each) // batch_size)
        assert max(each) - min(each) <= 1 and max(each) <= batch_size


@settings(max_examples=40)
@given(st.integers(1, 300), st.integers(2, 4), st.integers(1, 70), st.integers(0, 2**63), st.data())
def test_any_plan_trains_what_was_asked(
    num: int, num_modalities: int, batch_size: int, seed: int, data: st.DataObject
) -> None:
    asked = {
        "policy": data.draw(st.sampled_from(["kl", "easy", "loss", "random"])),
        "order": data.draw(st.sampled_from(["sequential", "interleaved", "mixed"])),
        "stratify": data.draw(st.booleans()),
        "locality": data.draw(st.none() | st.integers(1, 400)),
    }
    scores, share = valued(num, num_modalities), data.draw(st.sampled_from([0.0, 0.4, 1.0]))
    owners = assign(scores, PlanConfig(**asked), seed, 2)
    kept = trained(
        build(remix_draft(scores, PlanConfig(**asked, joint_share=share), batch_size, seed, 2)),
        scores.modalities,
    )
    assert sorted(row for row, _ in kept.elements()) == scores.rows.tolist()
    assert all(owner in (-1, owners[(row - 5) // 3]) for row, owner in kept)
    if share != 0.4:
        assert {owner == -1 for _, owner in kept} == {bool(share)}
    again = build(
        remix_draft(
            scores, PlanConfig(**asked, joint_share=share, copies="resample"), batch_size, seed, 2
        )
    )
    check_even(again, batch_size)
    if asked["order"] == "mixed":
        assert again.table.schema.equals(MIXED_PLAN)
        assert {step.modality for step in again.steps()} == {"all"}
    assert trained(again, scores.modalities) == with_again(
        scores, np.where([(row, -1) in kept for row in scores.rows.tolist()], -1, owners)
    )


def test_what_a_row_trains_is_found_from_any_step_and_by_any_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draft, "CHUNK_ROWS", 64)  # so that the plan has many record batches
    scores = valued(700, 3)
    place = Place.at(tmp_path / "p.arrow")
    write_plan(place, remix_draft(scores, mixed(joint_share=0.2), 9, 0, 1))
    plan = BatchPlan.open(place)
    assert plan.table["rows"].num_chunks > 5
    whole = [(step["rows"], step["assigned"]) for step in plan.table.to_pylist()]
    assert {-1, 0, 1, 2} == {owner for _, owners in whole for owner in owners}
    for start in range(0, len(plan) + 1, 3):
        assert [
            (step.rows.tolist(), list(step.assigned))
            for step in plan.steps(start)
            if step.assigned is not None
        ] == whole[start:]
    sliced = BatchPlan(plan.table.slice(5, 20).combine_chunks())
    assert [list(step.assigned) for step in sliced.steps(2) if step.assigned is not None] == [
        owners for _, owners in whole[7:25]
    ]
    owner_of = {
        row: owner for rows, owners in whole for row, owner in zip(rows, owners, strict=True)
    }
    for step, world_size in product(plan.steps(10), (1, 2, 3, 7)):
        for rank in range(world_size):
            assert step.assigned is not None
            assert step.assigned[step.slice_of(rank, world_size)].tolist() == [
                owner_of[row] for row in step.for_rank(rank, world_size).tolist()
            ]


def kept_rows(scores: Scores, share: float, epoch: int = 1, **asked: Any) -> set[int]:
    plan = build(remix_draft(scores, PlanConfig(joint_share=share, **asked), 64, 4, epoch))
    return {row for row, owner in trained(plan, scores.modalities) if owner == -1}


def test_a_share_of_the_rows_stays_joint_by_their_hash() -> None:
    scores = valued(20_000, 3)
    kept = kept_rows(scores, 0.3)
    assert abs(len(kept) - 6000) < 4 * np.sqrt(20_000 * 0.3 * 0.7)
    assert (
        kept_rows(scores, 0.3, order="mixed")
        == kept_rows(scores, 0.3, order="interleaved", policy="random", stratify=True)
        == kept
    )
    assert kept_rows(Scores(scores.table.slice(7000, 5000)), 0.3) == kept & set(
        scores.rows[7000:12_000].tolist()
    )
    assert kept_rows(scores, 0.1) < kept < kept_rows(scores, 0.6)
    other = kept_rows(scores, 0.3, epoch=2)
    assert abs(len(kept & other) - 1800) < 4 * np.sqrt(1800)
    assert (
        kept_rows(scores, 1.0) == kept_rows(scores, 1.0, order="mixed") == set(scores.rows.tolist())
    )
    chosen = assign(scores, PlanConfig(), 4, 1)
    by_all = {
        name: np.mean([owner == k for owner in chosen[np.isin(scores.rows, list(kept))]])
        for k, name in enumerate(scores.modalities)
    }
    assert all(abs(share - np.mean(chosen == k)) < 0.03 for k, share in enumerate(by_all.values()))


def test_joint_steps_stand_beside_pure_ones() -> None:
    scores = valued(900, 2)
    names = [
        step.modality
        for step in build(remix_draft(scores, PlanConfig(joint_share=0.4), 16, 0, 0)).steps()
    ]
    assert list(dict.fromkeys(names)) == ["m0", "m1", "all"]
    assert names == sorted(names, key=["m0", "m1", "all"].index)
    among = [
        step.modality
        for step in build(
            remix_draft(scores, PlanConfig(joint_share=0.4, order="interleaved"), 16, 0, 0)
        ).steps()
    ]
    assert sorted(among) == sorted(names)
    assert "all" in among[: len(among) // 4]


def test_the_bands_are_those_of_two_modalities_values() -> None:
    values = np.array([[-0.5, 0, 0.5], [1, np.nan, 2]], np.float32)
    assert copies(values).tolist() == [[3, 2, 1], [0, 0, 0]]
    assert copies(np.array([-0.101, -0.099, 0.399, 0.401, 0.899, 0.901])).tolist() == [
        3,
        2,
        2,
        1,
        1,
        0,
    ]


def test_rows_come_again_in_the_modality_that_contributes_little() -> None:
    scores = valued(800, 3)
    plan = build(remix_draft(scores, PlanConfig(copies="resample"), 32, 1, 2))
    chosen = assign(scores, PlanConfig(), 1, 2)
    expected = with_again(scores, chosen)
    assert trained(plan, scores.modalities) == expected
    assert {expected[row, k] for row in scores.rows.tolist() for k in range(3)} == {0, 1, 2, 3, 4}
    assert plan.metadata["copies"] == "resample"
    lacks = np.isnan(np.stack([scores.kl(name) for name in scores.modalities], axis=1))
    assert not any(lacks[(row - 5) // 3, k] for row, k in expected)
    resampled = build(
        remix_draft(scores, mixed(joint_share=1.0, copies="resample"), 32, 1, 2)
    )  # Resample as published: all of each row, then its copies
    assert {step.modality for step in resampled.steps()} == {"all"}
    assert trained(resampled, scores.modalities) == with_again(scores, np.full(800, -1))


@pytest.mark.parametrize("stratify", [False, True])
def test_the_copies_of_a_row_are_shuffled_apart(stratify: bool) -> None:
    scores = valued(3000, 2, missing=False)
    plan = build(remix_draft(scores, PlanConfig(copies="resample", stratify=stratify), 32, 0, 0))
    for name in scores.modalities:
        rows = np.concatenate([step.rows for step in plan.steps() if step.modality == name])
        num = np.unique(rows, return_counts=True)[1]
        by_chance = (num * (num - 1)).sum() / len(rows)  # neighbours that are the same row
        assert (np.diff(rows) == 0).sum() < 6 * by_chance + 6
        order = np.argsort(rows, kind="stable")
        same = np.diff(rows[order]) == 0
        pairs = np.diff(order)[
            same & (num[np.unique(rows, return_inverse=True)[1][order[1:]]] == 2)
        ]
        assert len(pairs) > 150
        assert abs(pairs.mean() / len(rows) - 1 / 3) < 4 * np.sqrt(
            1 / 18 / len(pairs)
        )  # of two places drawn by themselves


def test_copies_stay_in_their_window() -> None:
    scores = valued(2000, 2)
    plan = build(remix_draft(scores, PlanConfig(copies="resample", locality=300), 16, 0, 0))
    assert trained(plan, scores.modalities) == with_again(
        scores, assign(scores, PlanConfig(), 0, 0)
    )
    for name in scores.modalities:
        windows = (
            np.concatenate([step.rows for step in plan.steps() if step.modality == name]) // 300
        )
        assert np.count_nonzero(np.diff(windows)) + 1 == len(np.unique(windows)) > 10


def without_value(value: float) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        at, values = table.column_names.index("shapley_m1"), table["shapley_m1"].to_numpy().copy()
        values[2] = value
        return table.set_column(at, "shapley_m1", pa.array(values))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda table: table.drop_columns(["shapley_m1"]),
            r"(?s)(?=.*\bshapley_m1\b)(?=.*\bresample\b)",
        ),
        (without_value(np.nan), r"(?s)(?=.*\b11\b)(?=.*\bshapley_m1\b)(?=.*\bnan\b)"),
        (without_value(np.inf), r"(?s)(?=.*\b11\b)(?=.*\bshapley_m1\b)(?=.*\binf\b)"),
    ],
)
def test_copies_need_a_value_for_every_ability(
    change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    scores = Scores(change(valued(20, 2, missing=False).table))
    for order in ("sequential", "mixed"):
        with pytest.raises(DataError, match=message):
            build(remix_draft(scores, PlanConfig(copies="resample", order=order), 8, 0, 0))
    build(remix_draft(scores, PlanConfig(), 8, 0, 0))
