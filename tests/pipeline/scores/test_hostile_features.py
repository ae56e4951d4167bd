"""Manifests, samples and parts of features that lie or are damaged: an error of ours that names file, column and row."""

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
from pipeline.storage.store_path import MANIFEST, Place
from tests.support.hostile_files import Edit, names
from tests.support.stores import run_config
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
def test_manifests_that_lie(
    features: Path, command: Callable[..., tuple[int, str]], name: str
) -> None:
    change, words = BAD_MANIFESTS[name]
    manifest = json.loads((features / MANIFEST).read_text())
    change(manifest)
    (features / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError) as error:
        FeatureSet.open(Place.at(features))
    assert str(features / MANIFEST) in str(error.value) and names(
        str(error.value), words, features / MANIFEST
    )
    code, said = command("inspect", features)
    assert code == 2 and names(said, words, features / MANIFEST)


def sample(name: str, row: int, new: object) -> Edit:
    def change(table: pa.Table) -> pa.Table:
        values = table[name].to_pylist()
        values[row] = new
        return table.set_column(
            table.column_names.index(name),
            table.schema.field(name),
            pa.array(values, table.schema.field(name).type),
        )

    return change


BAD_SAMPLES: dict[str, tuple[Edit, str]] = {
    "row": (sample("row", 77, 76), "row 76 77"),
    "label": (sample("label", 77, 3), "label 3 77"),
    "split": (sample("split", 77, "exam"), "split exam 77 train validation test"),
    "place": (sample("index_in_shard", 77, -1), "index_in_shard -1 77"),
    **{
        f"null {name}": (sample(name, 77, None), f"{name} 77")
        for name in ("sample_id", "has_touch")
    },
    "counts": (sample("has_sound", 77, False), "has_sound 149 150"),
    "content": (sample("sample_id", 77, "other"), "fingerprint"),
    "cut": (lambda table: table.slice(1), "149 150"),
    "type": (
        lambda table: table.set_column(2, "label", table["label"].cast(pa.int64())),
        "label int64 int32",
    ),
}


@pytest.mark.parametrize("name", BAD_SAMPLES)
def test_samples_that_lie(
    features: Path, command: Callable[..., tuple[int, str]], name: str
) -> None:
    edit, words = BAD_SAMPLES[name]
    place = Place.at(features / "samples.arrow")
    write_table(place, edit(read_table(place).combine_chunks()))
    for _ in range(2):  # what was refused is not trusted the next time
        with pytest.raises(DataError) as error:
            _ = FeatureSet.open(Place.at(features)).samples
        assert str(place) in str(error.value) and names(str(error.value), words, place)
    code, said = command("inspect", features)
    assert code == 2 and names(said, words, place)
    with pytest.raises(DataError) as error:
        launch(run_config(features.parent.parent, model={"encoders": {}}))
    assert names(str(error.value), words, place)
    assert not (features.parent.parent / "runs").exists()


def part_of(
    shape: tuple[int, ...], dtype: str, num: int, *, batch_rows: int = 64, name: str = "feature"
) -> bytes:
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(np.dtype(dtype)), list(shape))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, pa.schema([(name, kind)])) as writer:
        for start in range(0, num, batch_rows):
            values = pa.array(np.zeros(min(batch_rows, num - start) * int(np.prod(shape)), dtype))
            column = pa.ExtensionArray.from_storage(
                kind, pa.FixedSizeListArray.from_arrays(values, int(np.prod(shape)))
            )
            writer.write_batch(pa.record_batch({name: column}))
    return bytes(sink.getvalue())


def null_part(num: int) -> bytes:
    kind = pa.fixed_shape_tensor(pa.float32(), [6, 8])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, pa.schema([("feature", kind)])) as writer:
        storage = pa.array([None] * num, pa.list_(pa.float32(), 48))
        writer.write_batch(
            pa.record_batch({"feature": pa.ExtensionArray.from_storage(kind, storage)})
        )
    return bytes(sink.getvalue())


BAD_PARTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda data: data[:-100], ""),
    "other shape": (lambda data: part_of((8, 6), "float32", 50), "feature 8,6 6,8"),
    "other type": (lambda data: part_of((6, 8), "float16", 50), "feature halffloat"),
    "a name that is no text": (lambda data: data.replace(b"feature", b"featur\xb8"), ""),
    "fewer rows": (lambda data: part_of((6, 8), "float32", 49), "0 49 50"),
    "other batches": (lambda data: part_of((6, 8), "float32", 50, batch_rows=10), "5"),
    "nulls": (lambda data: null_part(50), "feature 0"),
}


@pytest.mark.parametrize("name", BAD_PARTS)
@pytest.mark.parametrize("local", [True, False])
def test_parts_that_lie(features: Path, name: str, local: bool) -> None:
    """The manifest has the number of bytes that lie there, but for files that are cut."""
    make, words = BAD_PARTS[name]
    path = features / "touch" / part_name(1)
    data = make(path.read_bytes())
    path.write_bytes(data)
    manifest = json.loads((features / MANIFEST).read_text())
    if name not in ("cut", "empty"):
        manifest["parts"][1]["files"]["touch"]["bytes"] = len(data)
    place = (
        Place.at(features)
        if local
        else Place(pa.fs.SubTreeFileSystem(str(features), pa.fs.LocalFileSystem()), "")
    )
    opened = FeatureSet(place, manifest)
    assert opened.read("touch", np.arange(50)).any()
    with pytest.raises(DataError) as error:
        opened.read("touch", np.array([60]))
    assert f"touch/{part_name(1)}" in str(error.value) and names(str(error.value), words, path)
