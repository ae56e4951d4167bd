"""Histograms of scores: the same to the bit from a table and from a file, however it is cut, with the memory of a record batch."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, DataError
from pipeline.scores.difficulty import difficulty
from pipeline.scores.histograms import file_histograms, score_histograms
from pipeline.scores.table import Scores
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.store_path import Place
from tests.support.plan_tables import arithmetic_costs, scores_table


def written(place: Place, table: pa.Table, batch_rows: int) -> BatchFile:
    with place.create() as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return BatchFile(place)


@pytest.mark.parametrize("batch_rows", [1000, 100_000])
def test_a_file_and_a_table_give_the_same_to_the_bit(tmp_path: Path, batch_rows: int) -> None:
    table = scores_table(arithmetic_costs(200_000, 3, missing=True, levels=99_991), num_classes=7)
    chunked = pa.concat_tables([table.slice(0, 77_777), table.slice(77_777)])
    expected = score_histograms(Scores(table), 7)
    assert score_histograms(Scores(chunked), 7) == expected
    assert (
        file_histograms(written(Place.at(tmp_path / "s.arrow"), table, batch_rows), 7) == expected
    )
    assert json.loads(json.dumps(expected, allow_nan=False)) == expected


@settings(deadline=None, max_examples=30)
@given(
    kl=st.lists(
        st.floats(-1, 40, width=32)
        | st.just(float("nan"))
        | st.sampled_from([0.0, 1e-45, 3e38, -3e38]),
        min_size=1,
        max_size=50,
    ),
    num_classes=st.none() | st.integers(1, 1000),
    num_bins=st.integers(1, 1000),
)
def test_histograms_are_those_of_numpy(
    kl: list[float], num_classes: int | None, num_bins: int
) -> None:
    values = np.array([kl, np.zeros(len(kl))], np.float32)
    found = score_histograms(Scores(scores_table(values.T)), num_classes, num_bins=num_bins)
    top = max(0.0, np.log2(num_classes or 1), float(np.nanmax(values))) or 1.0
    for name, bits in zip(("m0", "m1"), values, strict=True):
        known = bits[~np.isnan(bits)].astype(np.float64)
        edges = np.linspace(min(0.0, known.min(initial=0.0)), top, num_bins + 1)
        counts = np.histogram(known, edges)[0].tolist()
        mean = pytest.approx(known.mean(), rel=1e-12, abs=1e-30) if len(known) else None
        assert found[name]["kl"] == {
            "edges": pytest.approx(edges.tolist(), rel=1e-15),
            "counts": counts,
            "assigned": None,
            "mean": mean,
        }
        assert found[name]["num_missing"] == len(kl) - len(known) == len(kl) - sum(counts)
        hard = found[name]["difficulty"]
        assert (hard is None) == (num_classes in (None, 1))
        if hard is not None:
            assert (
                hard["counts"]
                == np.histogram(
                    difficulty(known, num_classes or 0), np.linspace(0, 1, num_bins + 1)
                )[0].tolist()
            )


def test_what_each_modality_trains_is_counted_apart() -> None:
    scores = Scores(scores_table(arithmetic_costs(150_000, 2, missing=True)))
    owners = np.where(np.arange(len(scores)) % 5 == 0, -1, np.arange(len(scores)) % 3).astype(
        np.int8
    )
    found = score_histograms(scores, owners=owners, names=["x", "m1", "m0"])
    for name, index in (("m0", 2), ("m1", 1)):
        own = scores.kl(name)[owners == index]
        assert (
            found[name]["kl"]["assigned"]
            == np.histogram(own[~np.isnan(own)].astype(np.float64), found[name]["kl"]["edges"])[
                0
            ].tolist()
        )
    assert score_histograms(scores, owners=owners, names=["m0"])["m1"]["kl"]["assigned"] is None


def test_the_number_of_classes_may_come_from_the_file(tmp_path: Path) -> None:
    table = scores_table(arithmetic_costs(50, 2), num_classes=5)
    file = written(
        Place.at(tmp_path / "a.arrow"), table.replace_schema_metadata({"remix.num_classes": "5"}), 7
    )
    assert file_histograms(file) == file_histograms(
        written(Place.at(tmp_path / "b.arrow"), table, 50), 5
    )
    liar = written(
        Place.at(tmp_path / "c.arrow"),
        table.replace_schema_metadata({"remix.num_classes": '"x"'}),
        7,
    )
    with pytest.raises(DataError, match=r"(?=.*\bnum_classes\b)(?=.*\bx\b)"):
        file_histograms(liar)


@pytest.mark.parametrize("bad", [-np.inf])
def test_an_infinite_score_is_refused_by_its_column(tmp_path: Path, bad: float) -> None:
    costs = arithmetic_costs(50, 2)
    costs[33, 1] = bad
    with pytest.raises(DataError, match=r"(?=.*s\.arrow)(?=.*\bkl_m1\b)"):
        file_histograms(written(Place.at(tmp_path / "s.arrow"), scores_table(costs), 10))


def test_a_column_of_another_type_is_refused(tmp_path: Path) -> None:
    table = scores_table(arithmetic_costs(50, 2))
    index = table.column_names.index("kl_m1")
    with pytest.raises(DataError, match=r"(?=.*s\.arrow)(?=.*\bkl_m1\b)(?=.*\bint64\b)"):
        file_histograms(
            written(
                Place.at(tmp_path / "s.arrow"),
                table.set_column(index, "kl_m1", pa.array(range(50))),
                10,
            )
        )


@pytest.mark.parametrize("num_bins", [0, 1001])
def test_the_number_of_bins_is_bounded(num_bins: int) -> None:
    with pytest.raises(ConfigError, match=rf"(?=.*\bnum_bins\b)(?=.*(?<!\w){num_bins}\b)"):
        score_histograms(Scores(scores_table(arithmetic_costs(5, 2))), num_bins=num_bins)


def test_a_file_of_many_rows_needs_the_memory_of_a_batch(tmp_path: Path) -> None:
    num, part, place = 1_000_000, 2**16, Place.at(tmp_path / "s.arrow")
    schema = pa.schema([("row", pa.int64()), ("kl_a", pa.float32()), ("kl_b", pa.float32())])
    with place.create() as file, pa.ipc.new_file(file, schema) as writer:
        for start in range(0, num, part):
            rows = np.arange(start, min(start + part, num))
            writer.write_batch(
                pa.record_batch(
                    [rows, (rows % 97).astype(np.float32), (rows % 89).astype(np.float32)],
                    schema=schema,
                )
            )
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    tracemalloc.start()
    try:
        found = file_histograms(BatchFile(place), 8)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(found["a"]["kl"]["counts"]) == num
    assert found["a"]["kl"]["mean"] == (np.arange(num) % 97).mean()
    assert peak < 64 * part and pool.bytes_allocated() - before < 4 * 4 * part
