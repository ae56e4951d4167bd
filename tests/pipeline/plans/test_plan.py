import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.counter_rng import hashes, key_of
from pipeline.errors import ConfigError, DataError, StoreError
from pipeline.plans.assign import assign
from pipeline.plans.config import PlanConfig
from pipeline.plans.ordering import leading_bits, merge, sort_values
from pipeline.plans.plan import BatchPlan
from pipeline.plans.planner import build, joint_plan_builder, remix_plan_builder, write_plan
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import write_table
from pipeline.storage.metadata import fingerprint
from pipeline.storage.schemas import PLAN
from pipeline.storage.store_path import StorePath
from tests.support.plan_tables import arithmetic_costs, scores_table
from tests.support.refusals import refused

GOLDEN = Path(__file__).parents[2] / "support" / "golden_plans.json"


def check_plan(plan: BatchPlan, expected: dict[str, np.ndarray], batch_size: int) -> None:
    """Check that every row of each subset occurs once, in batches of its modality.

    The sizes of the batches differ by at most one, and the slices of all ranks make up each batch.
    """
    steps = list(plan.steps())
    assert [step.step for step in steps] == list(range(len(plan)))
    for name, rows in expected.items():
        batches = [step.rows for step in steps if step.modality == name]
        sizes = {len(batch) for batch in batches}
        assert len(batches) == -(-len(rows) // batch_size)
        assert not sizes or (max(sizes) - min(sizes) <= 1 and max(sizes) <= batch_size)
        np.testing.assert_array_equal(
            np.sort(np.concatenate([np.empty(0, np.int64), *batches])), rows
        )
    assert {step.modality for step in steps} <= set(expected)
    for world_size in range(1, 9):
        for step in steps[:: max(1, len(steps) // 7)]:
            slices = [step.for_rank(rank, world_size) for rank in range(world_size)]
            np.testing.assert_array_equal(np.concatenate(slices), step.rows)
            assert max(map(len, slices)) - min(map(len, slices)) <= 1


def subsets(scores: Scores, config: PlanConfig, seed: int, epoch: int) -> dict[str, np.ndarray]:
    chosen = assign(scores, config, seed, epoch)
    return {name: scores.rows[chosen == k] for k, name in enumerate(scores.modalities)}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 400),
    st.integers(2, 5),
    st.integers(1, 500),
    st.integers(0, 2**63),
    st.integers(0, 10**6),
    st.data(),
)
def test_any_plan_covers_its_rows(
    num: int, num_modalities: int, batch_size: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    config = PlanConfig(
        policy=data.draw(st.sampled_from(["kl", "random"])),
        order=data.draw(st.sampled_from(["sequential", "interleaved"])),
        shares=data.draw(st.sampled_from(["natural", "equal"])),
        stratify=data.draw(st.booleans()),
        locality=data.draw(st.none() | st.integers(1, 500)),
    )
    costs = arithmetic_costs(num, num_modalities, missing=config.shares == "natural")
    scores = Scores(scores_table(costs, rows=np.arange(num) * 3 + 5))
    plan = build(remix_plan_builder(scores, config, batch_size, seed, epoch))
    check_plan(plan, subsets(scores, config, seed, epoch), batch_size)
    assert build(remix_plan_builder(scores, config, batch_size, seed, epoch)).table.equals(
        plan.table
    )
    assert fingerprint(plan.table, plan.metadata) == plan.fingerprint
    joint = joint_plan_builder(scores.rows, batch_size, 11, 3, config=config, labels=scores.labels)
    check_plan(build(joint), {"all": scores.rows}, batch_size)


def golden_plans() -> dict[str, str]:
    scores = Scores(scores_table(arithmetic_costs(5000, 3, missing=True), num_classes=9))
    configs = {
        "natural": PlanConfig(),
        "interleaved": PlanConfig(order="interleaved"),
        "random": PlanConfig(policy="random"),
        "equal": PlanConfig(shares="equal"),
        "targets": PlanConfig(shares={"m0": 0.2, "m1": 0.3, "m2": 0.5}, policy="random"),
        "stratified": PlanConfig(stratify=True),
        "windows": PlanConfig(locality=256, order="interleaved"),
        "stratified windows": PlanConfig(locality=256, stratify=True),
    }
    plans = {
        name: build(remix_plan_builder(scores, config, 32, 7, 10))
        for name, config in configs.items()
    }
    plans["joint"] = build(joint_plan_builder(scores.rows, 32, 7, 0, modalities=scores.modalities))
    return {name: plan.fingerprint for name, plan in plans.items()}


def test_golden_plans() -> None:
    """A difference changes the order of every user's plans; see CONTRIBUTING before updating."""
    assert golden_plans() == json.loads(GOLDEN.read_text())


def test_plans_are_identical_in_another_process() -> None:
    code = (
        "import json, sys; from tests.pipeline.plans.test_plan import golden_plans; "
        "json.dump(golden_plans(), sys.stdout)"
    )
    root = Path(__file__).parents[3]
    environment = {"PYTHONHASHSEED": "77", "PYTHONPATH": str(root)}
    actual = subprocess.check_output([sys.executable, "-c", code], cwd=root, env=environment)
    assert json.loads(actual) == json.loads(GOLDEN.read_text())


def test_the_hash_is_splitmix64() -> None:
    # first outputs of the reference implementation for seed 1234567
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert hashes(1234567, np.arange(1, 4)).tolist() == expected
    assert len({key_of(a, b, c) for a, b, c in product(range(20), repeat=3)}) == 8000


def test_orders_differ_with_seed_and_epoch_and_look_random() -> None:
    def order(seed: int, epoch: int) -> np.ndarray:
        return np.concatenate(
            [
                step.rows
                for step in build(joint_plan_builder(np.arange(20_000), 64, seed, epoch)).steps()
            ]
        )

    base = order(0, 0)
    for other in (order(1, 0), order(0, 1)):
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.03
        assert (base == other).mean() < 0.01
    assert abs(np.corrcoef(base[:-1], base[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(base, np.arange(20_000))[0, 1]) < 0.03


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2**64 - 1)), min_size=1, max_size=300))
def test_values_are_sorted_by_group_then_key(pairs: list[tuple[int, int]]) -> None:
    groups, keys = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs], np.uint64)
    bits = leading_bits(5, len(pairs))
    assert bits == 64 - 3 - max(len(pairs) - 1, 1).bit_length()
    position = sort_values(keys.copy(), bits, None, groups, 5)
    expected = np.lexsort((keys >> np.uint64(64 - bits), groups))
    assert position.tolist() == expected.tolist()
    values = np.arange(len(pairs)) // 2
    assert sort_values(keys.copy(), bits, values, groups, 5).tolist() == values[expected].tolist()


