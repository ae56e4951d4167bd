"""Files from outside that are damaged or lie: an error of ours that names file, column and row, whoever opens them; never a crash, never another table."""

import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

import remix
from pipeline.config import DecodeConfig, PlanConfig, load
from pipeline.errors import ConfigError, DataError, InputError, MismatchError
from pipeline.features.feature_set import FeatureSet, part_name, read_table, write_table
from pipeline.inspect import inspect
from pipeline.plans.plan import BatchPlan, joint_plan, remix_plan
from pipeline.plans.stats import statistics_at
from pipeline.scores.table import Scores
from pipeline.storage import table_checks as checks
from pipeline.storage.schemas import encode_metadata, fingerprint, read_metadata, with_metadata
from pipeline.storage.store_path import MANIFEST, Place
from tests.support import mutate
from tests.support.stores import SHAPES, make_features, run_config
from trainer.launch import launch
from trainer.models import checkpoint as checkpoints
from trainer.run_directory import Run
from trainer.sampler.plan_batch_sampler import PlanBatchSampler

NAN = float("nan")
SCORES = mutate._scores_table()
PLAN = remix_plan(Scores(SCORES), PlanConfig(), 8, 0, 2).table
STEPS = PLAN.to_pylist()
LACKING = int(np.flatnonzero(np.isnan(SCORES["kl_ears"].to_numpy()))[0])
HAVING = int(np.flatnonzero(~np.isnan(SCORES["kl_ears"].to_numpy()))[3])
Edit = Callable[[pa.Table], pa.Table]


def sealed(table: pa.Table, **changes: Any) -> pa.Table:
    """The table under metadata with these entries changed, None removes one, and a right fingerprint."""
    facts = {
        **read_metadata(SCORES.schema if "kl_ears" in table.column_names else PLAN.schema),
        **changes,
    }
    if any(
        column.null_count or (name == "rows" and pc.list_flatten(column).null_count)
        for name, column in zip(table.column_names, table.columns, strict=True)
    ):
        return table.replace_schema_metadata(
            PLAN.schema.metadata if "rows" in table.column_names else SCORES.schema.metadata
        )  # nulls have no hash
    return with_metadata(
        table,
        {key: value for key, value in facts.items() if value is not None and key != "fingerprint"},
    )


def value(name: str, row: int, new: object) -> Edit:
    """Another value in a column; the table is sealed again."""

    def change(table: pa.Table) -> pa.Table:
        values = table[name].to_pylist()
        values[row] = new
        at = table.column_names.index(name)
        return sealed(
            table.set_column(
                at, table.schema.field(name), pa.array(values, table.schema.field(name).type)
            )
        )

    return change


def facts(**changes: Any) -> Edit:
    return lambda table: sealed(table, **changes)


