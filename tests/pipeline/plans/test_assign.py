from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment

from pipeline.errors import ConfigError, DataError, MismatchError
from pipeline.plans import target_shares
from pipeline.plans.assign import assign, assignment_rule
from pipeline.plans.config import PlanConfig
from pipeline.scores.build import join_scores, score_rows
from pipeline.scores.difficulty import ability
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import TABLE_ROWS, write_table
from pipeline.storage.store_path import StorePath
from tests.support.hostile_files import with_value
from tests.support.plan_tables import arithmetic_costs, scores_table
from tests.support.refusals import refused
from tests.support.stores import make_features


def choose(costs: np.ndarray, seed: int = 0, **config: object) -> np.ndarray:
    return assign(Scores(scores_table(costs)), PlanConfig.model_validate(config), seed, 0)


def test_equals_an_independent_argmin_over_minus_entropy() -> None:
    draw = np.random.default_rng(5)
    num, num_modalities, num_classes = 100_000, 3, 7
    p = draw.dirichlet(np.full(num_classes, 0.5), (num, num_modalities))
    p[::5, 2] = p[::5, 0]
    p[1::5, 1] = p[1::5, 0]
    p[2::50] = 1 / num_classes
    chosen = choose(np.stack([ability(p[:, k]) for k in range(num_modalities)], axis=1))

    clipped = np.clip(p, 1e-9, 1)
    negative_entropy = (clipped * np.log2(clipped)).sum(axis=2)
    expected = num_modalities - 1 - np.argmin(negative_entropy[:, ::-1], axis=1)
    np.testing.assert_array_equal(chosen, expected)
    assert (chosen[2::50] == 2).all()


def test_random_is_uniform_over_present_modalities_and_changes_with_seed_and_epoch() -> None:
    costs = arithmetic_costs(60_000, 3, missing=True)
    scores = Scores(scores_table(costs))
    chosen = assign(scores, PlanConfig(policy="random"), 1, 2)
    for pattern in np.unique(np.isnan(costs), axis=0):
        among = chosen[(np.isnan(costs) == pattern).all(axis=1)]
        shares = np.bincount(among, minlength=3) / len(among)
        assert not shares[pattern].any()
        np.testing.assert_allclose(shares[~pattern], 1 / (~pattern).sum(), atol=0.02)
    for other in [(2, 2), (1, 3)]:
        assert 0.3 < (chosen != assign(scores, PlanConfig(policy="random"), *other)).mean() < 0.6


def test_assignment_does_not_depend_on_slices() -> None:
    scores = Scores(scores_table(arithmetic_costs(3000, 3, missing=True, levels=20)))
    for config in [
        PlanConfig(),
        PlanConfig(policy="random"),
        PlanConfig(shares="equal"),
        PlanConfig(policy="random", shares="equal"),
    ]:
        assignment = assignment_rule(scores, config, 3, 4)
        parts = [assignment.assign(scores.table.slice(start, 77)) for start in range(0, 3000, 77)]
        np.testing.assert_array_equal(np.concatenate(parts), assign(scores, config, 3, 4))


TARGETS = [
    {"m0": 0.31, "m1": 0.69},
    {"m0": 0.2, "m1": 0.5, "m2": 0.3},
    {"m0": 0.1, "m1": 0.2, "m2": 0.3, "m3": 0.4},
    {"m0": 1.0, "m1": 0.0},
    {f"m{k}": 0.05 for k in range(20)},
]


@pytest.mark.parametrize(
    ("num", "policy", "levels"),
    [(1, "kl", 1), (7, "kl", 3), (200, "random", 997), (2003, "kl", 97)],
)
def test_shares_are_exact(num: int, policy: str, levels: int) -> None:
    for target, missing in product(TARGETS, [False, True]):
        costs = arithmetic_costs(num, len(target), levels=levels)
        counts = np.bincount(choose(costs, policy=policy, shares=target), minlength=len(target))
        assert counts.sum() == num
        assert (np.abs(counts - num * np.array(list(target.values()))) < 1).all()
        costs = arithmetic_costs(num, len(target), levels=levels, missing=missing and num > 100)
        chosen = choose(costs, policy=policy, shares="equal")
        assert not np.isnan(costs[np.arange(num), chosen]).any()
        counts = np.bincount(chosen, minlength=len(target))
        assert counts.max() - counts.min() <= 1


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(2, 4), st.integers(1, 14), st.booleans())
def test_shares_have_the_least_total_cost(
    data: st.DataObject, num_modalities: int, num: int, ties: bool
) -> None:
    values = st.integers(0, 4).map(float) if ties else st.floats(0, 4, width=32)
    costs = data.draw(hnp.arrays(np.float32, (num, num_modalities), elements=values))
    costs[data.draw(hnp.arrays(np.bool_, costs.shape))] = np.nan
    costs[np.isnan(costs).all(axis=1), 0] = 1
    weights = st.lists(st.integers(0, 5), min_size=num_modalities, max_size=num_modalities)
    drawn = data.draw(weights.filter(any))
    shares = {f"m{k}": weight / sum(drawn) for k, weight in enumerate(drawn)}
    counts = target_shares.target_of(PlanConfig(shares=shares), list(shares), num)
    assert counts is not None and sum(counts) == num
    # one slot per row that a modality must have
    slots = costs[:, np.repeat(np.arange(num_modalities), counts)]
    square = np.nan_to_num(slots.astype(np.float64), nan=1e6)
    best = square[linear_sum_assignment(square)].sum()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target_shares, "SAMPLE_ROWS", data.draw(st.sampled_from([3, 2**17])))
        if best >= 1e6:
            with pytest.raises(DataError, match=r"\bm\d\b"):
                choose(costs, shares=shares)
            return
        chosen = choose(costs, shares=shares)
    assert np.bincount(chosen, minlength=num_modalities).tolist() == list(counts)
    total = costs[np.arange(num), chosen].astype(np.float64).sum()
    np.testing.assert_allclose(total, best, atol=1e-9)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"shares": {"m0": 0.5, "m3": 0.5}}, "m3"),
        ({"shares": {"m0": 1.0}}, "m1"),
        ({"shares": {"m0": 0.5, "m1": 0.6, "m2": 0}}, "1.1"),
    ],
)
def test_invalid_shares(config: dict[str, object], named: str) -> None:
    with refused(ConfigError, named):
        choose(arithmetic_costs(10, 3), **config)