@given(st.lists(st.integers(0, 300), min_size=1, max_size=5).filter(any), st.integers(1, 100))
def test_merge_keeps_proportions_for_any_block_size(lengths: list[int], num_per_block: int) -> None:
    merged = np.concatenate(list(merge(lengths, 5, num_per_block)))
    np.testing.assert_array_equal(merged, np.concatenate(list(merge(lengths, 5, 10**6))))
    assert np.bincount(merged, minlength=len(lengths)).tolist() == lengths
    seen = np.cumsum(merged[:, None] == np.arange(len(lengths)), axis=0)
    expected = np.arange(1, len(merged) + 1)[:, None] * np.array(lengths) / sum(lengths)
    assert np.abs(seen - expected).max() <= len(lengths) + 1


def test_sequential_visits_modalities_in_order_and_interleaved_mixes() -> None:
    scores = Scores(scores_table(arithmetic_costs(4000, 3)))
    names = [
        step.modality for step in build(remix_plan_builder(scores, PlanConfig(), 16, 0, 0)).steps()
    ]
    assert names == sorted(names)
    mixed = build(remix_plan_builder(scores, PlanConfig(order="interleaved"), 16, 0, 0))
    assert sorted(step.modality for step in mixed.steps()) == names
    assert sum(a.modality != b.modality for a, b in pairwise(mixed.steps())) > len(names) / 3


def test_each_batch_has_the_class_mix_of_its_subset() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 5], np.int32)[np.arange(12_000) * 5 % 12]
    table = scores_table(arithmetic_costs(12_000, 2))
    scores = Scores(table.set_column(2, "label", pa.array(labels)))

    def largest_deviation(name: str, stratify: bool) -> float:
        """Largest deviation of a batch's class counts from those of its subset, in samples."""
        config = PlanConfig(stratify=stratify, order="interleaved")
        steps = build(remix_plan_builder(scores, config, 48, 0, 0)).steps()
        batches = [
            np.bincount(labels[step.rows], minlength=6) for step in steps if step.modality == name
        ]
        mix = np.sum(batches, axis=0) / np.sum(batches)
        return max(float(np.abs(batch - batch.sum() * mix).max()) for batch in batches)

    for name in scores.modalities:
        assert largest_deviation(name, True) <= 2 < 4 < largest_deviation(name, False)


