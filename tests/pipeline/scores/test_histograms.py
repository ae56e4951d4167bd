"""Histograms of scores: identical from tables and files, with the memory of one record batch."""

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
from pipeline.storage.store_path import StorePath
from tests.support.hostile_files import with_value
from tests.support.plan_tables import arithmetic_costs, scores_table
from tests.support.refusals import refused


def written(path: StorePath, table: pa.Table, batch_rows: int) -> BatchFile:
    with path.create() as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return BatchFile(path)


@pytest.mark.parametrize("batch_rows", [1000, 100_000])
def test_histograms_of_a_file_and_a_table_are_identical(tmp_path: Path, batch_rows: int) -> None:
    table = scores_table(arithmetic_costs(200_000, 3, missing=True, levels=99_991), num_classes=7)
    chunked = pa.concat_tables([table.slice(0, 77_777), table.slice(77_777)])
    expected = score_histograms(Scores(table), 7)
    assert score_histograms(Scores(chunked), 7) == expected
    file = written(StorePath.at(tmp_path / "s.arrow"), table, batch_rows)
    assert file_histograms(file, 7) == expected
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
def test_histograms_equal_those_of_numpy(
    kl: list[float], num_classes: int | None, num_bins: int
) -> None:
    values = np.array([kl, np.zeros(len(kl))], np.float32)
    histograms = score_histograms(Scores(scores_table(values.T)), num_classes, num_bins=num_bins)
    top = max(0.0, np.log2(num_classes or 1), float(np.nanmax(values))) or 1.0
    for name, bits in zip(("m0", "m1"), values, strict=True):
        known = bits[~np.isnan(bits)].astype(np.float64)
        edges = np.linspace(min(0.0, known.min(initial=0.0)), top, num_bins + 1)
        counts = np.histogram(known, edges)[0].tolist()
        mean = pytest.approx(known.mean(), rel=1e-12, abs=1e-30) if len(known) else None
        assert histograms[name]["kl"] == {
            "edges": pytest.approx(edges.tolist(), rel=1e-15),
            "counts": counts,
            "assigned": None,
            "mean": mean,
        }
        assert histograms[name]["num_missing"] == len(kl) - len(known) == len(kl) - sum(counts)
        hard = histograms[name]["difficulty"]
        assert (hard is None) == (num_classes in (None, 1))
        if hard is not None:
            levels = np.linspace(0, 1, num_bins + 1)
            counts = np.histogram(difficulty(known, num_classes or 0), levels)[0].tolist()
            assert hard["counts"] == counts


def test_rows_assigned_to_each_modality_are_counted() -> None:
    scores = Scores(scores_table(arithmetic_costs(150_000, 2, missing=True)))
    number = np.arange(len(scores))
    assignment = np.where(number % 5 == 0, -1, number % 3).astype(np.int8)
    histograms = score_histograms(scores, assignment=assignment, names=["x", "m1", "m0"])
    for name, index in (("m0", 2), ("m1", 1)):
        own, kl = scores.kl(name)[assignment == index].astype(np.float64), histograms[name]["kl"]
        counts = np.histogram(own[~np.isnan(own)], kl["edges"])[0].tolist()
        assert kl["assigned"] == counts
    assert (
        score_histograms(scores, assignment=assignment, names=["m0"])["m1"]["kl"]["assigned"]
        is None
    )


def test_the_number_of_classes_may_come_from_the_file(tmp_path: Path) -> None:
    table, path = scores_table(arithmetic_costs(50, 2)), StorePath.at(tmp_path / "a.arrow")
    expected = file_histograms(written(path, table, 50), 5)
    table = table.replace_schema_metadata({"remix.num_classes": "5"})
    assert file_histograms(written(path, table, 7)) == expected
    liar = written(path, table.replace_schema_metadata({"remix.num_classes": '"x"'}), 7)
    with refused(DataError, "num_classes", "'x'"):
        file_histograms(liar)


def test_column_without_a_histogram_is_named(tmp_path: Path) -> None:
    table, path = scores_table(arithmetic_costs(50, 2)), StorePath.at(tmp_path / "s.arrow")
    with refused(DataError, "kl_m1", file=path):
        file_histograms(written(path, with_value(table, "kl_m1", 33, -np.inf), 10))
    integer_scores = table.set_column(
        table.column_names.index("kl_m1"), "kl_m1", pa.array(range(50))
    )
    with refused(DataError, "kl_m1", "int64", file=path):
        file_histograms(written(path, integer_scores, 10))


@pytest.mark.parametrize("num_bins", [0, 1001])
def test_the_number_of_bins_is_bounded(num_bins: int) -> None:
    with refused(ConfigError, "num_bins", num_bins):
        score_histograms(Scores(scores_table(arithmetic_costs(5, 2))), num_bins=num_bins)


def test_memory_of_a_file_histogram_is_that_of_a_record_batch(tmp_path: Path) -> None:
    num, part, path = 1_000_000, 2**16, StorePath.at(tmp_path / "s.arrow")
    schema = pa.schema([("row", pa.int64()), ("kl_a", pa.float32()), ("kl_b", pa.float32())])
    with path.create() as file, pa.ipc.new_file(file, schema) as writer:
        for start in range(0, num, part):
            rows = np.arange(start, min(start + part, num))
            kl = [(rows % divisor).astype(np.float32) for divisor in (97, 89)]
            writer.write_batch(pa.record_batch([rows, *kl], schema=schema))
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    tracemalloc.start()
    try:
        histograms = file_histograms(BatchFile(path), 8)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(histograms["a"]["kl"]["counts"]) == num
    assert histograms["a"]["kl"]["mean"] == (np.arange(num) % 97).mean()
    assert peak < 64 * part and pool.bytes_allocated() - before < 4 * 4 * part
