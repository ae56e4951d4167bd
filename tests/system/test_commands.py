"""The command line: start-up time, exit codes, JSON output, and invalid input."""

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
from pipeline.storage.store_path import MANIFEST, StorePath
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


LIGHT = [
    (["--help"], 0),
    (["--version"], 0),
    (["stats", "PLAN"], 0),
    (["inspect", "PLAN"], 0),
    (["plan", "SCORES", "--out", "OUT"], 0),
    (["train", "WRONG"], 2),
    (["compare", "WRONG"], 2),
]
RUN_LIGHT = """
import os, sys
from remix.cli.app import main
os.chdir(sys.argv[1])
for arguments, code in eval(sys.argv[2]):
    sys.argv = ["remix", *arguments]
    try:
        main()
    except SystemExit as ended:
        assert (ended.code or 0) == code, (arguments, ended.code)
    loaded = {"torch", "ray", "torchaudio", "av", "scipy"} & set(sys.modules)
    assert not loaded, (arguments, loaded)
"""


def test_light_commands_load_neither_torch_nor_ray(tmp_path: Path, command: Command) -> None:
    (tmp_path / "WRONG").write_text("{name: run, features: made, model: {fusion: glue}}")
    write_table(StorePath.at(tmp_path / "SCORES"), random_scores())
    assert command("plan", tmp_path / "SCORES", "--out", tmp_path / "PLAN")[0] == 0
    arguments = [sys.executable, "-c", RUN_LIGHT, str(tmp_path), repr(LIGHT)]
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)


def test_plan_and_stats_work_on_files_alone(tmp_path: Path, command: Command) -> None:
    write_table(StorePath.at(tmp_path / "s.arrow"), random_scores())
    options = [
        "--batch-size",
        "16",
        "--seed",
        "3",
        "--order",
        "interleaved",
        "--shares",
        "equal",
        "--json",
    ]
    scores, plan = tmp_path / "s.arrow", tmp_path / "p.arrow"
    code, out, _ = command("plan", scores, "--out", plan, *options)
    assert code == 0
    assert json.loads(out)["steps"] == read_table(StorePath.at(plan)).num_rows
    code, out, _ = command("stats", plan, "--scores", scores, "--json")
    assert code == 0
    statistics = json.loads(out)
    assert sum(each["num_rows"] for each in statistics["modalities"].values()) == 100


def named(word: str, err: str) -> bool:
    return bool(re.search(rf"(?<![\w.])(?<!\w-){re.escape(word)}(?!\w)", err))


def check_refused(answer: tuple[int, str, str], *words: str) -> None:
    """Asserts that a command ended as one that was given something wrong, which it named."""
    code, _, err = answer
    assert code == 2, err
    assert [word for word in words if not named(word, err)] == [], err


def bad_scores(tmp_path: Path, table: pa.Table) -> Path:
    write_table(StorePath.at(tmp_path / "s.arrow"), table)
    return tmp_path / "s.arrow"


def test_what_is_not_a_plan_is_named(tmp_path: Path, command: Command) -> None:
    check_refused(command("stats", bad_scores(tmp_path, random_scores())), "s.arrow", "step")
    check_refused(command("stats", tmp_path / "no[/b]thing.arrow"), "no[/b]thing.arrow")
    damaged = bytearray((tmp_path / "s.arrow").read_bytes())
    at = damaged.find(np.arange(1, 4, dtype=np.int32).tobytes())  # offsets of the sample ids
    damaged[at : at + 12] = np.array([2**30, 5, 2**31 - 1], np.int32).tobytes()
    (tmp_path / "damaged.arrow").write_bytes(damaged)
    damaged_plan = command("plan", tmp_path / "damaged.arrow", "--out", tmp_path / "p.arrow")
    check_refused(damaged_plan, "damaged.arrow")


def other_label(table: pa.Table) -> pa.Table:
    labels = pa.array([-2 if i == 4 else i % 5 for i in range(100)], pa.int32())
    facts = {"num_classes": 5, "modalities": ["x", "y", "z"]}
    return with_metadata(table.set_column(2, "label", labels), facts)


def infinite(table: pa.Table) -> pa.Table:
    values = table["kl_x"].to_numpy().copy()
    values[7] = np.inf
    return table.set_column(table.column_names.index("kl_x"), "kl_x", pa.array(values))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (infinite, ["7", "kl_x", "inf"]),
        (other_label, ["4", "label", "-2", "5"]),
        (lambda table: table.drop_columns(["label"]), ["label"]),
        (lambda table: table.drop_columns(["kl_x", "kl_y", "kl_z"]), ["kl_"]),
        (lambda table: pa.concat_tables([table, table.slice(3, 1)]), ["3"]),
    ],
)
def test_bad_scores_are_named(
    tmp_path: Path, command: Command, change: Callable[[pa.Table], pa.Table], words: list[str]
) -> None:
    scores = bad_scores(tmp_path, change(random_scores()))
    check_refused(command("plan", scores, "--out", tmp_path / "p.arrow"), "s.arrow", *words)
    assert not (tmp_path / "p.arrow").exists()