def lying(edit: Edit) -> Edit:
    """The edit under the fingerprint that was there before."""
    return lambda table: edit(table).replace_schema_metadata(table.schema.metadata)


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs `remix ...` in this process and returns its exit code and errors."""

    def run(*args: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["remix", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            remix.main()
        return int(ended.value.code or 0), " ".join(capsys.readouterr().err.split())

    return run


def names(text: str, words: str, path: object = "") -> bool:
    """Whether a message, but for its path, names each of the words."""
    rest = text.replace(str(path), "") if path else text
    return all(
        re.search(rf"(?<![\w.])(?<!\w-){re.escape(word)}(?!\w)", rest) for word in words.split()
    )


def with_seed(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata({**table.schema.metadata, b"remix.seed": b"9"})


BAD_SCORES: dict[str, tuple[Edit, str]] = {
    "predicted past the classes": (
        value("predicted_ears", HAVING, 5),
        f"{HAVING} predicted_ears 5",
    ),
    "predicted below 0": (value("predicted_ears", HAVING, -1), f"{HAVING} predicted_ears -1"),
    "predicted of what is missing": (
        value("predicted_ears", LACKING, 2),
        f"{LACKING} predicted_ears 2 kl_ears",
    ),
    "predicted null": (value("predicted_eyes", 7, None), "predicted_eyes 1 7"),
    "probability above 1": (value("p_label_ears", HAVING, 1.5), f"{HAVING} p_label_ears 1.5"),
    "probability below 0": (value("p_label_ears", HAVING, -0.5), f"{HAVING} p_label_ears -0.5"),
    "probability infinite": (
        value("p_label_ears", HAVING, float("inf")),
        f"{HAVING} p_label_ears inf",
    ),
    "probability missing": (
        value("p_label_ears", HAVING, NAN),
        f"{HAVING} p_label_ears nan kl_ears",
    ),
    "probability of what is missing": (
        value("p_label_ears", LACKING, 0.5),
        f"{LACKING} p_label_ears 0.5 kl_ears",
    ),
    "ability below 0": (value("kl_ears", HAVING, -0.5), f"{HAVING} kl_ears -0.5 0 2.332"),
    "ability above log2 of the classes": (value("kl_ears", HAVING, 2.5), f"{HAVING} kl_ears 2.5 0"),
    "ability infinite": (value("kl_ears", HAVING, float("inf")), f"{HAVING} kl_ears inf"),
    "label past the classes": (value("label", 7, 5), "7 label 5"),
    "row twice": (value("row", 7, 6), "6"),
    "row below 0": (value("row", 0, -3), "-3"),
    "row past any": (value("row", 149, 2**40), f"{2**40} {2**31}"),
    "id null": (value("sample_id", 70, None), "sample_id 1 70"),
    "column twice": (
        lambda table: sealed(table.append_column("kl_eyes", table["kl_eyes"])),
        "kl_eyes 2",
    ),
    "column of lists": (
        lambda table: table.set_column(2, "label", pa.array([[1]] * 150)),
        "label list",
    ),
    "value changed under its fingerprint": (
        lying(value("kl_ears", HAVING, 0.25)),
        f"fingerprint {read_metadata(SCORES.schema)['fingerprint']}",
    ),
    "metadata changed": (with_seed, f"fingerprint {read_metadata(SCORES.schema)['fingerprint']}"),
    "fingerprint under another name": (
        lambda table: table.replace_schema_metadata(
            {key.replace(b"nt", b"nu"): text for key, text in table.schema.metadata.items()}
        ),
        "remix.fingerprinu remix.fingerprint",
    ),
    "classes as text": (facts(num_classes="5"), "remix.num_classes '5'"),
    "no class": (facts(num_classes=0), "remix.num_classes 0"),
    "a million million classes": (facts(num_classes=10**12), "remix.num_classes 1000000000000"),
    "true classes": (facts(num_classes=True), "remix.num_classes True"),
    "seed as a fraction": (facts(seed=0.5), "remix.seed 0.5"),
    "epoch below 0": (facts(epoch=-1), "remix.epoch -1"),
    "modalities as text": (facts(modalities="ears"), "remix.modalities 'ears'"),
    "a modality twice": (facts(modalities=["ears", "ears"]), "remix.modalities ears"),
    "a modality that is no text": (facts(modalities=["ears", 7]), "remix.modalities.1 7"),
    "parents as a list": (facts(parents=["f"]), "remix.parents"),
    "a parent that is no text": (facts(parents={"features": 7}), "remix.parents.features 7"),
    "other modalities": (facts(modalities=["ears", "nose"]), "kl_nose nose"),
}


@pytest.mark.parametrize("name", BAD_SCORES)
def test_scores_that_lie(
    tmp_path: Path, command: Callable[..., tuple[int, str]], name: str
) -> None:
    edit, words = BAD_SCORES[name]
    path = tmp_path / "scores.arrow"
    write_table(Place.at(path), edit(SCORES))
    with pytest.raises(DataError) as error:
        Scores.open(Place.at(path))
    assert str(path) in str(error.value) and names(str(error.value), words, path)
    code, said = command("plan", path, "--out", tmp_path / "plan.arrow")
    assert code == 2 and names(said, words, path)
    assert not (tmp_path / "plan.arrow").exists()


def test_scores_that_are_as_they_should_be(tmp_path: Path) -> None:
    bare = SCORES.select(
        ["row", "sample_id", "label", "kl_ears", "kl_eyes"]
    ).replace_schema_metadata(None)
    same = SCORES.set_column(1, "sample_id", pa.array(["same"] * 150))
    for table in (SCORES, bare, sealed(same), SCORES.replace_schema_metadata({"by": "hand"})):
        for compression in (None, "zstd", "lz4"):
            with pa.ipc.new_file(
                str(tmp_path / "s.arrow"),
                table.schema,
                options=pa.ipc.IpcWriteOptions(compression=compression),
            ) as writer:
                writer.write_table(table)
            assert Scores.open(Place.at(tmp_path / "s.arrow")).table["kl_ears"].num_chunks
            assert inspect(tmp_path / "s.arrow")["num_rows"] == 150


def steps(change: Callable[[list[dict[str, Any]]], object]) -> Edit:
    """Changes the steps of a plan, which is sealed again."""

    def edit(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        change(rows)
        return sealed(pa.Table.from_pylist(rows, table.schema.remove_metadata()))

    return edit


BAD_PLANS: dict[str, tuple[Edit, str]] = {
    "step numbers": (steps(lambda all_: all_[3].update(step=7)), "7 3"),
    "step null": (steps(lambda all_: all_[3].update(step=None)), "step"),
    "unknown modality": (
        steps(lambda all_: all_[4].update(modality="nose")),
        "modality 4 nose all ears eyes",
    ),
    "modality null": (steps(lambda all_: all_[4].update(modality=None)), "modality"),
    "row twice in a step": (
        steps(lambda all_: all_[2]["rows"].__setitem__(0, STEPS[2]["rows"][1])),
        f"rows {STEPS[2]['rows'][1]} 2",
    ),
    "row twice": (
        steps(lambda all_: all_[9]["rows"].__setitem__(0, STEPS[2]["rows"][1])),
        f"rows {STEPS[2]['rows'][1]} 2 9",
    ),
    "row below 0": (steps(lambda all_: all_[5]["rows"].__setitem__(1, -7)), "rows 5 -7"),
    "row past any": (steps(lambda all_: all_[5]["rows"].__setitem__(1, 2**62)), f"rows 5 {2**62}"),
    "row null": (steps(lambda all_: all_[5]["rows"].__setitem__(1, None)), "rows"),
    "rows null": (steps(lambda all_: all_[5].update(rows=None)), "rows"),
    "no rows": (steps(lambda all_: all_[5].update(rows=[])), "5 0"),
    "a large batch": (
        steps(lambda all_: all_[5]["rows"].extend([900, 901, 902])),
        "5 batch_size 8",
    ),
    "rows swapped under its fingerprint": (
        lying(steps(lambda all_: all_[0]["rows"].reverse())),
        f"fingerprint {read_metadata(PLAN.schema)['fingerprint']}",
    ),
    "batch size as text": (facts(batch_size="8"), "remix.batch_size '8'"),
    "no batch size": (facts(batch_size=0), "remix.batch_size 0"),
    "parents of numbers": (facts(parents={"scores": 1}), "remix.parents.scores 1"),
    "column twice": (lambda table: table.append_column("rows", table["rows"]), "rows 2"),
    "wrong type": (
        lambda table: table.set_column(0, "step", table["step"].cast(pa.int64())),
        "step int64 int32",
    ),
}


@pytest.mark.parametrize("name", BAD_PLANS)
def test_plans_that_lie(tmp_path: Path, command: Callable[..., tuple[int, str]], name: str) -> None:
    edit, words = BAD_PLANS[name]
    path = tmp_path / "plan.arrow"
    write_table(Place.at(path), edit(PLAN))
    opened: list[Callable[[], object]] = [
        lambda: BatchPlan.open(Place.at(path)),
        lambda: PlanBatchSampler(path),
        lambda: statistics_at(Place.at(path)),
    ]
    for work in opened:
        with pytest.raises(DataError) as error:
            work()
        assert str(path) in str(error.value) and names(str(error.value), words, path)
    for args in (["stats", path], ["inspect", path]):
        code, said = command(*args)
        assert code == 2 and names(said, words, path)


def test_rows_are_those_of_the_features_where_they_are_known(tmp_path: Path) -> None:
    place = Place.at(tmp_path / "plan.arrow")
    write_table(place, PLAN)
    assert (
        len(BatchPlan.open(place, num_rows=150))
        == len(PLAN)
        == PlanBatchSampler(place, num_rows=150).num_steps
    )
    step = next(step["step"] for step in STEPS if 149 in step["rows"])
    for work in (
        lambda: BatchPlan.open(place, num_rows=149),
        lambda: PlanBatchSampler(place, num_rows=149),
    ):
        with pytest.raises(
            DataError,
            match=rf"(?s)(?=.*plan\.arrow\b)(?=.*\brows\b)(?=.*(?<![\w-]){step}\b)(?=.*(?<![\w-])149\b)",
        ):
            work()


@pytest.mark.parametrize("window", [1, 7, 64, 1000])
def test_repeated_rows_are_found_window_by_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(checks, "WINDOW_ROWS", window)
    table = joint_plan(np.arange(500) * 2, 16, 0, 0).table
    place = Place.at(tmp_path / "plan.arrow")
    write_table(place, table)
    assert len(BatchPlan.open(place)) == len(table)
    rng = np.random.default_rng(window)
    for _ in range(5):
        all_ = table.to_pylist()
        one, other = rng.choice(len(all_), 2, replace=False)
        row = all_[one]["rows"][0]
        all_[other]["rows"][3] = row
        write_table(
            place,
            with_metadata(
                pa.Table.from_pylist(all_, table.schema.remove_metadata()), {"batch_size": 16}
            ),
        )
        first, second = sorted([one, other])
        with pytest.raises(
            DataError,
            match=rf"(?s)(?=.*(?<![\w-]){row}\b)(?=.*(?<![\w-]){first}\b)(?=.*(?<![\w-]){second}\b)",
        ):
            BatchPlan.open(place)


def bomb(path: Path, table: pa.Table, column: str) -> None:
    """A file of a few KB, one column of which takes a GiB; its batches are small enough, their number is not."""
    num = 2**24
    at = table.column_names.index(column)
    kind = table.schema.field(column).type
    zeros = pa.array(np.zeros(num, np.int64))
    values = (
        pa.ListArray.from_arrays(pa.array([0, num], pa.int32()), zeros)
        if pa.types.is_list(kind)
        else zeros
    )
    rest = [pa.nulls(len(values), field.type) for field in table.schema]
    rest[at] = values
    with pa.ipc.new_file(
        str(path), table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
    ) as writer:
        batch = pa.record_batch(rest, schema=table.schema)
        for _ in range(40):
            writer.write_batch(batch)


@pytest.mark.parametrize(("table", "column"), [(SCORES, "row"), (PLAN, "rows")])
def test_a_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, table: pa.Table, column: str
) -> None:
    bomb(tmp_path / "bomb.arrow", table, column)
    assert (tmp_path / "bomb.arrow").stat().st_size < 2**24
    before = pa.default_memory_pool().max_memory()
    for work in (
        lambda: read_table(Place.at(tmp_path / "bomb.arrow"), trusted=False),
        lambda: inspect(tmp_path / "bomb.arrow"),
    ):
        with pytest.raises(DataError, match=r"bomb\.arrow\b"):
            work()
    assert pa.default_memory_pool().max_memory() < before + 2**26


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    return make_features(
        tmp_path_factory.mktemp("made") / "made",
        {key: SHAPES[key] for key in ("sound", "touch")},
        num_rows=150,
        missing=0.2,
    )


@pytest.fixture
def features(made: FeatureSet, tmp_path: Path) -> Path:
    """A copy of a feature set in a store."""
    shutil.copytree(str(made.place.local), tmp_path / "features" / "made")
    return tmp_path / "features" / "made"


def entry(*path: str | int, new: object) -> Callable[[dict[str, Any]], None]:
    def change(manifest: Any) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = new

    return change


BAD_MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no modalities": (lambda manifest: manifest.pop("modalities"), "modalities"),
    "modalities as a list": (entry("modalities", new=["sound"]), "modalities"),
    "a modality outside of the folder": (
        lambda m: m["modalities"].update({"../x": m["modalities"]["sound"]}),
        "'../x'",
    ),
    "a modality called all": (
        lambda m: m["modalities"].update({"all": m["modalities"]["sound"]}),
        "all",
    ),
    "a shape of text": (
        entry("modalities", "sound", "shape", new="big"),
        "modalities.sound.shape big",
    ),
    "a shape of nothing": (
        entry("modalities", "sound", "shape", 0, new=0),
        "modalities.sound.shape.0 0",
    ),
    "a shape past any memory": (
        entry("modalities", "sound", "shape", new=[10**6, 10**6]),
        "modalities.sound 2000000000000",
    ),
    "another element type": (
        entry("modalities", "sound", "dtype", new="object"),
        "modalities.sound.dtype object",
    ),
    "a mean that is no number": (
        entry("modalities", "sound", "mean", 0, new=None),
        "modalities.sound.mean.0 None",
    ),
    "a class twice": (entry("classes", new=["a", "a", "b"]), ""),
    "a row too many": (entry("num_rows", new=151), "num_rows 150 151"),
    "rows below 0": (entry("parts", 0, "rows", new=-1), "parts.0.rows -1"),
    "an index below 0": (entry("parts", 0, "index", new=-1), "parts.0.index -1"),
    "an index twice": (entry("parts", 0, "index", new=1), ""),
    "splits that do not add up": (entry("splits", "test", new=10**6), "num_rows 150"),
    "another split": (lambda manifest: manifest["splits"].update(exam=0), "exam"),
    "batches of nothing": (entry("batch_rows", new=0), "batch_rows 0"),
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
    "label below 0": (sample("label", 77, -1), "label -1 77"),
    "split": (sample("split", 77, "exam"), "split exam 77 train validation test"),
    "place": (sample("index_in_shard", 77, -1), "index_in_shard -1 77"),
    **{
        f"null {name}": (sample(name, 77, None), f"{name} 77")
        for name in ("sample_id", "shard", "has_touch", "label", "split")
    },
    "counts": (sample("has_sound", 77, False), "has_sound 149 150"),
    "content": (sample("sample_id", 77, "other"), "fingerprint"),
    "cut": (lambda table: table.slice(1), "149 150"),
    "no column": (lambda table: table.drop_columns(["has_sound"]), "has_sound"),
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
    shape: tuple[int, ...],
    dtype: str,
    num: int,
    *,
    batch_rows: int = 64,
    name: str = "feature",
    compression: str | None = None,
) -> bytes:
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(np.dtype(dtype)), list(shape))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(
        sink, pa.schema([(name, kind)]), options=pa.ipc.IpcWriteOptions(compression=compression)
    ) as writer:
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
    "empty": (lambda data: b"", "0"),
    "other shape": (lambda data: part_of((8, 6), "float32", 50), "feature 8,6 6,8"),
    "other type": (lambda data: part_of((6, 8), "float16", 50), "feature halffloat"),
    "other name": (
        lambda data: part_of((6, 8), "float32", 50, name="features"),
        "features feature",
    ),
    "fewer rows": (lambda data: part_of((6, 8), "float32", 49), "0 49 50"),
    "more rows": (lambda data: part_of((6, 8), "float32", 51), "0 51 50"),
    "other batches": (lambda data: part_of((6, 8), "float32", 50, batch_rows=10), "5"),
    "compressed": (lambda data: part_of((6, 8), "float32", 50, compression="zstd"), "0"),
    "nulls": (lambda data: null_part(50), "feature 0"),
    "text": (lambda data: b"hello" * 2500, ""),
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
    if not local and name == "compressed":
        pytest.skip("headers of remote parts are not read for themselves")
    opened = FeatureSet(place, manifest)
    assert opened.read("touch", np.arange(50)).any()
    with pytest.raises(DataError) as error:
        opened.read("touch", np.array([60]))
    assert f"touch/{part_name(1)}" in str(error.value) and names(str(error.value), words, path)


class Harm:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def torch_file(place: Path, change: Callable[[dict[str, Any]], object]) -> None:
    found = torch.load(place, weights_only=True)
    change(found)
    torch.save(found, place)


def packed(place: Path) -> None:
    """The same members, deflated."""
    with zipfile.ZipFile(place) as old:
        members = [(info.filename, old.read(info)) for info in old.infolist()]
    members.append(("archive/data/bomb", bytes(2**26)))
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in members:
            new.writestr(name, data)


def other_weight(place: Path) -> None:
    """One bit of the largest tensor is another."""
    data = bytearray(place.read_bytes())
    with zipfile.ZipFile(place) as members:
        at = max(members.infolist(), key=lambda member: member.file_size).header_offset
    data[at + 400] ^= 1
    place.write_bytes(data)


def harmful(place: Path) -> None:
    torch_file(place, lambda found: found.update(optimizer=Harm(place.parent / "harm")))


BAD_CHECKPOINTS: dict[str, tuple[Callable[[Path], object], type[InputError], str]] = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-300]), DataError, ""),
    "empty": (lambda path: path.write_bytes(b""), DataError, ""),
    "text": (lambda path: path.write_text("hello"), DataError, ""),
    "a byte of the weights": (other_weight, DataError, "ValueError"),
    "harm": (harmful, DataError, "UnpicklingError"),
    "bare pickle": (
        lambda path: path.write_bytes(pickle.dumps(Harm(path.parent / "harm"))),
        DataError,
        "",
    ),
    "packed": (packed, DataError, "ValueError"),
    "a list": (lambda path: torch.save([1], path), DataError, "model architecture cursor"),
    "cursor": (
        lambda path: torch_file(path, lambda found: found["cursor"].update(step="x")),
        DataError,
        "cursor.step x",
    ),
    "seed": (lambda path: torch_file(path, lambda found: found.pop("seed")), DataError, "seed"),
    "config": (
        lambda path: torch_file(
            path, lambda found: found["architecture"]["model"].update(fusion="glue")
        ),
        ConfigError,
        "fusion glue",
    ),
    "facts": (
        lambda path: torch_file(
            path, lambda found: found["architecture"]["facts"]["sound"].update(mean=3)
        ),
        DataError,
        "architecture.facts.sound.mean",
    ),
    "weights missing": (
        lambda path: torch_file(path, lambda found: found["model"].pop(first(found))),
        MismatchError,
        "encoders.modality-sound.0.weight",
    ),
    "weights too many": (
        lambda path: torch_file(path, lambda found: found["model"].update(x=torch.zeros(1))),
        MismatchError,
        "x",
    ),
    "weights of another shape": (
        lambda path: torch_file(
            path, lambda found: found["model"].update({first(found): torch.zeros(3)})
        ),
        MismatchError,
        "encoders.modality-sound.0.weight (3,)",
    ),
    "weights that are none": (
        lambda path: torch_file(path, lambda found: found["model"].update({first(found): 7})),
        DataError,
        "model.encoders.modality-sound.0.weight 7",
    ),
    "sparse weights": (
        lambda path: torch_file(
            path,
            lambda found: found["model"].update(
                {first(found): found["model"][first(found)].to_sparse()}
            ),
        ),
        MismatchError,
        "encoders.modality-sound.0.weight",
    ),
}


def first(found: dict[str, Any]) -> str:
    return next(iter(found["model"]))


@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_checkpoints_that_lie(tmp_path: Path, name: str) -> None:
    harm, error, words = BAD_CHECKPOINTS[name]
    kind = mutate.kind_of("checkpoint", tmp_path)
    assert kind.judge(kind.original)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(kind.original)
    harm(path)
    with pytest.raises(error) as raised:
        checkpoints.model_of(Place.at(path), FeatureSet.open(Place.at(tmp_path / "made")))
    assert str(path) in str(raised.value) and names(str(raised.value), words, path)
    assert not (tmp_path / "harm").exists()


def test_score_refuses_a_checkpoint_before_ray_starts(
    tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    path = tmp_path / "harmful.pt"
    kind = mutate.kind_of("checkpoint", tmp_path)
    path.write_bytes(kind.original)
    harmful(path)
    code, said = command(
        "score", tmp_path / "made", "--checkpoint", path, "--out", tmp_path / "scores.arrow"
    )
    assert code == 2 and str(path) in said
    assert not (tmp_path / "harm").exists() and not (tmp_path / "scores.arrow").exists()


def test_a_run_is_not_resumed_from_an_optimizer_that_does_not_fit(tmp_path: Path) -> None:
    make_features(
        tmp_path / "features" / "made",
        {key: SHAPES[key] for key in ("sound", "touch")},
        num_rows=60,
    )
    changes = {
        "model": {"encoders": {}, "encoder": {"kind": "mlp", "hidden": 4}},
        "train": {"epochs": 2, "warmup_epochs": 2},
    }
    run = launch(run_config(tmp_path, **changes))
    (run.place / "run.json").write_json({**run.facts, "status": "failed"})
    path = Path(run.checkpoint("last").path)
    original = path.read_bytes()

    def shapes(found: dict[str, Any]) -> None:
        found["optimizer"]["state"][0]["exp_avg"] = torch.zeros(5)

    for change in (
        shapes,
        lambda found: found["optimizer"]["param_groups"].clear(),
        lambda found: found.update(optimizer=7),
    ):
        path.write_bytes(original)
        torch_file(path, change)
        with pytest.raises(MismatchError, match=r"(?s)(?=.*last\.pt\b)(?=.*\boptimizer\b)"):
            launch(run_config(tmp_path, **changes), resume=True)
    path.write_bytes(original)
    assert (
        Run.open(launch(run_config(tmp_path, **changes), resume=True).place).facts["status"]
        == "finished"
    )


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n"
    for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
BAD_YAML: dict[str, tuple[bytes, str]] = {
    "laughs": (LAUGHS.encode(), "1000000"),
    "laughs in a field": (f"{LAUGHS}modalities: *i\n".encode(), "1000000"),
    "a circle": (b"modalities: &a {x: *a}\n", ""),
    "deep": (b"modalities: " + b"[" * 50_000, ""),
    "deep mappings": (b"{a: " * 50_000, ""),
    "a long number": (b"max_rejected_share: " + b"9" * 5000, ""),
    "code": (
        b"modalities: !!python/object/apply:os.system ['exit 7']\n",
        "tag:yaml.org,2002:python/object/apply:os.system",
    ),
    "another tag": (b"modalities: !!int ''\n", ""),
    "no UTF-8": (b"modalities: \xff\xfe\n", ""),
    "zeros": (b"modalities: \0\n", ""),
    "a key twice": (b"max_rejected_share: 0.1\nmax_rejected_share: 0.9\n", "max_rejected_share"),
    "a key that is a list": (b"? [a]\n: b\n", ""),
    "NaN": (b"limits: {seconds: .nan}\n", "limits.seconds nan"),
    "infinite": (b"limits: {seconds: .inf}\n", "limits.seconds inf"),
    "10 MB": (b"modalities: '" + b"x" * 10**7 + b"'\n", "1048576"),
    "a long value": (b"modalities: '" + b"x" * 10**6 + b"'\n", "modalities"),
    "many errors": (b"".join(b"f%d: 1\n" % i for i in range(5000)), "f0 f1 f2"),
    "a list": (b"[1, 2]\n", "[1, 2]"),
}


@pytest.mark.parametrize("name", BAD_YAML)
def test_yaml_that_is_no_configuration(
    tmp_path: Path, command: Callable[..., tuple[int, str]], name: str
) -> None:
    data, words = BAD_YAML[name]
    path = tmp_path / "decode.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as error:
        load(DecodeConfig, path)
    assert (
        str(path) in str(error.value)
        and names(str(error.value), words, path)
        and len(str(error.value)) < 10_000
    )
    code, _ = command("train", path)
    assert code == 2


def test_anchors_of_ordinary_size_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "decode.yaml"
    path.write_text(
        "modalities:\n  a: &a {kind: tensor, member: npy, shape: [2]}\n  b: *a\n  c: {<<: *a, shape: [3]}\n"
    )
    specs = load(DecodeConfig, path).modalities
    assert [getattr(spec, "shape", None) for spec in specs.values()] == [(2,), (2,), (3,)]


def test_the_fingerprint_is_what_it_was() -> None:
    """Strings are hashed from their buffers: the hash is that of their bytes one by one, sliced, chunked or empty."""
    words = ["x", "", "yz", "é", "\0", "x" * 300]
    table = pa.table({"s": words})
    column = [
        "s",
        "string",
        hashlib.sha256(np.array([len(w.encode()) for w in words], np.int64)).hexdigest(),
    ]
    column.append(hashlib.sha256("".join(words).encode()).hexdigest())
    expected = hashlib.sha256(
        json.dumps([{}, len(words), [column]], separators=(",", ":")).encode()
    ).hexdigest()
    assert fingerprint(table, {}) == expected
    padded = pa.table({"s": ["junk", *words, "more"]}).slice(1, len(words))
    assert fingerprint(padded, {}) == expected
    assert fingerprint(table.slice(0, 0), {}) == fingerprint(
        pa.table({"s": pa.array([], pa.string())}), {}
    )
    assert encode_metadata({}) == {}


@pytest.mark.parametrize("name", mutate.KINDS)
def test_mutated_files_are_an_error_or_the_same(tmp_path: Path, name: str) -> None:
    """In a process of its own, since what is looked for would end it."""
    script = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.support.mutate",
        name,
        "0",
        "100",
        str(tmp_path),
    ]
    ended = subprocess.run(
        script,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout)
    assert found["num"] == 100 and found["grown_mib"] < 500
