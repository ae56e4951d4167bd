"""Feature sets: rows are read back as written; fingerprints do not depend on chunks."""

import gc
import pickle
import re
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import parse
from pipeline.decode.config import DecodeConfig
from pipeline.errors import ConfigError, DataError, MissingError
from pipeline.features import part_layout, part_reader
from pipeline.features.feature_set import FeatureSet
from pipeline.features.part_writer import PartWriter, part_name
from pipeline.storage.arrow_files import TABLE_ROWS, read_table, write_table
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.metadata import fingerprint, read_metadata, with_metadata
from pipeline.storage.node_cache import NodeCache
from pipeline.storage.store_path import StorePath
from tests.support.cached_features import remote
from tests.support.refusals import refused
from tests.support.stores import make_features


@pytest.mark.parametrize("num_rows", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_rows_are_read_as_written(tmp_path: Path, num_rows: int, dtype: str) -> None:
    values = np.random.default_rng(0).integers(0, 255, (num_rows, 2, 3, 4)).astype(dtype)
    path = StorePath.at(tmp_path)
    cut = num_rows // 3
    for part, rows in enumerate([values[:cut], values[cut:]]):
        with (path / "m" / part_name(part)).create() as file:
            writer = PartWriter(file, (2, 3, 4), dtype)
            for row in rows:
                writer.append(row)
            writer.close()
    manifest = {
        "modalities": {"m": {"shape": [2, 3, 4], "dtype": dtype}},
        "classes": [],
        "fingerprint": "",
        "num_rows": num_rows,
        "batch_rows": 64,
    }
    features = FeatureSet(
        path,
        {**manifest, "parts": [{"index": 0, "rows": cut}, {"index": 1, "rows": num_rows - cut}]},
    )
    order = np.random.default_rng(1).integers(0, num_rows, 50)
    np.testing.assert_array_equal(features.read("m", order), values[order])


def test_a_missing_modality_is_a_row_of_zeros(tmp_path: Path) -> None:
    features = make_features(tmp_path, missing=0.5)
    k = features.modalities.index("touch")
    lacking = np.flatnonzero(~features.has[:, k])
    assert len(lacking)
    assert not features.read("touch", lacking).any()
    assert features.read("touch", np.flatnonzero(features.has[:, k])).any(axis=(1, 2)).all()


def test_local_parts_are_mapped_not_copied(tmp_path: Path) -> None:
    features = make_features(tmp_path)
    before = pa.total_allocated_bytes()
    features.read("sight", np.arange(features.num_rows))
    assert pa.total_allocated_bytes() - before < 10_000


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("kind", ["local", "remote", "cached"])
def test_few_record_batches_of_compressed_parts_are_kept_in_memory(
    tmp_path: Path, kind: str, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = make_features(tmp_path / "made", num_rows=640, num_parts=1)
    rows = np.arange(640)
    expected = features.read("sight", rows).copy()
    part = features.path / "sight" / part_name(0)
    table = read_table(part)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with part.create() as file, pa.ipc.new_file(file, table.schema, options=options) as writer:
        writer.write_table(table)
    features.manifest["parts"][0]["files"]["sight"] = {
        "sha256": file.hexdigest(),
        "bytes": file.num_bytes,
    }
    monkeypatch.setattr(part_reader, "MEMORY_BATCHES", 2)
    cache = NodeCache(tmp_path / "cache", 2**30) if kind == "cached" else None
    if kind != "local":
        features = remote(features, cache)
    again = FeatureSet(features.path, features.manifest, cache)
    del table
    before = pa.total_allocated_bytes()
    np.testing.assert_array_equal(again.read("sight", rows), expected)
    assert pa.total_allocated_bytes() - before <= 2 * expected[:64].nbytes


@pytest.mark.parametrize("at_once", [2**63, 1])
def test_rows_of_many_parts_are_gathered_in_the_given_order(
    tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second limit makes NumPy copy a row in several pieces."""
    monkeypatch.setattr(part_layout, "MAX_BYTES", at_once)
    features = make_features(tmp_path, num_rows=700, num_parts=5)
    rows = np.random.default_rng(0).integers(0, 700, 300)
    for name in features.modalities:
        parts = [features.path / name / part_name(part) for part in range(5)]
        table = pa.concat_tables([read_table(path) for path in parts])
        stored = table["feature"].combine_chunks().to_numpy_ndarray()
        np.testing.assert_array_equal(features.read(name, rows), stored[rows])
        out = np.empty_like(stored[rows])
        assert features.read(name, rows, out) is out
        np.testing.assert_array_equal(out, stored[rows])


@pytest.mark.parametrize("row", [-1, 700])
def test_a_row_that_does_not_exist_is_an_error(tmp_path: Path, row: int) -> None:
    features = make_features(tmp_path, num_rows=700, num_parts=5)
    with pytest.raises(IndexError):
        features.read("sight", np.array([0, row]))


def rewrite(features: FeatureSet, part: int, sizes: list[int]) -> None:
    """Write a part of `sight` again, each record batch with custom metadata of another size."""
    path = features.path / "sight" / part_name(part)
    table = read_table(path)
    with path.create() as file, pa.ipc.new_file(file, table.schema) as writer:
        for batch, size in zip(table.to_batches(), sizes, strict=True):
            writer.write_batch(batch, custom_metadata={"x": "y" * size} if size else None)
    entry = {"sha256": file.hexdigest(), "bytes": file.num_bytes}
    features.manifest["parts"][part]["files"]["sight"] = entry


@pytest.mark.parametrize("sizes", [[0, 100, 0], [100, 0, 0], [0, 0, 100], [9, 9, 9]])
@pytest.mark.parametrize("kind", ["local", "cached"])
def test_record_batches_may_have_other_distances(
    tmp_path: Path, sizes: list[int], kind: str
) -> None:
    features = make_features(tmp_path / "made", num_rows=320, num_parts=2)
    expected = features.read("sight", np.arange(320))
    rewrite(features, 1, sizes)
    again = FeatureSet(features.path, features.manifest)
    if kind == "cached":
        again = remote(features, NodeCache(tmp_path / "cache", 2**30))
    rows = np.random.default_rng(0).permutation(320)
    np.testing.assert_array_equal(again.read("sight", rows), expected[rows])


@pytest.mark.parametrize("row", [0, 64, 128, 199])
def test_a_damaged_record_batch_is_an_error_that_names_the_file(tmp_path: Path, row: int) -> None:
    features = make_features(tmp_path, num_rows=200, num_parts=1)
    path = tmp_path / "touch" / part_name(0)
    data = bytearray(path.read_bytes())
    # the length of a message follows the continuation marker
    heads = [m.start() for m in re.finditer(rb"\xff{4}..\0\0", data, re.DOTALL)][1:5]
    data[heads[row // 64] + 8 : heads[row // 64] + 40] = bytes(32)
    path.write_bytes(data)
    with refused(DataError, file=path):
        features.read("touch", np.array([row]))


def test_old_parts_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_reader, "MAPPED_PARTS", 3)
    made = make_features(tmp_path, num_rows=640, num_parts=10)
    expected = np.concatenate([made.read("sight", np.array([row])) for row in range(0, 640, 7)])
    features = FeatureSet(made.path, made.manifest)
    np.testing.assert_array_equal(features.read("sight", np.arange(0, 640, 7)), expected)
    del made
    gc.collect()
    assert Path("/proc/self/maps").read_text().count(str(tmp_path)) <= 3


def test_nothing_is_kept_per_record_batch(tmp_path: Path) -> None:
    features = make_features(tmp_path, {"m": ((1,), "uint8")}, num_rows=64_000, num_parts=1)
    features.read("m", np.array([0]))
    tracemalloc.start()
    try:
        for row in range(0, 64_000, 64):
            features.read("m", np.array([row]))
        assert tracemalloc.get_traced_memory()[0] < 20_000
    finally:
        tracemalloc.stop()


def test_a_feature_set_can_be_pickled(tmp_path: Path) -> None:
    features = make_features(tmp_path)
    features.read("sound", np.array([3]))
    again = pickle.loads(pickle.dumps(features))
    np.testing.assert_array_equal(
        again.read("sound", np.array([3])), features.read("sound", np.array([3]))
    )


@pytest.mark.parametrize("name", ["all", "fused", "assembled", "assembled_sound"])
def test_a_reserved_name_is_no_modality(tmp_path: Path, name: str) -> None:
    tensor = {"kind": "tensor", "member": ["npy"], "shape": [6]}
    assert parse(DecodeConfig, {"modalities": {f"a{name}": tensor}}, "test")
    with pytest.raises(ConfigError, match=rf"\b{name}\b"):
        parse(DecodeConfig, {"modalities": {name: tensor}}, "test")
    with pytest.raises(DataError, match=rf"\b{name}\b"):
        make_features(tmp_path / name, {name: ((6,), "float32")}, num_rows=9)


def test_a_feature_set_without_a_manifest_is_missing(tmp_path: Path) -> None:
    make_features(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(MissingError, match=re.escape(str(tmp_path))):
        FeatureSet.open(StorePath.at(tmp_path))


TABLE = pa.table(
    {
        "a": pa.array([1, 2, 3, 4], pa.int64()),
        "s": ["x", "", "yz", "é"],
        "l": pa.array([[1], [], [2, 3], [4]], pa.list_(pa.int64())),
        "b": [True, False, True, True],
    }
)


@given(cuts=st.lists(st.integers(0, 4), max_size=4))
def test_the_fingerprint_does_not_depend_on_chunks(cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), 4]
    chunked = pa.concat_tables([TABLE.slice(a, b - a) for a, b in pairwise(bounds)])
    assert fingerprint(chunked, {"seed": 1}) == fingerprint(TABLE, {"seed": 1})


@pytest.mark.parametrize(
    "other",
    [
        TABLE.set_column(0, "a", pa.array([1, 2, 3, 5], pa.int64())),
        TABLE.set_column(1, "s", pa.array(["x", "y", "z", "é"])),
        TABLE.set_column(2, "l", pa.array([[1], [2], [3], [4]], pa.list_(pa.int64()))),
        TABLE.rename_columns(["A", "s", "l", "b"]),
        TABLE.slice(0, 3),
        TABLE.set_column(0, "a", pa.array([1, 2, 3, 4], pa.int32())),
    ],
)
def test_the_fingerprint_changes_with_the_content(other: pa.Table) -> None:
    assert fingerprint(other, {}) != fingerprint(TABLE, {})
    assert fingerprint(TABLE, {"seed": 1}) != fingerprint(TABLE, {"seed": 2})


def test_metadata_is_stored_in_the_file(tmp_path: Path) -> None:
    table = with_metadata(TABLE, {"epoch": 3, "parents": {"features": "abc"}})
    write_table(StorePath.at(tmp_path / "t.arrow"), table)
    metadata = read_metadata(read_table(StorePath.at(tmp_path / "t.arrow")).schema)
    assert metadata == {
        "epoch": 3,
        "parents": {"features": "abc"},
        "fingerprint": fingerprint(TABLE, {"epoch": 3, "parents": {"features": "abc"}}),
    }


def test_a_table_is_written_in_batches_of_bounded_size(tmp_path: Path) -> None:
    num, path = 2 * TABLE_ROWS + 5, StorePath.at(tmp_path / "t.arrow")
    table = pa.concat_tables(
        [
            pa.table({"i": np.arange(num), "l": pa.array([[i] for i in range(num)])}),
            pa.table({"i": [num], "l": [[1, 2]]}),
        ]
    )
    write_table(path, table)
    file = BatchFile(path, table.schema)
    assert [batch.num_rows for batch in file.batches()] == [TABLE_ROWS, TABLE_ROWS, 5, 1]
    assert pa.Table.from_batches(file.batches()).equals(table)
    assert read_table(path).equals(table)
