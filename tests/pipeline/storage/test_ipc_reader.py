"""BatchFile reads what was written; a damaged or hostile file raises, never kills the process."""

import os
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import DataError, MissingError
from pipeline.plans.config import PlanConfig
from pipeline.plans.planner import joint_plan_builder, write_plan
from pipeline.storage.arrow_files import read_table
from pipeline.storage.ipc_reader import BatchFile, locate
from pipeline.storage.metadata import encode_metadata
from pipeline.storage.schemas import PLAN
from pipeline.storage.store_path import StorePath
from tests.support.refusals import refused

TABLE = pa.table(
    {
        "step": pa.array(range(40), pa.int32()),
        "modality": [f"m{i % 3}é" for i in range(40)],
        "rows": pa.array([list(range(i, i + i % 5)) for i in range(40)], pa.list_(pa.int64())),
    }
).replace_schema_metadata(encode_metadata({"epoch": 3, "fingerprint": "f"}))


def written(path: StorePath, table: pa.Table = TABLE, *, batch_rows: int = 7) -> StorePath:
    with path.create() as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return path


@pytest.mark.parametrize("batch_rows", [1, 7, 40, 1000])
def test_batches_and_columns_equal_the_table(tmp_path: Path, batch_rows: int) -> None:
    file = BatchFile(written(StorePath.at(tmp_path / "t.arrow"), batch_rows=batch_rows), PLAN)
    assert pa.Table.from_batches(file.batches()).equals(TABLE)
    selected = pa.Table.from_batches(file.batches(["rows", "step"]))
    assert selected.equals(TABLE.select(["step", "rows"]))
    assert file.metadata == {"epoch": 3, "fingerprint": "f"}
    assert file.ends() == [*range(batch_rows, 40, batch_rows), 40]
    for row in range(40):
        number, offset = locate(file.ends(), row)
        assert file.batch(number).column("step")[offset].as_py() == row


def test_a_remote_file_is_read_the_same(tmp_path: Path) -> None:
    store = pa.fs.SubTreeFileSystem(str(tmp_path), pa.fs.LocalFileSystem())
    path = written(StorePath(store, "deep/t.arrow"))
    assert path.local is None
    assert pa.Table.from_batches(BatchFile(path, PLAN).batches()).equals(TABLE)


def test_threads_share_a_file(tmp_path: Path) -> None:
    file = BatchFile(written(StorePath.at(tmp_path / "t.arrow"), batch_rows=1), PLAN)
    with ThreadPoolExecutor(8) as pool:
        columns = pool.map(
            lambda i: file.batch(i % 40, ["step"] if i % 2 else None).column("step").to_pylist(),
            range(800),
        )
    assert list(columns) == [[i % 40] for i in range(800)]


def test_an_empty_table_has_no_batch(tmp_path: Path) -> None:
    file = BatchFile(written(StorePath.at(tmp_path / "t.arrow"), TABLE.slice(0, 0)), PLAN)
    assert file.ends() == [] == list(file.batches())


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path: None, MissingError),
        (os.mkfifo, DataError),
        (lambda path: path.mkdir(), DataError),
        (lambda path: path.symlink_to("/dev/zero"), DataError),
        (lambda path: path.write_bytes(b""), DataError),
        (lambda path: path.write_bytes(written(StorePath.at(path)).read_bytes()[:-1]), DataError),
        (lambda path: path.write_bytes(b"ARROW1\0\0" + b"\xff" * 500 + b"ARROW1"), DataError),
    ],
)
def test_a_path_that_is_no_arrow_file_is_named(
    tmp_path: Path, make: Callable[[Path], object], error: type[Exception]
) -> None:
    make(tmp_path / "x.arrow")
    with refused(error, file=tmp_path / "x.arrow"):
        BatchFile(StorePath.at(tmp_path / "x.arrow"), PLAN)


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        (b"remix.x", b"{", "remix.x"),
        (b"remix.\xff", b"{", "remix.\ufffd"),
        (b"remix.deep", b"[" * 100_000, "remix.deep"),
    ],
)
def test_metadata_that_is_not_json_is_named(
    tmp_path: Path, key: bytes, value: bytes, name: str
) -> None:
    path = written(StorePath.at(tmp_path / "x.arrow"), TABLE.replace_schema_metadata({key: value}))
    with refused(DataError, f"'{name}'", file=path):
        BatchFile(path, PLAN)


