"""The comparison of methods: pairing, files, resuming, statistics and costs."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.plans.plan import BatchPlan
from pipeline.storage.arrow_files import read_table
from pipeline.storage.store_path import StorePath
from tests.support.stores import make_features, run_config
from trainer.comparison.compare import compare
from trainer.comparison.methods import (
    DEFAULT,
    METHODS,
    POLICIES,
    TABLES,
    completed,
    methods_of,
    reference_of,
    trains_heads,
    with_method,
)
from trainer.comparison.statistics import spread
from trainer.comparison.summary import baselines
from trainer.comparison.tables import markdown, summary
from trainer.config import RunConfig
from trainer.launch import launch
from trainer.run_directory import Run


def test_compare_trains_every_method_with_identical_settings(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", num_rows=60)
    config = run_config(tmp_path, assemble=True, name="c", train={"epochs": 3, "warmup_epochs": 1})
    methods = ["joint", "joint_heads", "random", "remix", "remix:equal"]
    trained: list[str] = []

    def train(each: RunConfig) -> Run:
        trained.append(each.name)
        return launch(each, resume=True)

    result = compare(config, methods, [0, 1], train)
    assert trained == ["c-joint_heads-seed0", "c-joint_heads-seed1"] + [
        f"c-{method.replace(':', '-')}-seed{seed}"
        for seed in (0, 1)
        for method in ("joint", "random", "remix", "remix:equal", "unimodal")
    ]
    runs = {name: Run.open(StorePath.at(tmp_path / "runs" / name)) for name in trained}
    check_plans(runs)
    joint, heads, random, remix, equal, unimodal = result["methods"]
    each = [
        runs[f"c-remix-seed{seed}"].metadata["result"]["test_accuracy"]["fused"] for seed in (0, 1)
    ]
    assert remix["accuracy"]["fused"] == spread(each)
    assert remix["accuracy"]["assembled"]["each"] == [
        runs[f"c-remix-seed{seed}"].metadata["result"]["assembled"]["test_accuracy"]["fused"]
        for seed in (0, 1)
    ]
    assert list(joint["accuracy"]) == ["fused", "assembled"]  # nothing trained its heads
    heads_of = [list(row["accuracy"]) for row in (heads, equal, unimodal)]
    assert heads_of == [["fused", "assembled", "sound", "sight", "touch"]] * 3
    assert remix["runs"] == ["c-remix-seed0", "c-remix-seed1"]
    assert result["reference"] == "joint_heads"
    assert heads["time_ratio"] == heads["cost"]["flops_ratio"] == 1.0
    assert random["time_ratio"] > 0
    assert remix["cost"]["expansion"] == heads["cost"]["expansion"] == 1.0
    assert remix["cost"]["flops"] < heads["cost"]["flops"]
    differences = {
        (test["method"], test["against"], test["accuracy"]): test["difference"]["each"]
        for test in result["tests"]
    }
    assert len(differences) == 2 * (5 + 4)
    for test, name in (
        (("remix", "joint_heads", "fused"), "predicted_fused"),
        (("remix", "random", "assembled"), "predicted_assembled"),
    ):
        assert differences[test] == pytest.approx(
            [
                share_right(runs[f"c-{test[0]}-seed{seed}"], name)
                - share_right(runs[f"c-{test[1]}-seed{seed}"], name)
                for seed in (0, 1)
            ]
        )
    check_files(StorePath.at(tmp_path / "comparisons" / "c"), result)
    before = {name: (run.path / "run.json").read_bytes() for name, run in runs.items()}
    again = compare(config, methods, [0, 1], lambda each: launch(each, resume=True))
    assert again == result
    assert before == {name: (run.path / "run.json").read_bytes() for name, run in runs.items()}
    check_text(result)


def check_plans(runs: dict[str, Run]) -> None:
    """Check that methods share the batches of warm-up, and plan by their policies afterwards."""
    firsts = [
        {step.rows.tobytes() for step in BatchPlan.open(runs[f"c-{method}-seed0"].plan(0)).steps()}
        for method in ("joint_heads", "random", "remix")
    ]
    assert firsts[0] == firsts[1] == firsts[2]
    policies = {
        method: BatchPlan.open(runs[f"c-{method}-seed0"].plan(2)).metadata["policy"]
        for method in ("joint_heads", "random", "remix")
    }
    assert policies == {"joint_heads": "joint", "random": "random", "remix": "kl"}


def check_files(path: StorePath, result: dict[str, Any]) -> None:
    assert {entry.name for entry in path.list()} == {
        "accuracy.png",
        "share.png",
        "curves.arrow",
        "results.csv",
        "table.json",
        "table.md",
    }
    assert (path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert read_table(path / "curves.arrow").num_rows == 6 * 2 * 3
    assert (path / "table.md").read_bytes().decode() == markdown(result)
    rows = list(csv.DictReader((path / "results.csv").read_bytes().decode().splitlines()))
    assert [(row["run"], row["seed"]) for row in rows] == [
        (f"c-{row['method'].replace(':', '-')}-seed{seed}", str(seed))
        for seed in (0, 1)
        for row in result["methods"]
    ]
    by = {row["method"]: row for row in result["methods"]}
    for row in rows:
        for head in ("fused", "assembled", "sound", "sight", "touch"):
            value = by[row["method"]]["accuracy"].get(head)
            shown = row[f"accuracy_{head}"]
            assert shown == ("" if value is None else str(value["each"][int(row["seed"])]))


def share_right(run: Run, column: str) -> float:
    test = run.test()
    return float(np.mean(test[column].to_numpy() == test["label"].to_numpy()))


def check_text(result: dict[str, Any]) -> None:
    text = markdown(result)
    assert text.startswith(summary(result))
    assert result["verdict"] in summary(result)
    main, *_ = text.split("\n\n")
    assert [
        line.split(" | ")[3:6] for line in main.splitlines() if line.startswith("| joint |")
    ] == [["-", "-", "-"]]
    assert result["tables"] == {
        "unimodal": ["joint", "joint_heads", "unimodal", "random", "remix"],
        "policies": ["joint_heads", "random", "remix", "remix:equal"],
    }
    rows = [
        line.split(" | ")
        for line in text.split("policies:\n\n")[1].split("\n\n")[0].splitlines()[2:]
    ]
    assert [row[0] for row in rows] == ["| joint_heads", "| random", "| remix", "| remix:equal"]
    assert [row[3] for row in rows] == ["-", *["joint_heads"] * 3]
    assert "| remix:equal | remix |" not in text  # only the reference and random are baselines
    assert "| remix | random |" in text
    assert "cost:" in text


def test_baselines_are_those_of_the_labels(tmp_path: Path) -> None:
    features = make_features(tmp_path / "features" / "made", num_rows=101, num_classes=4)
    train, test = (features.labels[features.rows_of(split)].tolist() for split in ("train", "test"))
    majority = max(range(4), key=train.count)  # the first one of several
    assert baselines(features) == {
        "num_test": len(test),
        "chance": 0.25,
        "majority": {"name": f"c{majority}", "accuracy": test.count(majority) / len(test)},
    }


def test_the_unimodal_ensemble_is_always_compared() -> None:
    assert completed(["remix"]) == ["remix", "unimodal"]
    assert completed(["unimodal", "remix"]) == ["unimodal", "remix"]
    with pytest.raises(ConfigError):
        completed(["remix", "remix"])
    assert reference_of(["random", "joint_heads"]) == "joint_heads"
    assert reference_of(["sum", "random"]) == "random"
    assert reference_of(["sum", "remix"]) == "sum"


@pytest.mark.parametrize(
    "method", [*METHODS, *(f"remix:{policy}" for policy in POLICIES), "mla+remix:equal"]
)
def test_every_method_and_policy_gives_a_valid_configuration(tmp_path: Path, method: str) -> None:
    config = run_config(tmp_path)
    method_config = with_method(config, method, 7)
    assert (method_config.seed, method_config.name) == (
        7,
        f"run-{method.replace('+', '-').replace(':', '-')}-seed7",
    )
    same = method_config.model_copy(update={"name": config.name, "seed": config.seed}) == config
    assert same == (method == "remix")


def test_tables_name_existing_methods(tmp_path: Path) -> None:
    assert {method.split(":")[0] for table in TABLES.values() for method in table} <= set(METHODS)
    assert methods_of(None, None) == DEFAULT.split(",")
    assert methods_of("sum,remix:equal", "ablation,unimodal") == [
        *("sum", "remix:equal", "joint_heads", "decouple", "reassemble", "remix", "random"),
        *("joint", "unimodal"),
    ]
    trained = {
        method: trains_heads(with_method(run_config(tmp_path), method, 0))
        for method in ("joint", "joint_heads", "unimodal", "ogm_ge", "mla", "remix")
    }
    assert [method for method, trains in trained.items() if not trains] == ["joint", "ogm_ge"]


@pytest.mark.parametrize(
    ("method", "named"),
    [
        ("magic", "joint_heads"),
        ("remix:magic", "equal"),
        ("remix:", "equal"),
        ("joint_heads:equal", "remix:equal"),
        ("random:equal", "remix:equal"),
    ],
)
def test_an_unknown_method_is_an_error(tmp_path: Path, method: str, named: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)(?=.*\b{method})(?=.*\b{named}\b)"):
        compare(run_config(tmp_path), ["joint", method], [0], lambda each: pytest.fail("trained"))


def test_invalid_methods_are_refused_before_training(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", num_rows=60)
    with pytest.raises(ConfigError, match=r"(?s)(?=.*\bheads\b)(?=.*\bshared\b)"):
        compare(
            run_config(tmp_path), ["joint_heads", "mla"], [0], lambda each: pytest.fail("trained")
        )
    with pytest.raises(ConfigError, match=r"(?s)(?=.*\btests\b)(?=.*\bfusion\b)"):
        methods_of(None, "tests")