def test_shares_that_too_few_rows_can_fill() -> None:
    costs = arithmetic_costs(100, 2)
    costs[:60, 1] = np.nan
    with refused(DataError, "m1", 70, 100, 40, 0.4):
        choose(costs, shares={"m0": 0.3, "m1": 0.7})
    assert np.bincount(choose(costs, shares={"m0": 0.6, "m1": 0.4})).tolist() == [60, 40]


@pytest.mark.parametrize("at", [1, TABLE_ROWS])
def test_repeated_row_is_detected_across_blocks(at: int) -> None:
    rows = np.arange(TABLE_ROWS + 10)
    rows[at] = at - 1
    with refused(DataError, at - 1):
        Scores(scores_table(arithmetic_costs(len(rows), 2), rows=rows))


TABLE = scores_table(arithmetic_costs(20, 2), rows=np.arange(20) * 3)
NO_MODALITY = with_value(with_value(TABLE, "kl_m0", 5, np.nan), "kl_m1", 5, np.nan)
BAD_SCORES: list[tuple[pa.Table, str]] = [
    (with_value(TABLE, "kl_m1", 4, np.inf), "12 kl_m1 inf"),
    (with_value(TABLE, "row", 4, 57), "57"),
    (with_value(TABLE, "row", 0, -1), "-1"),
    (NO_MODALITY, "15 kl_m0 kl_m1"),
    (TABLE.drop_columns(["label"]), "label"),
    (TABLE.drop_columns(["kl_m0"]), "1"),
    (scores_table(arithmetic_costs(3, 2), modalities=["m1", "m0"]), "['m1' 'm0']"),
    (TABLE.slice(0, 0), ""),
]


@pytest.mark.parametrize(("table", "words"), BAD_SCORES)
def test_bad_scores(table: pa.Table, words: str) -> None:
    with refused(DataError, *words.split()):
        Scores(table)


def test_scores_of_other_features(tmp_path: Path) -> None:
    features = make_features(tmp_path)
    scores = Scores(scores_table(arithmetic_costs(3, 2), parents={"features": "aaaa"}))
    with refused(MismatchError, "aaaa", features.fingerprint[:12]):
        scores.check_features(features)


@pytest.mark.parametrize(("column", "value"), [("label", 2), ("sample_id", "other")])
def test_scores_of_other_samples(tmp_path: Path, column: str, value: object) -> None:
    features = make_features(tmp_path)
    rows = features.rows_of("train")
    uniform = dict.fromkeys(features.modalities, np.full((len(rows), 3), 1 / 3))
    table = join_scores([(0, score_rows(features, rows, uniform))], features, 0, {})
    Scores(table).check_features(features)
    at = int(np.flatnonzero(features.labels[rows] != 2)[5])
    with refused(MismatchError, rows[at], column, value):
        Scores(with_value(table, column, at, value)).check_features(features)


def test_scores_must_match_the_modalities_of_samples() -> None:
    scores = Scores(with_value(TABLE, "kl_m1", 4, float("nan")))
    has = np.ones((60, 2), bool)
    has[12, 1] = False
    scores.check_has(has)
    has[12, 1] = True
    with refused(MismatchError, 12, "kl_m1"):
        scores.check_has(has)
    has[12, 1] = has[0, 0] = False
    with refused(MismatchError, 0, "kl_m0"):
        scores.check_has(has)
    with refused(MismatchError, 57, 50):
        scores.check_has(np.ones((50, 2), bool))


def test_scores_of_other_software_in_any_order_and_precision(tmp_path: object) -> None:
    table = TABLE.select(["row", "sample_id", "label", "kl_m0", "kl_m1"])
    schema = table.schema
    for name in ("kl_m0", "kl_m1"):
        schema = schema.set(schema.get_field_index(name), pa.field(name, pa.float64()))
    foreign = table.cast(schema)
    foreign = pa.concat_tables([foreign.slice(11), foreign.slice(0, 11)])
    path = StorePath.at(str(tmp_path)) / "scores.arrow"
    write_table(path, foreign)
    opened = Scores.open(path)
    assert opened.rows.tolist() == table["row"].to_pylist()
    np.testing.assert_array_equal(
        assign(opened, PlanConfig(), 0, 0), assign(Scores(table), PlanConfig(), 0, 0)
    )