def test_locality_reads_one_window_after_another() -> None:
    scores = Scores(scores_table(arithmetic_costs(10_000, 2)))
    plan = build(remix_plan_builder(scores, PlanConfig(locality=500), 64, 0, 0))
    rows = np.concatenate([step.rows for step in plan.steps() if step.modality == "m1"])
    visits = rows[np.flatnonzero(np.diff(rows // 500, prepend=-1))] // 500
    assert len(visits) == 20 and visits.tolist() != sorted(visits)
    within = rows[rows // 500 == 3]
    assert within.tolist() != sorted(within)


def test_memory_depends_on_windows_and_not_on_the_plan(tmp_path: Path) -> None:
    num = 2_000_000
    path = StorePath.at(tmp_path / "scores.arrow")
    write_table(path, scores_table(arithmetic_costs(num, 2)))
    pool = pa.default_memory_pool()
    arrow_before = pool.bytes_allocated()
    tracemalloc.start()
    try:
        scores = Scores.open(path)
        opened = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        builder = remix_plan_builder(
            scores, PlanConfig(locality=10_000, order="interleaved"), 64, 0, 0
        )
        total, arrow = 0, 0
        for batch in builder.batches():
            total += batch.column("rows").values.nbytes
            arrow = max(arrow, pool.bytes_allocated() - arrow_before)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 8 * num
    assert opened < 30e6 and arrow < 20e6
    assert peak < 60e6 < path.info().size


def test_written_and_built_plans_are_identical(tmp_path: Path) -> None:
    costs = arithmetic_costs(30_000, 3)
    scores = Scores(scores_table(costs, parents={"features": "f00"}, fingerprint="5c0"))
    config = PlanConfig(locality=1000, order="interleaved")
    streamed, built = StorePath.at(tmp_path / "a.arrow"), StorePath.at(tmp_path / "b.arrow")
    written = write_plan(streamed, remix_plan_builder(scores, config, 32, 1, 2, num_classes=5))
    assert written == write_plan(
        built, build(remix_plan_builder(scores, config, 32, 1, 2, num_classes=5))
    )
    plan = BatchPlan.open(streamed)
    assert plan.table.equals(BatchPlan.open(built).table, check_metadata=True)
    assert fingerprint(plan.table, plan.metadata) == plan.fingerprint == written
    assert plan.table.schema.equals(PLAN)
    assert plan.metadata["parents"] == {"features": "f00", "scores": "5c0"}
    expected = {"epoch": 2, "seed": 1, "batch_size": 32, "num_classes": 5}
    expected |= {"policy": "kl", "order": "interleaved", "modalities": ["m0", "m1", "m2"]}
    expected |= {"shares": "natural", "stratify": False, "locality": 1000}
    assert plan.metadata | expected == plan.metadata


def test_the_order_of_the_given_rows_does_not_matter() -> None:
    rows = np.arange(500) * 2
    plan, other = (build(joint_plan_builder(each, 8, 0, 0)) for each in (rows, rows[::-1]))
    assert plan.fingerprint == other.fingerprint
    table = scores_table(arithmetic_costs(500, 2))
    shuffled = table.take(pa.array(hashes(0, np.arange(500)).argsort()))
    plan, other = (
        build(remix_plan_builder(Scores(each), PlanConfig(), 8, 0, 0)) for each in (table, shuffled)
    )
    assert plan.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    "config",
    [
        PlanConfig(),
        PlanConfig(locality=1000, order="interleaved", stratify=True),
        PlanConfig(locality=200_000),
        PlanConfig(shares="equal", order="mixed"),
    ],
)
def test_generated_scores_give_the_plan_of_the_table(config: PlanConfig) -> None:
    table = scores_table(arithmetic_costs(150_000, 3), rows=np.arange(150_000) * 2)
    arrays = {name: table[name].to_numpy() for name in ("row", "label", "kl_m0", "kl_m1", "kl_m2")}
    longest = 0

    def computed(name: str) -> Callable[[int, int], np.ndarray]:
        def values(start: int, stop: int) -> np.ndarray:
            nonlocal longest
            longest = max(longest, stop - start) if name == "kl_m0" else longest
            return arrays[name][start:stop]

        return values

    generated = Scores.generated(
        150_000, ["m0", "m1", "m2"], {name: computed(name) for name in arrays}
    )
    plan, expected = (
        build(remix_plan_builder(scores, config, 32, 3, 1)) for scores in (generated, Scores(table))
    )
    assert plan.table.equals(expected.table) and plan.fingerprint == expected.fingerprint
    assert longest == 65_536


def test_invalid_arguments_of_plan_builders(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        build(joint_plan_builder(np.empty(0, np.int64), 8, 0, 0))
    with refused(DataError, 4):
        build(joint_plan_builder(np.array([1, 4, 2, 4]), 8, 0, 0))
    with refused(ConfigError, 0):
        build(joint_plan_builder(np.arange(4), 0, 0, 0))
    with refused(ConfigError, "stratify"):
        build(joint_plan_builder(np.arange(4), 2, 0, 0, config=PlanConfig(stratify=True)))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        write_plan(
            StorePath.at(tmp_path / "file" / "plan.arrow"),
            joint_plan_builder(np.arange(4), 2, 0, 0),
        )
