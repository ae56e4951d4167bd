"""`inspect` describes shards, feature sets, scores, plans, runs and stores correctly, as JSON."""

import io
import json
import subprocess
import sys
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
from pipeline.plans.planner import build, remix_plan_builder
from pipeline.scores.table import Scores
from pipeline.sources.synthetic.generate import generate
from pipeline.storage.arrow_files import read_table, write_table
from pipeline.storage.metadata import fingerprint, with_metadata
from pipeline.storage.schemas import epochs_schema
from pipeline.storage.store_path import MANIFEST, StorePath
from remix.cli.description import render
from tests.support.media_files import make_tar
from tests.support.plan_tables import arithmetic_costs, scores_table
from tests.support.refusals import refused
from tests.support.stores import make_features


def inspected(path: Path | str) -> dict[str, Any]:
    """The summary of a path, which JSON preserves."""
    summary = inspect(path)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    return summary


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    kinds, shares = ("image", "tensor"), (0.5, 0.25, 0.25)
    folder = tmp_path / "shards"
    generate(folder, samples=40, classes=4, shards=3, seed=0, modalities=kinds, shares=shares)
    return folder


def test_shards_are_counted_by_split_and_suffix(shards: Path) -> None:
    summary = inspected(shards)
    expected = json.loads((shards / "shards.json").read_text())
    assert (summary["kind"], summary["num_samples"]) == ("shards", 40)
    assert (summary["num_rejected"], summary["rejected"]) == (0, {})
    assert summary["splits"] == expected["splits"]
    assert {part["shard"]: part["bytes"] for part in summary["shards"]} == expected["shards"]
    assert summary["bytes"] == sum(path.stat().st_size for path in shards.glob("*.tar"))
    assert summary["members"] == {"image.png": 40, "json": 40, "tensor.npy": 40}
    assert summary["modalities"]["image"] == {
        "kind": "image",
        "member": ["image.png"],
        "missing": 0,
    }
    one, some = inspected(shards / "shard-000001.tar"), inspected(f"{shards}/shard-00000[12].tar")
    assert one["num_samples"] == summary["shards"][1]["samples"]
    assert some["num_samples"] == sum(part["samples"] for part in summary["shards"][1:])


def test_damaged_shards_with_missing_modalities(shards: Path) -> None:
    first, second, third = sorted(shards.glob("*.tar"))
    first.write_bytes(first.read_bytes()[:-30_000])
    members = {"a.json": b'{"label": "x", "split": "train"}', "b.json": b'{"label": "x"}'}
    members |= {"b.image.png": b"?", "c.image.png": b"?", "d.json": b"{"}
    second.write_bytes(make_tar(members))
    summary = inspected(shards)
    parts = {part["shard"]: part for part in summary["shards"]}
    part = parts[second.name]
    assert part["bytes"] == second.stat().st_size
    assert (part["samples"], part["rejected"]) == (2, 2)
    assert (part["account"]["samples"], part["account"]["members"]) == (4, 5)
    assert parts[third.name]["rejected"] == 0
    assert summary["num_samples"] == sum(part["samples"] for part in parts.values()) < 40
    assert summary["num_rejected"] == sum(part["rejected"] for part in parts.values())
    assert summary["num_rejected"] == sum(summary["rejected"].values())
    assert (summary["rejected"]["missing_member"], summary["rejected"]["undecodable"]) == (1, 1)
    assert summary["rejected"]["truncated"] >= 1
    assert summary["modalities"]["image"]["missing"] == 1
    assert summary["modalities"]["tensor"]["missing"] == 2
    assert summary["splits"]["none"] == {"samples": 1, "labels": {"x": 1}}


def test_features(tmp_path: Path) -> None:
    features = make_features(tmp_path / "made", missing=0.3)
    summary = inspected(tmp_path / "made")
    assert (summary["kind"], summary["num_rows"], summary["num_parts"]) == ("features", 200, 3)
    assert summary["fingerprint"] == features.fingerprint
    assert summary["splits"].keys() == features.manifest["splits"].keys()
    for split, part in summary["splits"].items():
        labels = features.labels[features.rows_of(split)].tolist()
        assert part["samples"] == features.manifest["splits"][split]
        assert part["labels"] == {f"c{k}": labels.count(k) for k in range(3)}
    for k, name in enumerate(features.modalities):
        assert summary["modalities"][name]["missing"] == (~features.has[:, k]).sum()
    assert summary["modalities"]["sight"]["shape"] == [2, 3, 16, 16]
    assert summary["schema"]["has_sight"] == "bool"
    files = [path for path in (tmp_path / "made").rglob("*") if path.is_file()]
    assert summary["bytes"] == sum(path.stat().st_size for path in files)


