"""Mixed plans, joint shares and copies: each row's part is counted anew, from the file to what a run, `remix verify` and the service say of it."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import PlanConfig
from pipeline.errors import DataError
from pipeline.features.feature_set import FeatureSet, read_table, write_table
from pipeline.features.id_index import STEPS_SCHEMA, step_of, write_step_index
from pipeline.plans import builder as draft
from pipeline.plans.assign import assign
from pipeline.plans.plan import ADDED, BatchPlan, remix_draft, remix_plan, write_plan
from pipeline.plans.resample import copies
from pipeline.plans.stats import plan_statistics
from pipeline.scores.table import Scores
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.schemas import MIXED_PLAN, PLAN, fingerprint, read_metadata, with_metadata
from pipeline.storage.store_path import Place
from tests.support.plan_tables import arithmetic_costs, scores_table
from tests.support.serving import serving
from tests.support.stores import Command, check_coverage, make_features, run_config
from trainer.comparison.methods import with_method
from trainer.launch import launch
from trainer.run_directory import Run
from trainer.verification.verify import verify

TIMES = {-1.0: 3, -0.5: 3, 0.0: 2, 0.5: 1, 1.0: 0, 1.5: 0}
"""How often a row comes again at a Shapley value."""
Steps = list[dict[str, Any]]
Change = Callable[[Steps], object]


def mixed(**asked: Any) -> PlanConfig:
    return PlanConfig(order="mixed", **asked)


def valued(num: int, num_modalities: int, *, missing: bool = True) -> Scores:
    """Scores with Shapley values from TIMES, NaN where the modality is missing."""
    costs = arithmetic_costs(num, num_modalities, missing=missing)
    values = np.array(list(TIMES), np.float32)[
        np.random.default_rng(num).integers(0, len(TIMES), costs.shape)
    ]
    table = scores_table(costs, rows=np.arange(num) * 3 + 5)
    for k in range(num_modalities):
        table = table.append_column(
            f"shapley_m{k}",
            pa.array(np.where(np.isnan(costs[:, k]), np.float32(np.nan), values[:, k])),
        )
    return Scores(table)


def trained(plan: BatchPlan, names: list[str]) -> Counter[tuple[int, int]]:
    """How often each (row, modality) is trained, -1 for all of them."""
    pairs: Counter[tuple[int, int]] = Counter()
    for step in plan.steps():
        owner = -1 if step.modality == "all" else names.index(step.modality)
        owners = [owner] * len(step.rows) if step.assigned is None else step.assigned.tolist()
        pairs.update(zip(step.rows.tolist(), owners, strict=True))
    return pairs


def with_again(scores: Scores, owners: np.ndarray) -> Counter[tuple[int, int]]:
    """Each row once by its owner, and as often as TIMES says by each modality."""
    expected = Counter(dict.fromkeys(zip(scores.rows.tolist(), owners.tolist(), strict=True), 1))
    for k, name in enumerate(scores.modalities):
        for row, value in zip(
            scores.rows.tolist(), scores.table[f"shapley_{name}"].to_pylist(), strict=True
        ):
            expected[row, k] += TIMES.get(value, 0)
    return +expected


def check_even(plan: BatchPlan, batch_size: int) -> None:
    """As few steps of each modality as there can be, of sizes that differ by at most one."""
    sizes: dict[str, list[int]] = {}
    for number, step in enumerate(plan.steps()):
        assert step.step == number
        sizes.setdefault(step.modality, []).append(len(step.rows))
    for each in sizes.values():
        assert len(each) == -(-sum(each) // batch_size)
        assert max(each) - min(each) <= 1 and max(each) <= batch_size


@pytest.mark.parametrize(
    ("num", "num_modalities", "batch_size"), list(product([1, 17, 1000], [2, 5], [4, 64]))
)
def test_a_mixed_plan_has_each_row_once_with_what_it_trains(
    tmp_path: Path, num: int, num_modalities: int, batch_size: int
) -> None:
    scores = Scores(
        scores_table(
            arithmetic_costs(num, num_modalities, missing=True), rows=np.arange(num) * 3 + 5
        )
    )
    for locality, stratify in product([None, 1, 200], [False, True]):
        config = mixed(locality=locality, stratify=stratify)
        plan = remix_plan(scores, config, batch_size, 11, 3)
        assert plan.table.schema.equals(MIXED_PLAN)
        assert {step.modality for step in plan.steps()} == {"all"}
        check_even(plan, batch_size)
        owners = assign(scores, config, 11, 3)
        assert trained(plan, scores.modalities) == Counter(
            zip(scores.rows.tolist(), owners.tolist(), strict=True)
        )
        first, second = Place.at(tmp_path / "a.arrow"), Place.at(tmp_path / "b.arrow")
        assert (
            write_plan(first, remix_draft(scores, config, batch_size, 11, 3))
            == write_plan(second, plan)
            == fingerprint(plan.table, plan.metadata)
        )
        assert (
            write_plan(second, remix_draft(scores, config, batch_size, 11, 3)) == plan.fingerprint
        )
        assert first.read_bytes() == second.read_bytes()
        assert BatchPlan.open(first).table.equals(plan.table, check_metadata=True)


@settings(max_examples=50)
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
        remix_plan(scores, PlanConfig(**asked, joint_share=share), batch_size, seed, 2),
        scores.modalities,
    )
    assert sorted(row for row, _ in kept.elements()) == scores.rows.tolist()
    assert all(owner in (-1, owners[(row - 5) // 3]) for row, owner in kept)
    if share != 0.4:
        assert {owner == -1 for _, owner in kept} == {bool(share)}
    again = remix_plan(
        scores, PlanConfig(**asked, joint_share=share, copies="resample"), batch_size, seed, 2
    )
    check_even(again, batch_size)
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
    plan = remix_plan(scores, PlanConfig(joint_share=share, **asked), 64, 4, epoch)
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


@pytest.mark.parametrize("order", ["sequential", "interleaved", "mixed"])
def test_a_share_of_none_is_a_plan_without_it(order: Any) -> None:
    scores = valued(500, 3)
    plain = remix_plan(scores, PlanConfig(order=order), 16, 0, 0)
    assert not set(ADDED) & plain.metadata.keys()
    nearly = remix_plan(
        scores, PlanConfig(order=order, joint_share=1e-12), 16, 0, 0
    )  # keeps no row, but by the way of a share
    assert nearly.metadata["joint_share"] == 1e-12
    assert nearly.table.replace_schema_metadata(None).equals(
        plain.table.replace_schema_metadata(None)
    )


def test_joint_steps_stand_beside_pure_ones() -> None:
    scores = valued(900, 2)
    names = [
        step.modality for step in remix_plan(scores, PlanConfig(joint_share=0.4), 16, 0, 0).steps()
    ]
    assert list(dict.fromkeys(names)) == ["m0", "m1", "all"]
    assert names == sorted(names, key=["m0", "m1", "all"].index)
    among = [
        step.modality
        for step in remix_plan(
            scores, PlanConfig(joint_share=0.4, order="interleaved"), 16, 0, 0
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
    plan = remix_plan(scores, PlanConfig(copies="resample"), 32, 1, 2)
    chosen = assign(scores, PlanConfig(), 1, 2)
    expected = with_again(scores, chosen)
    assert trained(plan, scores.modalities) == expected
    assert {expected[row, k] for row in scores.rows.tolist() for k in range(3)} == {0, 1, 2, 3, 4}
    assert plan.metadata["copies"] == "resample"
    lacks = np.isnan(np.stack([scores.kl(name) for name in scores.modalities], axis=1))
    assert not any(lacks[(row - 5) // 3, k] for row, k in expected)
    resampled = remix_plan(
        scores, mixed(joint_share=1.0, copies="resample"), 32, 1, 2
    )  # Resample as published: all of each row, then its copies
    assert {step.modality for step in resampled.steps()} == {"all"}
    assert trained(resampled, scores.modalities) == with_again(scores, np.full(800, -1))


@pytest.mark.parametrize("stratify", [False, True])
def test_the_copies_of_a_row_are_shuffled_apart(stratify: bool) -> None:
    scores = valued(6000, 2, missing=False)
    plan = remix_plan(scores, PlanConfig(copies="resample", stratify=stratify), 32, 0, 0)
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
        assert len(pairs) > 300
        assert abs(pairs.mean() / len(rows) - 1 / 3) < 4 * np.sqrt(
            1 / 18 / len(pairs)
        )  # of two places drawn by themselves


def test_copies_stay_in_their_window() -> None:
    scores = valued(2000, 2)
    plan = remix_plan(scores, PlanConfig(copies="resample", locality=300), 16, 0, 0)
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
            remix_plan(scores, PlanConfig(copies="resample", order=order), 8, 0, 0)
    remix_plan(scores, PlanConfig(), 8, 0, 0)


def rewrite(
    place: Place,
    change: Change,
    schema: pa.Schema | None = None,
    *,
    without: str = "",
    plain: bool = False,
) -> None:
    """Changes the steps of a plan file, under a right fingerprint, or with no metadata at all."""
    table = read_table(place)
    steps, facts = table.to_pylist(), read_metadata(table.schema)
    change(steps)
    new = pa.Table.from_pylist(steps, schema or table.schema.remove_metadata())
    kept = {key: value for key, value in facts.items() if key not in ("fingerprint", without)}
    write_table(place, new if plain else with_metadata(new, kept))


def put(at: int, value: Any) -> Change:
    """Another value for the first row of a step."""
    return lambda steps: steps[at]["assigned"].__setitem__(0, value)


def passed_on(steps: Steps) -> None:
    steps[3]["assigned"].append(steps[4]["assigned"].pop(0))


def twice(steps: Steps) -> None:
    steps[3]["rows"][0] = steps[1]["rows"][0]


@pytest.mark.parametrize(
    ("change", "schema", "plain", "message"),
    [
        (
            lambda steps: steps[2]["assigned"].pop(),
            MIXED_PLAN,
            False,
            r"(?s)(?=.*\bassigned\b)(?=.*(?<![\w-])2\b)(?=.*(?<![\w-])7\b)(?=.*(?<![\w-])8\b)",
        ),
        (
            passed_on,
            MIXED_PLAN,
            False,
            r"(?s)(?=.*\bassigned\b)(?=.*(?<![\w-])3\b)(?=.*(?<![\w-])9\b)(?=.*(?<![\w-])8\b)",
        ),
        (
            put(5, 3),
            MIXED_PLAN,
            False,
            r"(?s)(?=.*\bassigned\b)(?=.*(?<![\w-])5\b)(?=.*(?<![\w-])3\b)",
        ),
        (
            put(0, -2),
            MIXED_PLAN,
            False,
            r"(?s)(?=.*\bassigned\b)(?=.*(?<![\w-])0\b)(?=.*(?<!\w)-2\b)",
        ),
        (put(4, None), MIXED_PLAN, True, r"\bassigned\b"),
        (lambda steps: steps[4].update(assigned=None), MIXED_PLAN, True, r"\bassigned\b"),
        (
            lambda steps: None,
            PLAN.append(pa.field("assigned", pa.list_(pa.int16()))),
            False,
            r"(?s)(?=.*\bassigned\b)(?=.*\bint16\b)(?=.*\bint8\b)",
        ),
        (twice, MIXED_PLAN, False, r"(?s)(?=.*\brows\b)(?=.*(?<![\w-])1\b)(?=.*(?<![\w-])3\b)"),
    ],
)
def test_a_mixed_plan_that_lies_is_refused(
    tmp_path: Path, change: Change, schema: pa.Schema, plain: bool, message: str
) -> None:
    place = Place.at(tmp_path / "p.arrow")
    write_plan(place, remix_draft(valued(64, 3), mixed(), 8, 0, 0))
    rewrite(place, lambda steps: None)
    BatchPlan.open(place)
    rewrite(place, change, schema, plain=plain)  # nothing with nulls has a fingerprint
    with pytest.raises(DataError, match=message):
        BatchPlan.open(place)


@pytest.mark.parametrize("order", ["sequential", "mixed"])
def test_rows_come_again_only_where_the_plan_says_so(tmp_path: Path, order: Any) -> None:
    place = Place.at(tmp_path / "p.arrow")
    write_plan(
        place, remix_draft(valued(64, 3), PlanConfig(order=order, copies="resample"), 8, 0, 0)
    )
    BatchPlan.open(place, num_rows=200)
    with pytest.raises(DataError, match=r"(?s)(?=.*\brows\b)(?=.*(?<![\w-])100\b)"):
        BatchPlan.open(place, num_rows=100)
    rewrite(place, lambda steps: None, without="copies")
    with pytest.raises(DataError, match=r"\brows\b"):
        BatchPlan.open(place)


def test_the_index_has_the_first_step_of_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draft, "CHUNK_ROWS", 64)
    for order in ("interleaved", "mixed"):
        plan = remix_plan(valued(300, 3), PlanConfig(order=order, copies="resample"), 8, 0, 0)
        place = Place.at(tmp_path / "i.arrow")
        write_step_index(place, plan, 1000)
        first: dict[int, int] = {}
        for step in plan.steps():
            for row in step.rows.tolist():
                first.setdefault(row, step.step)
        index = BatchFile(place, STEPS_SCHEMA)
        assert [step_of(index, row) for row in range(1000)] == [
            first.get(row) for row in range(1000)
        ]


def test_statistics_count_what_rows_train() -> None:
    scores = valued(900, 3)
    for asked in ({}, {"joint_share": 0.3}, {"copies": "resample", "joint_share": 1.0}):
        config = mixed(**asked)
        plan = remix_plan(scores, config, 16, 0, 1)
        told = plan_statistics(plan, scores=scores, previous=remix_plan(scores, config, 16, 0, 0))
        counts: Counter[int] = Counter()
        for (_, owner), num in trained(plan, scores.modalities).items():
            counts[owner] += num
        assert list(told["modalities"]) == ["m0", "m1", "m2", "all"]
        for k, name in zip((0, 1, 2, -1), told["modalities"], strict=True):
            each = told["modalities"][name]
            assert (each["num_rows"], each["num_steps"]) == (counts[k], len(plan) if k < 0 else 0)
            assert each["share"] == pytest.approx(counts[k] / counts.total())
        assert told["num_rows"] == counts.total() == sum(len(step.rows) for step in plan.steps())
        assert (told["num_switches"], told["churn"]) == (0, None if "joint_share" in asked else 0.0)
        if "copies" not in asked:
            owners = dict(trained(plan, scores.modalities).keys())
            for k, name in zip((0, 1, 2, -1), told["modalities"], strict=True):
                mine = [
                    label
                    for row, label in zip(scores.rows.tolist(), scores.labels.tolist(), strict=True)
                    if owners[row] == k
                ]
                assert (
                    told["modalities"][name]["class_counts"]
                    == np.bincount(mine, minlength=5).tolist()
                )


def test_the_command_plans_with_all_of_it(tmp_path: Path, command: Command) -> None:
    scores = valued(200, 3)
    source, out = tmp_path / "s.arrow", tmp_path / "p.arrow"
    write_table(Place.at(source), scores.table)
    options = [
        "--order",
        "mixed",
        "--joint-share",
        0.4,
        "--copies",
        "resample",
        "--batch-size",
        16,
        "--seed",
        3,
        "--epoch",
        5,
    ]
    code, told, err = command("plan", source, "--out", out, *options, "--json")
    assert code == 0, err
    wanted = remix_plan(scores, mixed(joint_share=0.4, copies="resample"), 16, 3, 5)
    assert (
        json.loads(told)["fingerprint"]
        == wanted.fingerprint
        == BatchPlan.open(Place.at(out)).fingerprint
    )
    assert command("stats", out, "--scores", source)[0] == 0
    write_table(Place.at(source), scores.table.drop_columns(["shapley_m2"]))
    code, _, err = command("plan", source, "--out", tmp_path / "no.arrow", *options)
    assert (code, "shapley_m2" in err) == (2, True), err
    assert not (tmp_path / "no.arrow").exists()
    code, _, err = command("plan", source, "--out", tmp_path / "no.arrow", "--joint-share", 1.5)
    assert (code, "joint_share" in err) == (2, True), err


METHODS = ("decouple", "reassemble", "resample", "resample+remix", "remix:joint")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run of each method: to be read only."""
    store = tmp_path_factory.mktemp("store")
    make_features(store / "features" / "made", missing=0.2, num_rows=120)
    for method in METHODS:
        launch(with_method(run_config(store, train={"epochs": 3, "warmup_epochs": 1}), method, 0))
    return store