def test_nulls_in_a_list_are_rejected_and_those_among_floats_are_not(tmp_path: Path) -> None:
    nested = TABLE.set_column(2, "rows", pa.array([[None]] * 40, pa.list_(pa.int64())))
    path = written(StorePath.at(tmp_path / "t.arrow"), nested)
    with refused(DataError, "rows", file=path):
        BatchFile(path, PLAN).batch(0)
    losses = pa.table({"loss": pa.array([0.5, None])})
    file = BatchFile(written(StorePath.at(tmp_path / "l.arrow"), losses), losses.schema)
    assert file.batch(0).column("loss").to_pylist() == [0.5, None]


def test_invalid_offsets_are_an_error(tmp_path: Path) -> None:
    offsets, path = np.array([0, 777, 1000], np.int32), StorePath.at(tmp_path / "t.arrow")
    rows = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.arange(1000)))
    steps = {"step": pa.array([0, 1], pa.int32()), "modality": ["a", "b"], "rows": rows}
    data = written(path, pa.table(steps)).read_bytes()
    assert data.count(offsets.tobytes()) == 1
    for invalid in ([0, 777, 2**30], [0, -5, 1000], [0, 1000, 777], [2**30, 2**30, 2**30]):
        path.write_bytes(data.replace(offsets.tobytes(), np.array(invalid, np.int32).tobytes()))
        file = BatchFile(path, PLAN)
        assert file.batch(0, ["step"]).num_rows == 2
        with refused(DataError, 0, file=path):
            file.batch(0)
        with refused(DataError, file=path):
            read_table(path, trusted=False)


def test_names_that_are_not_utf8_are_an_error(tmp_path: Path) -> None:
    path = written(StorePath.at(tmp_path / "t.arrow"))
    data = path.read_bytes()
    path.write_bytes(data.replace("m0é".encode(), b"m0\xff\xfe"))
    with refused(DataError, 0, file=path):
        BatchFile(path, PLAN).batch(0)
    path.write_bytes(data.replace(b"modality", b"modalit\x80"))
    with refused(DataError, file=path):
        BatchFile(path, PLAN)


def test_a_file_cut_short_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.arrow"
    table = pa.table({"step": pa.array(np.arange(2**20, dtype=np.int32))})
    file = BatchFile(written(StorePath.at(path), table, batch_rows=2**16), table.schema)
    assert file.num_batches == 16 and file.batch(15).num_rows == 2**16
    os.truncate(path, path.stat().st_size // 2)
    assert file.batch(0).column(0).to_pylist() == list(range(2**16))
    with refused(DataError, 15, file=path):
        file.batch(15)


def test_a_file_replaced_while_it_is_open_is_read_to_its_end(tmp_path: Path) -> None:
    file = BatchFile(written(StorePath.at(tmp_path / "t.arrow")), PLAN)
    written(StorePath.at(tmp_path / "t.arrow"), TABLE.slice(0, 1))
    assert pa.Table.from_batches(file.batches()).equals(TABLE)


def test_memory_is_that_of_a_batch_for_a_plan_of_any_length(tmp_path: Path) -> None:
    num, path, pool = 5_000_000, StorePath.at(tmp_path / "plan.arrow"), pa.default_memory_pool()
    write_plan(
        path, joint_plan_builder(np.arange(num), 64, 0, 0, config=PlanConfig(locality=10_000))
    )
    before, total, largest, peak = pool.bytes_allocated(), 0, 0, 0
    tracemalloc.start()
    try:
        for batch in BatchFile(path, PLAN).batches():
            total += batch.column("rows").flatten().nbytes
            largest, peak = max(largest, batch.nbytes), max(peak, pool.bytes_allocated() - before)
        traced = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 8 * num < path.info().size
    assert largest < peak < 3 * largest < path.info().size
    assert traced < 2e6