def test_scores_of_other_features_are_refused(tmp_path: Path, command: Command) -> None:
    features = make_features(tmp_path / "features" / "made", missing=0.2)
    other = make_features(tmp_path / "features" / "other", seed=1)
    rows = features.rows_of("train")
    probabilities = {name: np.full((len(rows), 3), 1 / 3) for name in features.modalities}
    scored, plan = [(0, score_rows(features, rows, probabilities))], tmp_path / "p.arrow"

    def planned(table: pa.Table, store_path: StorePath) -> tuple[int, str, str]:
        scores = bad_scores(tmp_path, table)
        return command("plan", scores, "--out", plan, "--features", store_path)

    table = join_scores(scored, features, 0, {})
    names = features.fingerprint[:12], other.fingerprint[:12]
    check_refused(planned(table, other.path), *names)
    stripped = table.replace_schema_metadata(None)
    check_refused(planned(stripped, other.path), "kl_sight")
    narrow = stripped.drop_columns(["kl_touch"])
    check_refused(planned(narrow, features.path), *features.modalities)
    assert not plan.exists()
    assert planned(table, features.path)[0] == 0
    scores = ("--scores", tmp_path / "s.arrow")
    assert command("stats", plan, *scores, "--json")[0] == 0
    bad_scores(tmp_path, join_scores(scored, features, 1, {}))
    check_refused(command("stats", plan, *scores), "p.arrow")


def config_file(tmp_path: Path, **changes: object) -> Path:
    make_features(tmp_path / "features" / "made")
    own = {"name", "features", "store", "train"}
    value = run_config(tmp_path, assemble=True).model_dump(mode="json", include=own) | changes
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(value))
    return tmp_path / "run.yaml"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trian": {}}, ["trian", "{}", "train"]),
        ({"train": {"epochs": 0}}, ["train.epochs", "0", "1"]),
        ({"name": "../up"}, ["name", "../up"]),
        ({"features": "other"}, ["other"]),
        ({"store": "/proc/nowhere"}, ["/proc/nowhere"]),
        ({"model": {"encoder": {"frames": 99}}}, ["99"]),
        ({"model": {"encoders": {"sound": {"kindd": 3}}}}, ["model.encoders.sound.kindd", "kind"]),
        ({"plan": {"shares": {"sound": 0.5, "sihgt": 0.5}}}, ["sihgt"]),
        ({"plan": {"shares": "even"}}, ["plan.shares", "even"]),
    ],
)
def test_bad_configs_are_named_before_anything_is_written(
    tmp_path: Path, command: Command, changes: dict[str, object], words: list[str]
) -> None:
    check_refused(command("train", config_file(tmp_path, **changes)), *words)
    assert not (tmp_path / "runs").exists()


def test_a_run_name_that_exists_needs_resume(tmp_path: Path, command: Command) -> None:
    path = config_file(tmp_path, train={"epochs": 1, "warmup_epochs": 1})
    assert command("train", path)[0] == 0
    check_refused(command("train", path), "run", str(tmp_path), "--resume")
    code, out, _ = command("train", path, "--resume", "--json")
    assert code == 0
    assert json.loads(out)["run"] == "run"