def test_scores_and_plan(tmp_path: Path) -> None:
    costs = arithmetic_costs(100, 3, missing=True)
    table = with_metadata(scores_table(costs), {"epoch": 4, "parents": {"features": "f" * 64}})
    write_table(StorePath.at(tmp_path / "scores.arrow"), table)
    summary = inspected(tmp_path / "scores.arrow")
    assert (summary["kind"], summary["num_rows"], summary["epoch"]) == ("scores", 100, 4)
    assert summary["parents"] == {"features": "f" * 64}
    assert summary["labels"] == {str(label): 20 for label in range(5)}
    for k, name in enumerate(["m0", "m1", "m2"]):
        assert summary["abilities"][name]["missing"] == np.isnan(costs[:, k]).sum()
    assert summary["abilities"]["m1"]["mean_kl"] == pytest.approx(np.nanmean(costs[:, 1]))
    scores = Scores.open(StorePath.at(tmp_path / "scores.arrow"))
    plan = build(remix_plan_builder(scores, PlanConfig(), 16, seed=0, epoch=4))
    write_table(StorePath.at(tmp_path / "plan.arrow"), plan.table)
    summary = inspected(tmp_path / "plan.arrow")
    steps = list(plan.steps())
    assert (summary["kind"], summary["num_steps"], summary["num_rows"]) == ("plan", len(steps), 100)
    assert summary["fingerprint"] == plan.fingerprint
    assert summary["parents"]["scores"] == scores.fingerprint
    for name, part in summary["steps"].items():
        sizes = [len(step.rows) for step in steps if step.modality == name]
        assert part == {
            "steps": len(sizes),
            "rows": sum(sizes),
            "smallest_batch": min(sizes),
            "largest_batch": max(sizes),
        }


def test_infinite_and_missing_scores_are_counted(tmp_path: Path) -> None:
    table = pa.table({"row": [0, 1], "kl_a": [np.inf, np.nan], "kl_b": [np.nan, np.nan]})
    write_table(StorePath.at(tmp_path / "s.arrow"), table)
    assert inspected(tmp_path / "s.arrow")["abilities"] == {
        "a": {"missing": 1, "infinite": 1, "mean_kl": None},
        "b": {"missing": 2, "infinite": 0, "mean_kl": None},
    }


def test_run_and_store(tmp_path: Path) -> None:
    path = StorePath.at(tmp_path) / "runs" / "mine"
    run_json: dict[str, object] = {"kind": "run", "name": "mine", "status": "running"}
    run_json["features"] = {"name": "made", "fingerprint": "f" * 64}
    (path / "run.json").write_json(run_json)
    row = {"epoch": 1, "rho": float("nan"), "train_loss": 0.5}
    epochs = pa.Table.from_pylist([{**row, "epoch": 0}, row], epochs_schema(["a"]))
    write_table(path / "epochs.arrow", epochs)
    (path / "checkpoints" / "last.pt").write_bytes(b"1234")
    (path / "plans" / "epoch-0000.arrow").write_bytes(b"12")
    summary = inspected(tmp_path / "runs" / "mine")
    assert (summary["kind"], summary["status"]) == ("run", "running")
    assert summary["features"] == run_json["features"]
    assert summary["checkpoints"] == {"last.pt": 4}
    assert (summary["plans"], summary["scores"]) == ({"epoch-0000.arrow": 2}, {})
    assert summary["epochs"]["num"] == 2
    (last,) = summary["epochs"]["last"]
    assert (last["train_loss"], last["rho"]) == (0.5, None)
    assert summary["epochs"]["schema"]["share_a"] == "double"
    make_features(tmp_path / "features" / "made", num_rows=20)
    summary = inspected(tmp_path)
    assert (summary["kind"], summary["runs"], summary["features"]) == ("store", ["mine"], ["made"])


def test_any_other_table(tmp_path: Path) -> None:
    write_table(StorePath.at(tmp_path / "t.arrow"), pa.table({"epoch": [1, 2]}))
    summary = inspected(tmp_path / "t.arrow")
    assert (summary["kind"], summary["num_rows"]) == ("table", 2)
    assert summary["schema"] == {"epoch": "int64"}


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("nothing", MissingError, ""),
        ("nothing-*.tar", InputError, ""),
        ("empty", DataError, ""),
        ("unfinished", DataError, "samples.arrow"),
        ("text.txt", DataError, ""),
        ("plan.arrow", DataError, "modality int64 string"),
    ],
)
def test_a_missing_or_unknown_path_is_an_error(
    tmp_path: Path, name: str, error: type[InputError], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "samples.arrow").write_bytes(b"")
    (tmp_path / "text.txt").write_text("hello")
    table = pa.table({"step": pa.array([0], pa.int32()), "modality": [0], "rows": [[0]]})
    write_table(StorePath.at(tmp_path / "plan.arrow"), table)
    with refused(error, *words.split(), file=tmp_path / name):
        inspect(tmp_path / name)


def test_inspecting_imports_neither_torch_nor_ray(tmp_path: Path) -> None:
    make_features(tmp_path / "made", num_rows=20)
    script = (
        f"import sys; from pipeline.inspect import inspect; inspect({str(tmp_path / 'made')!r})\n"
        "loaded = {'torch', 'ray', 'webdataset', 'av'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_comparison_is_its_table(tmp_path: Path) -> None:
    folder = StorePath.at(tmp_path / "store" / "comparisons" / "c")
    (folder / "table.json").write_json({"name": "c", "seeds": [0]})
    described = inspect(folder)
    assert (described["kind"], described["name"], described["seeds"]) == ("comparison", "c", [0])
    assert inspect(tmp_path / "store")["comparisons"] == ["c"]


def test_the_tree_shows_every_value(tmp_path: Path) -> None:
    make_features(tmp_path / "made", num_rows=20)
    path = StorePath.at(tmp_path / "made")
    manifest = (path / MANIFEST).read_json()
    manifest |= {
        "classes": ["[bold]", "[/x]", "c"],
        "reasons": {"truncated": 7},
        "parents": {"long": list(range(100)), "share": 0.123456},
    }
    content = fingerprint(read_table(path / "samples.arrow"), {})
    manifest["fingerprint"] = features_fingerprint(manifest, content)
    (path / MANIFEST).write_json(manifest)
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
        "│ dtype",
        "2, 3, ..., 99 (100 values)",
        "share  0.1235",
    ):
        assert words in text
