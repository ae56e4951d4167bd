"""Damaged or invalid manifests, samples and parts raise a Remix error with file, column and row."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import DataError
from pipeline.features.feature_set import FeatureSet
from pipeline.features.part_writer import part_name
from pipeline.storage.arrow_files import read_table, write_table
from pipeline.storage.store_path import MANIFEST, StorePath
from tests.support.hostile_files import Edit, with_value
from tests.support.refusals import refused, unnamed
from tests.support.stores import Command, run_config
from trainer.launch import launch


def entry(*path: str | int, new: object) -> Callable[[dict[str, Any]], None]:
    def change(manifest: Any) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = new

    return change


BAD_MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no modalities": (lambda manifest: manifest.pop("modalities"), "modalities"),
    "a modality outside of the folder": (
        lambda m: m["modalities"].update({"../x": m["modalities"]["sound"]}),
        "'../x'",
    ),
    "a modality called all": (
        lambda m: m["modalities"].update({"all": m["modalities"]["sound"]}),
        "all",
    ),
    "a shape past any memory": (
        entry("modalities", "sound", "shape", new=[10**6, 10**6]),
        "modalities.sound 2000000000000",
    ),
    "another element type": (
        entry("modalities", "sound", "dtype", new="object"),
        "modalities.sound.dtype object",
    ),
    "a class twice": (entry("classes", new=["a", "a", "b"]), ""),
    "a row too many": (entry("num_rows", new=151), "num_rows 150 151"),
    "an index twice": (entry("parts", 0, "index", new=1), ""),
    "splits that do not add up": (entry("splits", "test", new=10**6), "num_rows 150"),
    "another split": (lambda manifest: manifest["splits"].update(exam=0), "exam"),
    "a file of nothing": (entry("parts", 1, "files", "touch", "bytes", new=3), "1 touch 50 3"),
    "a hash that is none": (
        entry("parts", 1, "files", "touch", "sha256", new="../x"),
        "parts.1.files.touch.sha256 '../x'",
    ),
}


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_invalid_manifests(features: Path, command: Command, name: str) -> None:
    change, words = BAD_MANIFESTS[name]
    path = features / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with refused(DataError, *words.split(), file=path):
        FeatureSet.open(StorePath.at(features))
    code, _, said = command("inspect", features)
    assert code == 2 and not unnamed(said, *words.split(), file=path)


def sample(name: str, new: object) -> Edit:
    return lambda table: with_value(table, name, 77, new)


BAD_SAMPLES: dict[str, tuple[Edit, str]] = {
    "row": (sample("row", 76), "row 76 77"),
    "label": (sample("label", 3), "label 3 77"),
    "split": (sample("split", "exam"), "split exam 77 train validation test"),
    "place": (sample("index_in_shard", -1), "index_in_shard -1 77"),
    "null": (sample("has_touch", None), "has_touch 77"),
    "counts": (sample("has_sound", False), "has_sound 149 150"),
    "content": (sample("sample_id", "other"), "fingerprint"),
    "cut": (lambda table: table.slice(1), "149 150"),
    "type": (
        lambda table: table.set_column(2, "label", table["label"].cast(pa.int64())),
        "label int64 int32",
    ),
}


@pytest.mark.parametrize("name", BAD_SAMPLES)
def test_invalid_samples(features: Path, command: Command, name: str) -> None:
    edit, words = BAD_SAMPLES[name]
    path = StorePath.at(features / "samples.arrow")
    write_table(path, edit(read_table(path).combine_chunks()))
    for _ in range(2):  # refused again, so the failure was not cached as a success
        with refused(DataError, *words.split(), file=path):
            _ = FeatureSet.open(StorePath.at(features)).samples
    code, _, said = command("inspect", features)
    assert code == 2 and not unnamed(said, *words.split(), file=path)
    with refused(DataError, *words.split(), file=path):
        launch(run_config(features.parent.parent, model={"encoders": {}}))
    assert not (features.parent.parent / "runs").exists()


@pytest.mark.parametrize("name", ["label", "split", "cut", "type"])
def test_the_columns_of_training_are_checked_by_themselves(features: Path, name: str) -> None:
    edit, words = BAD_SAMPLES[name]
    path = StorePath.at(features / "samples.arrow")
    write_table(path, edit(read_table(path).combine_chunks()))
    for column in ("labels", "has"):
        with refused(DataError, *words.split()[-1:], file=path):
            getattr(FeatureSet.open(StorePath.at(features)), column)


def test_the_columns_of_training_are_read_without_the_ids(features: Path) -> None:
    intact = FeatureSet.open(StorePath.at(features))
    rows, labels, has = intact.rows_of("train"), intact.labels, intact.has
    path = StorePath.at(features / "samples.arrow")
    write_table(path, BAD_SAMPLES["content"][0](read_table(path).combine_chunks()))
    again = FeatureSet.open(StorePath.at(features))
    assert again.rows_of("train").tolist() == rows.tolist()
    assert again.labels.tolist() == labels.tolist() and again.has.tolist() == has.tolist()
    assert again.ids_of(np.array([78, 77, 3, 78])).to_pylist() == [
        "s0078",
        "other",
        "s0003",
        "s0078",
    ]


def part_of(
    shape: tuple[int, int] = (6, 8),
    dtype: str = "float32",
    num: int = 50,
    *,
    batch_rows: int = 64,
    null: bool = False,
) -> bytes:
    element, size = pa.from_numpy_dtype(np.dtype(dtype)), shape[0] * shape[1]
    rows = pa.array(
        [None if null else [np.zeros((), dtype)[()]] * size] * num, pa.list_(element, size)
    )
    kind = pa.fixed_shape_tensor(element, list(shape))
    column = pa.ExtensionArray.from_storage(kind, rows)
    sink = pa.BufferOutputStream()
    table = pa.table({"feature": column})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return bytes(sink.getvalue())


BAD_PARTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda data: data[:-100], ""),
    "other shape": (lambda data: part_of((8, 6)), "feature 8,6 6,8"),
    "other type": (lambda data: part_of(dtype="float16"), "feature halffloat"),
    "a name that is no text": (lambda data: data.replace(b"feature", b"featur\xb8"), ""),
    "fewer rows": (lambda data: part_of(num=49), "0 49 50"),
    "other batches": (lambda data: part_of(batch_rows=10), "5"),
    "nulls": (lambda data: part_of(null=True), "feature 0"),
}


@pytest.mark.parametrize("name", BAD_PARTS)
@pytest.mark.parametrize("local", [True, False])
def test_invalid_parts(features: Path, name: str, local: bool) -> None:
    """The manifest has the actual size of the file, except for the one that is cut."""
    make, words = BAD_PARTS[name]
    path = features / "touch" / part_name(1)
    data = make(path.read_bytes())
    path.write_bytes(data)
    manifest = json.loads((features / MANIFEST).read_text())
    if name != "cut":
        manifest["parts"][1]["files"]["touch"]["bytes"] = len(data)
    remote = StorePath(pa.fs.SubTreeFileSystem(str(features), pa.fs.LocalFileSystem()), "")
    opened = FeatureSet(StorePath.at(features) if local else remote, manifest)
    assert opened.read("touch", np.arange(50)).any()
    with refused(DataError, *words.split(), file=f"touch/{part_name(1)}"):
        opened.read("touch", np.array([60]))
