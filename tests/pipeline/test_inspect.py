"""Inspection: what is told of shards, feature sets, scores, plans, runs and stores is what is in them, and all of it is JSON."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from pipeline.errors import DataError, InputError, MissingError
from pipeline.features.manifest import features_fingerprint
from pipeline.inspect import inspect
from pipeline.plans.config import PlanConfig
from pipeline.plans.planner import build, remix_draft
from pipeline.scores.table import Scores
from pipeline.sources.synthetic.generate import generate
from pipeline.storage.arrow_files import read_table, write_table
from pipeline.storage.metadata import fingerprint, with_metadata
from pipeline.storage.schemas import epochs_schema
from pipeline.storage.store_path import MANIFEST, Place
from remix.cli.output import render
from tests.support.plan_tables import arithmetic_costs, scores_table
from tests.support.stores import make_features


def told(path: Path | str) -> dict[str, Any]:
    """What is found, once through JSON."""
    found = inspect(path)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    generate(
        tmp_path / "shards",
        samples=40,
        classes=4,
        shards=3,
        seed=0,
        modalities=("image", "tensor"),
        shares=(0.5, 0.25, 0.25),
    )
    return tmp_path / "shards"


def test_shards(shards: Path) -> None:
    found = told(shards)
    summary = json.loads((shards / "shards.json").read_text())
    assert (found["kind"], found["num_samples"], found["num_rejected"], found["rejected"]) == (
        "shards",
        40,
        0,
        {},
    )
    assert found["splits"] == summary["splits"]
    assert {part["shard"]: part["bytes"] for part in found["shards"]} == summary["shards"]
    assert found["bytes"] == sum(path.stat().st_size for path in shards.glob("*.tar"))
    assert found["members"] == {"image.png": 40, "json": 40, "tensor.npy": 40}
    assert found["modalities"]["image"] == {"kind": "image", "member": ["image.png"], "missing": 0}
    one, some = told(shards / "shard-000001.tar"), told(f"{shards}/shard-00000[12].tar")
    assert one["num_samples"] == found["shards"][1]["samples"]
    assert some["num_samples"] == sum(part["samples"] for part in found["shards"][1:])


def test_damaged_shards_with_missing_modalities(shards: Path) -> None:
    first, second, third = sorted(shards.glob("*.tar"))
    first.write_bytes(first.read_bytes()[:-30_000])
    with tarfile.open(second, "w") as tar:
        for name, data in [
            ("a.json", b'{"label": "x", "split": "train"}'),
            ("b.json", b'{"label": "x"}'),
            ("b.image.png", b"?"),
            ("c.image.png", b"?"),
            ("d.json", b"{"),
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    found = told(shards)
    parts = {part["shard"]: part for part in found["shards"]}
    assert {**parts[second.name], "account": None} == {
        "shard": second.name,
        "bytes": second.stat().st_size,
        "samples": 2,
        "rejected": 2,
        "account": None,
    }
    assert (parts[second.name]["account"]["samples"], parts[second.name]["account"]["members"]) == (
        4,
        5,
    )
    assert parts[third.name]["rejected"] == 0
    assert found["num_samples"] == sum(part["samples"] for part in parts.values()) < 40
    assert (
        found["num_rejected"]
        == sum(part["rejected"] for part in parts.values())
        == sum(found["rejected"].values())
    )
    assert (found["rejected"]["missing_member"], found["rejected"]["undecodable"]) == (1, 1)
    assert found["rejected"]["truncated"] >= 1
    assert (found["modalities"]["image"]["missing"], found["modalities"]["tensor"]["missing"]) == (
        1,
        2,
    )
    assert found["splits"]["none"] == {"samples": 1, "labels": {"x": 1}}


def test_features(tmp_path: Path) -> None:
    features = make_features(tmp_path / "made", missing=0.3)
    found = told(tmp_path / "made")
    assert (found["kind"], found["num_rows"], found["fingerprint"], found["num_parts"]) == (
        "features",
        200,
        features.fingerprint,
        3,
    )
    assert {split: part["samples"] for split, part in found["splits"].items()} == features.manifest[
        "splits"
    ]
    for split, part in found["splits"].items():
        labels = features.labels[features.rows_of(split)]
        assert part["labels"] == {
            name: int((labels == k).sum()) for k, name in enumerate(features.classes)
        }
    assert {name: facts["missing"] for name, facts in found["modalities"].items()} == dict(
        zip(features.modalities, (~features.has).sum(0).tolist(), strict=True)
    )
    assert found["modalities"]["sight"]["shape"] == [2, 3, 16, 16]
    assert found["schema"]["has_sight"] == "bool"
    assert found["bytes"] == sum(
        path.stat().st_size for path in (tmp_path / "made").rglob("*") if path.is_file()
    )


def test_scores_and_plan(tmp_path: Path) -> None:
    costs = arithmetic_costs(100, 3, missing=True)
    table = with_metadata(scores_table(costs), {"epoch": 4, "parents": {"features": "f" * 64}})
    write_table(Place.at(tmp_path / "scores.arrow"), table)
    found = told(tmp_path / "scores.arrow")
    assert (found["kind"], found["num_rows"], found["epoch"], found["parents"]) == (
        "scores",
        100,
        4,
        {"features": "f" * 64},
    )
    assert found["labels"] == {str(label): 20 for label in range(5)}
    assert {name: part["missing"] for name, part in found["abilities"].items()} == {
        f"m{k}": int(np.isnan(costs[:, k]).sum()) for k in range(3)
    }
    assert found["abilities"]["m1"]["mean_kl"] == pytest.approx(np.nanmean(costs[:, 1]))
    scores = Scores.open(Place.at(tmp_path / "scores.arrow"))
    plan = build(remix_draft(scores, PlanConfig(), 16, seed=0, epoch=4))
    write_table(Place.at(tmp_path / "plan.arrow"), plan.table)
    found = told(tmp_path / "plan.arrow")
    steps = list(plan.steps())
    assert (found["kind"], found["num_steps"], found["num_rows"]) == ("plan", len(steps), 100)
    assert (found["fingerprint"], found["parents"]["scores"]) == (
        plan.fingerprint,
        scores.fingerprint,
    )
    for name, part in found["steps"].items():
        sizes = [len(step.rows) for step in steps if step.modality == name]
        assert part == {
            "steps": len(sizes),
            "rows": sum(sizes),
            "smallest_batch": min(sizes),
            "largest_batch": max(sizes),
        }


def test_scores_with_values_that_no_number_stands_for(tmp_path: Path) -> None:
    write_table(
        Place.at(tmp_path / "s.arrow"),
        pa.table({"row": [0, 1], "kl_a": [np.inf, np.nan], "kl_b": [np.nan, np.nan]}),
    )
    assert told(tmp_path / "s.arrow")["abilities"] == {
        "a": {"missing": 1, "infinite": 1, "mean_kl": None},
        "b": {"missing": 2, "infinite": 0, "mean_kl": None},
    }


def test_run_and_store(tmp_path: Path) -> None:
    place = Place.at(tmp_path) / "runs" / "mine"
    (place / "run.json").write_json(
        {
            "kind": "run",
            "name": "mine",
            "status": "running",
            "features": {"name": "made", "fingerprint": "f" * 64},
        }
    )
    row = dict.fromkeys(epochs_schema(["a"]).names, None) | {
        "epoch": 1,
        "rho": float("nan"),
        "train_loss": 0.5,
    }
    write_table(
        place / "epochs.arrow",
        pa.Table.from_pylist([{**row, "epoch": 0}, row], epochs_schema(["a"])),
    )
    (place / "checkpoints" / "last.pt").write_bytes(b"1234")
    (place / "plans" / "epoch-0000.arrow").write_bytes(b"12")
    found = told(tmp_path / "runs" / "mine")
    assert (found["kind"], found["status"], found["features"]["fingerprint"]) == (
        "run",
        "running",
        "f" * 64,
    )
    assert (found["checkpoints"], found["plans"], found["scores"]) == (
        {"last.pt": 4},
        {"epoch-0000.arrow": 2},
        {},
    )
    assert found["epochs"]["num"] == 2
    assert (found["epochs"]["last"][0]["train_loss"], found["epochs"]["last"][0]["rho"]) == (
        0.5,
        None,
    )
    assert found["epochs"]["schema"]["share_a"] == "double"
    make_features(tmp_path / "features" / "made", num_rows=20)
    assert (told(tmp_path)["kind"], told(tmp_path)["runs"], told(tmp_path)["features"]) == (
        "store",
        ["mine"],
        ["made"],
    )


def test_any_other_table(tmp_path: Path) -> None:
    write_table(Place.at(tmp_path / "t.arrow"), pa.table({"epoch": [1, 2]}))
    assert {
        key: value
        for key, value in told(tmp_path / "t.arrow").items()
        if key in ("kind", "num_rows", "schema")
    } == {
        "kind": "table",
        "num_rows": 2,
        "schema": {"epoch": "int64"},
    }


@pytest.mark.parametrize(
    ("name", "error", "named"),
    [
        ("nothing", MissingError, r"/nothing\b"),
        ("nothing-*.tar", InputError, r"/nothing-\*\.tar\b"),
        ("empty", DataError, r"/empty\b"),
        ("unfinished", DataError, r"(?s)(?=.*/unfinished\b)(?=.*\bsamples\.arrow\b)"),
        ("text.txt", DataError, r"/text\.txt\b"),
        ("plan.arrow", DataError, r"(?s)(?=.*\bmodality\b)(?=.*\bint64\b)(?=.*\bstring\b)"),
    ],
)
def test_what_is_not_there_or_not_known(
    tmp_path: Path, name: str, error: type[InputError], named: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "samples.arrow").write_bytes(b"")
    (tmp_path / "text.txt").write_text("hello")
    write_table(
        Place.at(tmp_path / "plan.arrow"),
        pa.table({"step": pa.array([0], pa.int32()), "modality": [0], "rows": [[0]]}),
    )
    with pytest.raises(error, match=named):
        inspect(tmp_path / name)


def test_a_file_whose_offsets_lie_is_an_error_and_not_the_end_of_the_process(
    tmp_path: Path,
) -> None:
    offsets = np.array([0, 777, 1000], np.int32)
    rows = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.arange(1000)))
    write_table(
        Place.at(tmp_path / "plan.arrow"),
        pa.table({"step": pa.array([0, 1], pa.int32()), "modality": ["a", "b"], "rows": rows}),
    )
    assert told(tmp_path / "plan.arrow")["num_rows"] == 1000
    data = (tmp_path / "plan.arrow").read_bytes()
    assert data.count(offsets.tobytes()) == 1
    (tmp_path / "plan.arrow").write_bytes(
        data.replace(offsets.tobytes(), np.array([0, 777, 2**30], np.int32).tobytes())
    )
    with pytest.raises(DataError, match=r"plan\.arrow\b"):
        inspect(tmp_path / "plan.arrow")


def test_it_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    make_features(tmp_path / "made", num_rows=20)
    script = (
        f"import sys; from pipeline.inspect import inspect; inspect({str(tmp_path / 'made')!r})\n"
        "loaded = {'torch', 'ray', 'webdataset', 'av'} & set(sys.modules); assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_tree_shows_every_value(tmp_path: Path) -> None:
    make_features(tmp_path / "made", num_rows=20)
    manifest = (Place.at(tmp_path / "made") / MANIFEST).read_json()
    manifest |= {
        "classes": ["[bold]", "[/x]", "c"],
        "reasons": {"truncated": 7},
        "parents": {"long": list(range(100)), "short": list(range(64))},
    }
    manifest["fingerprint"] = features_fingerprint(
        manifest, fingerprint(read_table(Place.at(tmp_path / "made" / "samples.arrow")), {})
    )
    (Place.at(tmp_path / "made") / MANIFEST).write_json(manifest)
    console = Console(width=500, file=io.StringIO(), record=True)
    console.print(render(inspect(tmp_path / "made")))
    text = console.export_text()
    for words in (
        "features ",
        "num_rows  20",
        "[bold] ",
        "[/x] ",
        "truncated 7",
        manifest["fingerprint"],
        "shape  [2, 3, 16, 16]",
        "6, 7, ..., 99] (100 values)",
        "62, 63]",
    ):
        assert words in text