@pytest.mark.parametrize("num_epochs", [1, 2])
def test_the_tested_epoch_and_both_accuracies_are_printed(
    tmp_path: Path, command: Command, num_epochs: int
) -> None:
    train = {"epochs": num_epochs, "warmup_epochs": 1}
    code, out, _ = command("train", config_file(tmp_path, train=train))
    result = json.loads((tmp_path / "runs" / "run" / "run.json").read_text())["result"]
    accuracies = [result["test_accuracy"]["fused"], result["assembled"]["test_accuracy"]["fused"]]
    assert code == 0
    assert re.search(rf"epoch {num_epochs - 1}\b", out)
    assert ("warm-up" in out) == (num_epochs == 1)
    assert re.findall(r"\d\.\d{4}", out) == [f"{accuracy:.4f}" for accuracy in accuracies]
    assert result["assembled"]["readout"] in out


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, command: Command) -> None:
    assert command("train", config_file(tmp_path, train={"epochs": 1, "warmup_epochs": 1}))[0] == 0
    shapes = {"sound": ((1, 16, 16), "float16"), "sight": ((1, 3, 16, 16), "uint8")}
    make_features(tmp_path / "features" / "other", shapes)
    best, noise = tmp_path / "runs" / "run" / "checkpoints" / "best.pt", tmp_path / "noise.pt"
    noise.write_bytes(b"noise")
    part = best.with_name("best.sound.pt")
    for name, path, word in (
        ("other", best, "touch"),
        ("made", noise, noise.name),
        ("made", part, "missing"),
    ):
        args = [tmp_path / "features" / name, "--checkpoint", path, "--out", tmp_path / "s.arrow"]
        check_refused(command("score", *args), path.name, word)
    assert not (tmp_path / "s.arrow").exists()


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_an_empty_split_is_named(tmp_path: Path, command: Command, split: str) -> None:
    path = config_file(tmp_path)
    samples = read_table(StorePath.at(tmp_path / "features" / "made" / "samples.arrow"))
    other = "test" if split != "test" else "train"
    splits = [other if value == split else value for value in samples["split"].to_pylist()]
    store_path = StorePath.at(tmp_path / "features" / "made")
    changed = samples.set_column(3, "split", pa.array(splits))
    write_table(store_path / "samples.arrow", changed)
    manifest = (store_path / MANIFEST).read_json()
    manifest["splits"] = {name: splits.count(name) for name in SPLITS}
    manifest["fingerprint"] = features_fingerprint(manifest, fingerprint(changed, {}))
    (store_path / MANIFEST).write_json(manifest)
    check_refused(command("train", path), split, "made")
    assert not (tmp_path / "runs").exists()


def test_report_writes_one_file_and_names_what_is_no_run(
    command: Command, trained_store: Path, tmp_path: Path
) -> None:
    out, run = tmp_path / "run.html", trained_store / "runs" / "demo-remix-seed0"
    code, printed, _ = command("report", run, "--out", out, "--json")
    found = json.loads(printed)
    assert (code, found["out"], found["bytes"]) == (0, str(out), out.stat().st_size)
    nobody = trained_store / "runs" / "nobody"
    for run in (nobody, trained_store, "s3://KEY:hush@bucket/demo?region=x"):
        code, _, err = command("report", run, "--out", tmp_path / "none.html")
        assert code == 2
        assert "hush" not in err
    assert not (tmp_path / "none.html").exists()


def test_the_demo_writes_to_a_local_store_alone(command: Command) -> None:
    code, _, err = command("demo", "--store", "s3://KEY:hush@bucket/demo")
    assert code == 2
    assert "s3://bucket/demo" in err
    assert "hush" not in err


@pytest.mark.slow
def test_compare_prints_one_table_and_a_verdict(tmp_path: Path, command: Command) -> None:
    make_features(tmp_path / "features" / "made", num_rows=60)
    path = config_file(tmp_path, name="c", train={"epochs": 2, "warmup_epochs": 1})
    arguments = ("compare", path, "--methods", "joint_heads,remix", "--seeds", 1, "--tune")
    tuned = ("optimizer.lr=1e-3,1e-2", "--tune-seeds", 1, "--budget", "flops")
    code, out, err = command(*arguments, *tuned)
    assert code == 0, err
    code, text, _ = command(*arguments, *tuned, "--json")
    result = json.loads(text)
    assert code == 0
    assert (result["tuning"]["seeds"], result["budget"]) == ([1], "flops")
    table, *_, verdict, place = out.strip().split("\n\n")
    columns, _, *rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert columns[1:6] == ["fused", "assembled", "sound", "sight", "touch"]
    assert [row[0] for row in rows] == ["joint_heads", "remix", "unimodal"]
    for row, method in zip(rows, result["methods"], strict=True):
        assert row[1] == f"{100 * method['accuracy']['fused']['mean']:.2f}"
        assert row[6] == str(method["tuned"]["optimizer.lr"])
        assert row[8] == f"{method['budget_ratio']['median']:.3f}"
    assert (verdict, place) == (result["verdict"], result["place"])


@pytest.mark.parametrize("tune", ["optimizer.lr", "optimizer.rate=1", "optimizer.lr=[", "seed=1,2"])
def test_an_invalid_field_to_tune_is_named(tmp_path: Path, command: Command, tune: str) -> None:
    code, _, err = command("compare", config_file(tmp_path), "--tune", tune)
    assert code == 2
    assert tune.split("=")[0].split(".")[-1] in err
    assert not (tmp_path / "runs").exists()