def run_of(store: Path, method: str) -> Run:
    return Run.open(Place.at(store / "runs" / with_method(run_config(store), method, 0).name))


@pytest.mark.parametrize("method", METHODS)
def test_a_run_trains_what_its_plans_say(store: Path, method: str) -> None:
    run, features = run_of(store, method), FeatureSet.open(Place.at(store / "features" / "made"))
    result = verify(run)
    assert (result["ok"], result["problems"]) == (True, [])
    check_coverage(run, 3)
    names, told = features.modalities, run.epochs().to_pylist()
    for epoch in (1, 2):
        pairs, taken = trained(BatchPlan.open(run.plan(epoch)), names), run.steps(epoch)
        assert told[epoch]["num_rows"] == pairs.total()
        for k, name in enumerate(names):
            rows = {pair: num for pair, num in pairs.items() if features.has[pair[0], k]}
            shown = sum(
                num
                for (_, owner), num in rows.items()
                if owner in (-1, k) or method == "reassemble"
            )
            assert sum(taken[f"num_rows_{name}"].to_pylist()) == shown, (epoch, name)
            assert told[epoch][f"share_{name}"] == pytest.approx(
                sum(num for (_, owner), num in pairs.items() if owner == k) / pairs.total()
            )


def reassigned(steps: Steps, has: np.ndarray) -> None:
    """A row that may train any modality trains another."""
    step, at = next(
        (step, i) for step in steps for i, row in enumerate(step["rows"]) if has[row].all()
    )
    step["assigned"][at] = (step["assigned"][at] + 1) % 3


