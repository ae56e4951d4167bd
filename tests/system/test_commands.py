"""The command line: quick where nothing heavy is needed, exit codes, JSON, and what bad input gets."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from pipeline.features.manifest import features_fingerprint
from pipeline.scores.build import join_scores, score_rows
from pipeline.storage.arrow_files import read_table, write_table
from pipeline.storage.metadata import fingerprint, with_metadata
from pipeline.storage.schemas import SPLITS, scores_schema
from pipeline.storage.store_path import MANIFEST, Place
from tests.support.stores import Command, make_features, run_config


def random_scores(num_rows: int = 100, modalities: tuple[str, ...] = ("x", "y", "z")) -> pa.Table:
    rng = np.random.default_rng(0)
    columns: dict[str, object] = {
        "row": np.arange(num_rows),
        "sample_id": [f"s{i}" for i in range(num_rows)],
        "label": np.arange(num_rows, dtype=np.int32) % 5,
    }
    for name in modalities:
        columns |= {
            f"kl_{name}": rng.random(num_rows, np.float32),
            f"p_label_{name}": rng.random(num_rows, np.float32),
            f"predicted_{name}": np.zeros(num_rows, np.int32),
        }
    return pa.table(columns, schema=scores_schema(modalities))


@pytest.mark.parametrize(
    "args", [["--help"], ["stats", "PLAN"], ["inspect", "PLAN"], ["plan", "SCORES", "--out", "OUT"]]
)
def test_light_commands_load_neither_torch_nor_ray(
    tmp_path: Path, command: Command, args: list[str]
) -> None:
    write_table(Place.at(tmp_path / "SCORES"), random_scores())
    assert command("plan", tmp_path / "SCORES", "--out", tmp_path / "PLAN")[0] == 0
    paths = [str(tmp_path / arg) if arg.isupper() else arg for arg in args]
    script = (
        f"import sys; sys.argv = {['remix', *paths]!r}\nfrom remix.cli.app import main\ntry: main()\nexcept SystemExit as e: assert not e.code, e.code\n"
        "loaded = {'torch', 'ray', 'torchaudio', 'av', 'scipy'} & set(sys.modules); assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_plan_and_stats_work_on_files_alone(tmp_path: Path, command: Command) -> None:
    write_table(Place.at(tmp_path / "s.arrow"), random_scores())
    code, out, _ = command(
        "plan",
        tmp_path / "s.arrow",
        "--out",
        tmp_path / "p.arrow",
        "--batch-size",
        16,
        "--seed",
        3,
        "--order",
        "interleaved",
        "--shares",
        "equal",
        "--json",
    )
    assert code == 0
    assert json.loads(out)["steps"] == read_table(Place.at(tmp_path / "p.arrow")).num_rows
    code, out, _ = command(
        "stats", tmp_path / "p.arrow", "--scores", tmp_path / "s.arrow", "--json"
    )
    assert code == 0
    statistics = json.loads(out)
    assert sum(each["num_rows"] for each in statistics["modalities"].values()) == 100


def named(word: str, err: str) -> bool:
    return bool(re.search(rf"(?<![\w.])(?<!\w-){re.escape(word)}(?!\w)", err))


def bad_scores(tmp_path: Path, table: pa.Table) -> Path:
    write_table(Place.at(tmp_path / "s.arrow"), table)
    return tmp_path / "s.arrow"


def test_what_is_not_a_plan_is_named(tmp_path: Path, command: Command) -> None:
    code, _, err = command("stats", bad_scores(tmp_path, random_scores()))
    assert (code, "s.arrow" in err, bool(re.search(r"\bstep\b", err))) == (2, True, True), err
    code, _, err = command("stats", tmp_path / "no[/b]thing.arrow")
    assert (code, "no[/b]thing.arrow" in err) == (2, True), err
    damaged = bytearray((tmp_path / "s.arrow").read_bytes())
    at = damaged.find(np.arange(1, 4, dtype=np.int32).tobytes())  # offsets of the sample ids
    damaged[at : at + 12] = np.array([2**30, 5, 2**31 - 1], np.int32).tobytes()
    (tmp_path / "damaged.arrow").write_bytes(damaged)
    code, _, err = command("plan", tmp_path / "damaged.arrow", "--out", tmp_path / "p.arrow")
    assert code == 2, err


def other_label(label: int) -> Callable[[pa.Table], pa.Table]:
    labels = [label if i == 4 else i % 5 for i in range(100)]
    return lambda table: with_metadata(
        table.set_column(2, "label", pa.array(labels, pa.int32())),
        {"num_classes": 5, "modalities": ["x", "y", "z"]},
    )


def infinite(table: pa.Table) -> pa.Table:
    values = table["kl_x"].to_numpy().copy()
    values[7] = np.inf
    return table.set_column(table.column_names.index("kl_x"), "kl_x", pa.array(values))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (infinite, ["7", "kl_x", "inf"]),
        (other_label(7), ["4", "label", "7", "5"]),
        (other_label(-2), ["4", "label", "-2", "5"]),
        (lambda table: table.drop_columns(["label"]), ["label"]),
        (lambda table: table.drop_columns(["kl_x", "kl_y", "kl_z"]), ["kl_"]),
        (lambda table: pa.concat_tables([table, table.slice(3, 1)]), ["3"]),
    ],
)
def test_bad_scores_are_named(
    tmp_path: Path, command: Command, change: Callable[[pa.Table], pa.Table], words: list[str]
) -> None:
    code, _, err = command(
        "plan", bad_scores(tmp_path, change(random_scores())), "--out", tmp_path / "p.arrow"
    )
    assert (code, "s.arrow" in err, all(named(word, err) for word in words)) == (2, True, True), err
    assert not (tmp_path / "p.arrow").exists()


def test_scores_of_other_features_are_refused(tmp_path: Path, command: Command) -> None:
    features = make_features(tmp_path / "features" / "made", missing=0.2)
    other = make_features(tmp_path / "features" / "other", seed=1)
    rows = features.rows_of("train")
    probabilities = {name: np.full((len(rows), 3), 1 / 3) for name in features.modalities}
    table = join_scores([(0, score_rows(features, rows, probabilities))], features, 0, {})
    args = ["plan", bad_scores(tmp_path, table), "--out", tmp_path / "p.arrow", "--features"]
    code, _, err = command(*args, other.place)
    assert (code, features.fingerprint[:12] in err, other.fingerprint[:12] in err) == (
        2,
        True,
        True,
    ), err
    stripped = bad_scores(tmp_path, table.replace_schema_metadata(None))
    code, _, err = command(
        "plan", stripped, "--out", tmp_path / "p.arrow", "--features", other.place
    )
    assert (code, bool(re.search(r"\bkl_(sight|touch)\b", err))) == (2, True), err
    narrow = bad_scores(tmp_path, table.replace_schema_metadata(None).drop_columns(["kl_touch"]))
    code, _, err = command(
        "plan", narrow, "--out", tmp_path / "p.arrow", "--features", features.place
    )
    assert (code, all(named(name, err) for name in features.modalities)) == (2, True), err
    assert not (tmp_path / "p.arrow").exists()
    bad_scores(tmp_path, table)
    assert command(*args, features.place)[0] == 0
    code, _, err = command(
        "stats", tmp_path / "p.arrow", "--scores", tmp_path / "s.arrow", "--json"
    )
    assert code == 0, err
    bad_scores(
        tmp_path, join_scores([(0, score_rows(features, rows, probabilities))], features, 1, {})
    )
    code, _, err = command("stats", tmp_path / "p.arrow", "--scores", tmp_path / "s.arrow")
    assert (code, "p.arrow" in err) == (2, True), err


def config_file(tmp_path: Path, **changes: object) -> Path:
    make_features(tmp_path / "features" / "made")
    value = (
        run_config(tmp_path).model_dump(mode="json", include={"name", "features", "store", "train"})
        | changes
    )
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(value))
    return tmp_path / "run.yaml"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trian": {}}, ["trian", "{}", "train"]),
        ({"train": {"batchsize": 3}}, ["train.batchsize", "3", "batch_size"]),
        ({"train": {"epochs": 0}}, ["train.epochs", "0", "1"]),
        ({"name": "../up"}, ["name", "../up"]),
        ({"features": "other"}, ["other"]),
        (
            {"train": {"batch_size": 1}, "resources": {"workers": 2}},
            ["batch_size", "1", "2", "train.batch_size"],
        ),
        ({"store": "/proc/nowhere"}, ["/proc/nowhere"]),
        ({"model": {"encoder": {"frames": 99}}}, ["99"]),
        (
            {"model": {"encoders": {"sound": {"kindd": "cnn"}}}},
            ["model.encoders.sound.kindd", "cnn", "kind"],
        ),
        ({"plan": {"shares": {"sound": 0.5, "sihgt": 0.5}}}, ["sihgt"]),
        ({"plan": {"shares": "even"}}, ["plan.shares", "even"]),
        ({"plan": {"min_share": 0.4}}, ["min_share"]),
    ],
)
def test_bad_configs_are_named_before_anything_is_written(
    tmp_path: Path, command: Command, changes: dict[str, object], words: list[str]
) -> None:
    code, _, err = command("train", config_file(tmp_path, **changes))
    assert (code, all(named(word, err) for word in words)) == (2, True), err
    assert not (tmp_path / "runs").exists()


def test_a_run_name_that_exists_needs_resume(tmp_path: Path, command: Command) -> None:
    path = config_file(tmp_path, train={"epochs": 1, "warmup_epochs": 1})
    assert command("train", path)[0] == 0
    code, _, err = command("train", path)
    assert (code, named("run", err), str(tmp_path) in err, "--resume" in err) == (
        2,
        True,
        True,
        True,
    )
    code, out, _ = command("train", path, "--resume", "--json")
    assert code == 0
    assert json.loads(out)["run"] == "run"


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, command: Command) -> None:
    assert command("train", config_file(tmp_path, train={"epochs": 1, "warmup_epochs": 1}))[0] == 0
    make_features(
        tmp_path / "features" / "other",
        {"sound": ((1, 16, 16), "float16"), "sight": ((1, 3, 16, 16), "uint8")},
    )
    checkpoint = tmp_path / "runs" / "run" / "checkpoints" / "best.pt"
    code, _, err = command(
        "score",
        tmp_path / "features" / "other",
        "--checkpoint",
        checkpoint,
        "--out",
        tmp_path / "s.arrow",
    )
    assert (code, "best.pt" in err, named("touch", err)) == (2, True, True), err
    (tmp_path / "noise.pt").write_bytes(b"noise")
    code, _, err = command(
        "score",
        tmp_path / "features" / "made",
        "--checkpoint",
        tmp_path / "noise.pt",
        "--out",
        tmp_path / "s.arrow",
    )
    assert (code, "noise.pt" in err) == (2, True), err
    assert not (tmp_path / "s.arrow").exists()


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_an_empty_split_is_named(tmp_path: Path, command: Command, split: str) -> None:
    path = config_file(tmp_path)
    samples = read_table(Place.at(tmp_path / "features" / "made" / "samples.arrow"))
    other = "test" if split != "test" else "train"
    splits = [other if value == split else value for value in samples["split"].to_pylist()]
    place, changed = (
        Place.at(tmp_path / "features" / "made"),
        samples.set_column(3, "split", pa.array(splits)),
    )
    write_table(place / "samples.arrow", changed)
    manifest = {
        **(place / MANIFEST).read_json(),
        "splits": {name: splits.count(name) for name in SPLITS},
    }
    (place / MANIFEST).write_json(
        {**manifest, "fingerprint": features_fingerprint(manifest, fingerprint(changed, {}))}
    )
    code, _, err = command("train", path)
    assert (code, named(split, err), named("made", err)) == (2, True, True), err
    assert not (tmp_path / "runs").exists()


def test_report_writes_one_file_and_names_what_is_no_run(
    command: Command, trained_store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run.html"
    code, printed, _ = command(
        "report", trained_store / "runs" / "demo-remix-seed0", "--out", out, "--json"
    )
    found = json.loads(printed)
    assert (code, found["out"], found["bytes"]) == (0, str(out), out.stat().st_size)
    for run in (
        trained_store / "runs" / "nobody",
        trained_store,
        "s3://KEY:hush@bucket/demo?region=x",
    ):
        code, _, err = command("report", run, "--out", tmp_path / "none.html")
        assert code == 2
        assert "hush" not in err
    assert not (tmp_path / "none.html").exists()


def test_the_demo_writes_to_a_local_store_alone(command: Command) -> None:
    code, _, err = command("demo", "--store", "s3://KEY:hush@bucket/demo")
    assert code == 2
    assert "s3://bucket/demo" in err
    assert "hush" not in err
