"""Indexes: look-up of the rows of an id and of the step of a row, across record batches."""

import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError, MismatchError, StoreError
from pipeline.features import id_index
from pipeline.features.id_index import IDS, IDS_SCHEMA, find_rows, hash_ids, write_ids
from pipeline.plans import step_index
from pipeline.plans.config import PlanConfig
from pipeline.plans.plan import BatchPlan
from pipeline.plans.planner import build, joint_plan_builder, write_plan
from pipeline.plans.step_index import STEPS_SCHEMA, step_of, write_step_index
from pipeline.storage.arrow_files import write_table
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.metadata import encode_metadata
from pipeline.storage.store_path import StorePath
from tests.support.refusals import refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("index")


def ids_index(path: StorePath, *hashes: np.ndarray, index_rows: int = 5) -> BatchFile:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_index, "INDEX_ROWS", index_rows)
        patch.setattr(id_index, "SORTED_ROWS", 3)  # sorted in several files
        with id_index.IdSorter(sum(map(len, hashes))) as sorter:
            start = 0
            for each in hashes:
                sorter.add(each, np.arange(start, start + len(each)))
                start += len(each)
            write_ids(path, sorter.blocks())
    return BatchFile(path, IDS_SCHEMA)


def steps_index(path: StorePath, plan: BatchPlan, num_rows: int, index_rows: int = 5) -> BatchFile:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_index, "INDEX_ROWS", index_rows)
        write_step_index(path, plan, num_rows)
    return BatchFile(path, STEPS_SCHEMA)


# few distinct ids, so that equal hashes fill entire record batches and cross their boundaries
@settings(deadline=None)
@given(
    ids=st.lists(st.one_of(st.text(max_size=3), st.sampled_from(["a", "b", "日本", "\0", "🎬"]))),
    cut=st.integers(0, 10),
    index_rows=st.integers(1, 5),
)
def test_id_index_returns_exactly_the_rows_of_an_id(
    folder: Path, ids: list[str], cut: int, index_rows: int
) -> None:
    index = ids_index(
        StorePath.at(folder / IDS), hash_ids(ids[:cut]), hash_ids(ids[cut:]), index_rows=index_rows
    )
    assert index.num_batches == -(-len(ids) // index_rows)
    for wanted in {*ids, "a", "not there", ""}:
        assert find_rows(index, wanted) == [row for row, each in enumerate(ids) if each == wanted]


def test_ids_with_equal_hashes_are_all_returned(tmp_path: Path) -> None:
    wanted = hash_ids(["wanted"])[0]
    hashes = np.array([5, wanted, 2**64 - 1, wanted, 0, wanted], np.uint64)
    for index_rows in range(1, 8):
        index = ids_index(StorePath.at(tmp_path / IDS), hashes, index_rows=index_rows)
        assert find_rows(index, "wanted") == [1, 3, 5]


@settings(deadline=None)
@given(
    data=st.data(),
    num_rows=st.integers(1, 60),
    batch_size=st.integers(1, 70),
    index_rows=st.integers(1, 61),
)
def test_step_index_returns_the_step_of_every_row(
    folder: Path, data: st.DataObject, num_rows: int, batch_size: int, index_rows: int
) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, num_rows - 1), unique=True, min_size=1)))
    plan = build(joint_plan_builder(rows, batch_size, 0, 0))
    cuts = data.draw(st.lists(st.integers(0, len(plan)), max_size=3))
    bounds = pairwise([0, *sorted(cuts), len(plan)])
    chunked = BatchPlan(pa.concat_tables([plan.table.slice(a, b - a) for a, b in bounds]))
    index = steps_index(StorePath.at(folder / "steps.arrow"), chunked, num_rows, index_rows)
    steps = {row: step.step for step in plan.steps() for row in step.rows.tolist()}
    assert len(steps) == len(rows)
    for row in range(-2, num_rows + 100):
        assert step_of(index, row) == steps.get(row)
    assert index.metadata["parents"] == {"plan": plan.fingerprint}


def test_indexes_of_features_without_rows(tmp_path: Path) -> None:
    assert find_rows(ids_index(StorePath.at(tmp_path / IDS)), "a") == []
    plan = BatchPlan(build(joint_plan_builder(np.arange(4), 2, 0, 0)).table.slice(0, 0))
    assert step_of(steps_index(StorePath.at(tmp_path / "s.arrow"), plan, 0), 0) is None


@pytest.mark.parametrize("row", [-1, 9])
def test_plan_of_other_features_is_refused_without_leaving_files(tmp_path: Path, row: int) -> None:
    table = build(joint_plan_builder(np.arange(4), 2, 0, 0)).table
    plan = BatchPlan(table.set_column(2, "rows", pa.array([[0, 1], [2, row]])))
    with refused(MismatchError, row, 9):
        write_step_index(StorePath.at(tmp_path / "s.arrow"), plan, 9)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    plan, path = (
        build(joint_plan_builder(np.arange(4), 2, 0, 0)),
        StorePath.at(tmp_path / "file" / "s.arrow"),
    )
    with refused(StoreError, file=path):
        write_step_index(path, plan, 4)


@pytest.mark.parametrize("change", [{"batch_rows": 0}, {"batch_rows": "5"}, {"num_rows": 12}, None])
def test_inconsistent_step_index_is_refused(
    tmp_path: Path, change: dict[str, object] | None
) -> None:
    path = StorePath.at(tmp_path / "s.arrow")
    index = steps_index(path, build(joint_plan_builder(np.arange(11), 2, 0, 0)), 11)
    metadata = {} if change is None else encode_metadata(index.metadata | change)
    table = pa.Table.from_batches(index.batches()).replace_schema_metadata(metadata)
    with path.create() as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    with refused(DataError, file=path):
        step_of(BatchFile(path, STEPS_SCHEMA), 10)


def test_inconsistent_id_index_is_refused(tmp_path: Path) -> None:
    path = StorePath.at(tmp_path / IDS)
    with path.create() as file, pa.ipc.new_file(file, IDS_SCHEMA) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist([], IDS_SCHEMA))
    with refused(DataError, 0, file=path):
        find_rows(BatchFile(path, IDS_SCHEMA), "a")
    write_table(path, pa.table({"hash": pa.array([None, 1], pa.uint64()), "row": [0, 1]}))
    with refused(DataError, "hash", file=path):
        find_rows(BatchFile(path, IDS_SCHEMA), "a")


def test_memory_of_a_step_index_is_that_of_a_record_batch(tmp_path: Path) -> None:
    peaks, path, local = [], StorePath.at(tmp_path / "plan.arrow"), PlanConfig(locality=10_000)
    for num in (2_000_000, 6_000_000):
        write_plan(path, joint_plan_builder(np.arange(num), 64, 0, 0, config=local))
        plan = BatchPlan.open(path)
        pool = pa.default_memory_pool()
        before = pool.bytes_allocated()
        tracemalloc.start()
        try:
            write_step_index(StorePath.at(tmp_path / "s.arrow"), plan, num)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert pool.bytes_allocated() - before < 1e6
    assert peaks[1] < 1.1 * peaks[0] < 4 * 6_000_000
    assert (
        step_of(BatchFile(StorePath.at(tmp_path / "s.arrow"), STEPS_SCHEMA), 5_999_999) is not None
    )