def lacking(steps: Steps, has: np.ndarray) -> None:
    step, at = next(
        (step, i) for step in steps for i, row in enumerate(step["rows"]) if not has[row].all()
    )
    step["assigned"][at] = int(np.argmin(has[step["rows"][at]]))


def fewer(steps: Steps, has: np.ndarray) -> None:
    """A row that comes again does so once less."""
    num = Counter(row for step in steps for row in step["rows"])
    step, at = next(
        (step, i) for step in reversed(steps) for i, row in enumerate(step["rows"]) if num[row] > 2
    )
    for name in {"rows", "assigned"} & step.keys():
        del step[name][at]


ANEW = "the scores, the configuration and the seed make the plan"
FAULTS: list[tuple[str, Callable[[Steps, np.ndarray], object], str]] = [
    ("decouple", reassigned, ANEW),
    ("decouple", lacking, "which lacks it"),
    (
        "decouple",
        lambda steps, has: steps[0]["assigned"].__setitem__(0, 3),
        "step 0 assigns 3 to its row",
    ),
    (
        "decouple",
        lambda steps, has: steps[1]["assigned"].pop(),
        "step 1 says what 13 rows train, but has 14",
    ),
    ("resample", fewer, ANEW),
    ("resample+remix", fewer, ANEW),
]


@pytest.mark.parametrize(("method", "change", "words"), FAULTS)
def test_a_planted_fault_is_named(
    store: Path,
    tmp_path: Path,
    method: str,
    change: Callable[[Steps, np.ndarray], object],
    words: str,
) -> None:
    name = run_of(store, method).place.name
    shutil.copytree(store / "features", tmp_path / "features")
    shutil.copytree(
        store / "runs" / name,
        tmp_path / "runs" / name,
        ignore=shutil.ignore_patterns("tensorboard"),
    )
    run, has = (
        run_of(tmp_path, method),
        FeatureSet.open(Place.at(tmp_path / "features" / "made")).has,
    )
    rewrite(run.plan(2), lambda steps: None)
    assert verify(run)["problems"] == []
    rewrite(run.plan(2), lambda steps: change(steps, has))
    problems = verify(run)["problems"]
    assert any(
        words in each["what"]
        for each in problems
        if each["artifact"].endswith("plans/epoch-0002.arrow")
    ), problems
    assert {each["epoch"] for each in problems} == {2}


@pytest.fixture(scope="module")
def client(store: Path) -> Iterator[httpx.Client]:
    with serving(store) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.mark.parametrize("method", ["decouple", "resample", "resample+remix"])
def test_the_service_says_what_each_row_trains(
    client: httpx.Client, store: Path, method: str
) -> None:
    run = run_of(store, method)
    for epoch in (0, 2):
        base, plan = f"/v1/runs/{run.place.name}/plans/{epoch}", BatchPlan.open(run.plan(epoch))
        found, following = [], f"{base}/steps?limit=3"
        while following:
            page = client.get(following).json()
            found, following = found + page["items"], page["next"]
        assert [
            (each["step"], each["modality"], each["rows"], each.get("assigned")) for each in found
        ] == [
            (
                step.step,
                step.modality,
                step.rows.tolist(),
                None if step.assigned is None else step.assigned.tolist(),
            )
            for step in plan.steps()
        ]
        assert (found[0].get("assigned") is not None) == (epoch == 2 and method != "resample+remix")
        assert client.get(f"{base}/stats").json() == run.plan_stats(epoch).read_json()
        assert client.get(base).json()["shares"] == {
            name: each["share"]
            for name, each in run.plan_stats(epoch).read_json()["modalities"].items()
        }


@pytest.mark.parametrize("method", ["decouple", "resample"])
def test_a_samples_story_tells_what_it_trained_first(
    client: httpx.Client, store: Path, method: str
) -> None:
    run = run_of(store, method)
    plan, names = (
        BatchPlan.open(run.plan(2)),
        FeatureSet.open(Place.at(store / "features" / "made")).modalities,
    )
    first: dict[int, tuple[int, str]] = {}
    for step in plan.steps():
        assert step.assigned is not None
        for row, owner in zip(step.rows.tolist(), step.assigned.tolist(), strict=True):
            first.setdefault(row, (step.step, "all" if owner < 0 else names[owner]))
    for row in list(first)[::11]:
        epochs = client.get(f"/v1/runs/{run.place.name}/samples/s{row:04d}").json()["epochs"]
        assert (epochs[2]["step"], epochs[2]["assigned"]) == first[row]
        assert epochs[0]["assigned"] == "all"
