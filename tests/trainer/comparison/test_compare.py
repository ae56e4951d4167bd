"""The comparison of methods: pairing, files, resuming, statistics and costs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pipeline.errors import ConfigError
from pipeline.plans.plan import BatchPlan
from pipeline.storage.arrow_files import read_table
from pipeline.storage.store_path import StorePath
from tests.support.stores import make_features, run_config
from trainer.comparison.compare import compare, markdown
from trainer.comparison.methods import (
    DEFAULT,
    METHODS,
    POLICIES,
    TABLES,
    methods_of,
    trains_heads,
    with_method,
)
from trainer.comparison.run_result import mcnemar_p
from trainer.config import RunConfig
from trainer.cost import Meter
from trainer.launch import launch
from trainer.run_directory import Run


def test_mcnemar_is_the_binomial_test_on_discordant_samples() -> None:
    first, second = (
        np.array([1, 1, 1, 1, 0, 0, 1, 0], bool),
        np.array([0, 0, 0, 1, 1, 0, 0, 0], bool),
    )
    assert mcnemar_p(first, second) == pytest.approx(
        2 * sum(stats.binom.pmf(k, 5, 0.5) for k in (4, 5))
    )
    assert mcnemar_p(first, first) == 1.0


def test_compare_trains_every_method_with_identical_settings(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", num_rows=100)
    config = run_config(tmp_path, name="c", train={"epochs": 3, "warmup_epochs": 1})
    methods = ["joint", "joint_heads", "random", "remix", "remix:softmax"]
    trained: list[str] = []

    def train(each: RunConfig) -> Run:
        trained.append(each.name)
        return launch(each, resume=True)

    result = compare(config, methods, [0, 1], train)
    assert trained == [
        f"c-{method.replace(':', '-')}-seed{seed}" for seed in (0, 1) for method in methods
    ]
    runs = {name: Run.open(StorePath.at(tmp_path / "runs" / name)) for name in trained}
    check_plans(runs)
    joint, heads, random, remix, soft = result["methods"]
    each = [
        runs[f"c-remix-seed{seed}"].metadata["result"]["test_accuracy"]["fused"] for seed in (0, 1)
    ]
    assert remix["accuracy"]["fused"] == {
        "mean": pytest.approx(np.mean(each)),
        "sd": pytest.approx(np.std(each, ddof=1)),
        "each": each,
    }
    assert list(joint["accuracy"]) == ["fused"]  # nothing trained its heads
    assert list(heads["accuracy"]) == list(soft["accuracy"]) == ["fused", "sound", "sight", "touch"]
    assert result["reference"] == "joint_heads"
    assert heads["time_ratio"] == heads["cost"]["flops_ratio"] == 1.0
    assert random["time_ratio"] > 0
    assert remix["cost"]["expansion"] == heads["cost"]["expansion"] == 1.0
    assert remix["cost"]["flops"] < heads["cost"]["flops"]
    by_pair = {test["pair"]: test for test in result["tests"]}
    assert len(by_pair) == 10
    base = [
        runs[f"c-joint_heads-seed{seed}"].metadata["result"]["test_accuracy"]["fused"]
        for seed in (0, 1)
    ]
    if np.std(np.subtract(each, base)) > 0:
        assert by_pair["remix - joint_heads"]["paired_t_p"] == pytest.approx(
            stats.ttest_rel(each, base).pvalue
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
        "table.json",
        "table.md",
    }
    assert (path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert read_table(path / "curves.arrow").num_rows == 5 * 2 * 3
    assert (path / "table.md").read_bytes().decode() == markdown(result)


def check_text(result: dict[str, Any]) -> None:
    text = markdown(result)
    main, *_ = text.split("\n\n")
    assert [
        line.split(" | ")[2:5] for line in main.splitlines() if line.startswith("| joint |")
    ] == [["-", "-", "-"]]
    assert result["tables"] == {
        "unimodal": ["joint", "joint_heads", "random", "remix"],
        "policies": ["joint_heads", "random", "remix", "remix:softmax"],
    }
    rows = [
        line.split(" | ")
        for line in text.split("policies:\n\n")[1].split("\n\n")[0].splitlines()[2:]
    ]
    assert [row[0] for row in rows] == ["| joint_heads", "| random", "| remix", "| remix:softmax"]
    assert [row[2] for row in rows] == ["-", *["joint_heads"] * 3]
    assert (
        "| remix:softmax - remix |" not in text
    )  # many methods: only tests against the reference and random
    assert "| remix - random |" in text
    assert "unimodal prediction:" in text
    assert "cost:" in text


class Products:
    """FLOPs per row of the layers of the small model below."""

    def __init__(self) -> None:
        # a multiply-add per weight and position; each convolution halves the side: 4, 2, 1, 1
        convolutions = [
            2 * 9 * before * after * side**2
            for before, after, side in ((1, 4, 4), (4, 8, 2), (8, 16, 1), (16, 32, 1))
        ]
        linears = [2 * 6 * 16, 2 * 16 * 16]
        self.heads, self.fusion = {"sight": 2 * 32 * 3, "touch": 2 * 16 * 3}, 2 * 48 * 3
        self.forward = {"sight": sum(convolutions), "touch": sum(linears)}
        # backward costs as much for the weights, and again for the input if a weight precedes it
        self.encode = {
            "sight": 3 * sum(convolutions) - convolutions[0],
            "touch": 3 * sum(linears) - linears[0],
        }

    def trained(self, run: Run, has: np.ndarray[Any, Any], mask: str, method: str) -> int:
        """FLOPs of the training steps of three epochs."""
        expected = 0
        for epoch in range(3):
            for step in BatchPlan.open(run.plan(epoch)).steps():
                n, masked = (
                    len(step.rows),
                    {
                        name: step.modality not in ("all", name) and method == "remix"
                        for name in self.heads
                    },
                )
                for k, name in enumerate(
                    self.heads
                ):  # a masked modality's head runs on zeros, and has no gradient
                    runs = 0 if masked[name] and mask == "skip" else has[step.rows, k].sum()
                    expected += self.encode[name] * runs
                    expected += n * self.heads[name] * (1 if masked[name] else 3)
                expected += n * 3 * self.fusion
        return expected

    def predicted(self, has: np.ndarray[Any, Any]) -> int:
        """FLOPs of one forward pass over rows with these modalities."""
        return (
            sum(
                has[:, k].sum() * self.forward[name] + len(has) * self.heads[name]
                for k, name in enumerate(self.heads)
            )
            + len(has) * self.fusion
        )


@pytest.mark.parametrize(
    ("mask", "method"), [("skip", "remix"), ("feature", "remix"), ("skip", "reassemble")]
)
def test_the_cost_of_a_run_is_the_sum_over_its_layers(
    tmp_path: Path, mask: str, method: str
) -> None:
    shapes = {"sight": ((1, 8, 8), "float32"), "touch": ((6,), "float32")}
    features = make_features(
        tmp_path / "features" / "made", shapes, num_rows=100, num_classes=3, missing=0.3
    )
    small = {
        "mask": mask,
        "encoder": {"kind": "cnn", "width": 4, "norm": "group"},
        "encoders": {"touch": {"kind": "mlp", "hidden": 16}},
    }
    config = run_config(
        tmp_path,
        model=small,
        train={"epochs": 3, "warmup_epochs": 1, "rescore_every": 2},
        method=method,
    )
    run, products = launch(config), Products()
    meter = Meter(config, features)
    assert meter.train(run) == products.trained(run, features.has, mask, method)
    counts = {
        split: features.has[features.rows_of(split)] for split in ("train", "validation", "test")
    }
    times = {"train": 1 + 1, "validation": 3 + 2, "test": 1 + 1}
    assert meter.evaluate(run) == sum(
        times[split] * products.predicted(has) for split, has in counts.items()
    )
    again = products.predicted(counts["train"])
    for changes in (
        {"train": {**config.train.model_dump(), "scores": "cross_fitted"}},
        {"plan": {"copies": "resample"}},
    ):
        changed = run_config(
            tmp_path, **{"model": small, "train": config.train.model_dump(), **changes}
        )
        assert Meter(changed, features).evaluate(run) == meter.evaluate(run) + again


@pytest.mark.parametrize(
    "method", [*METHODS, *(f"remix:{policy}" for policy in POLICIES), "mla+remix:softmax"]
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
    assert methods_of("sum,remix:softmax", "ablation,unimodal") == [
        *("sum", "remix:softmax", "joint_heads", "decouple", "reassemble", "remix", "random"),
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
        ("remix:magic", "easy"),
        ("remix:", "easy"),
        ("joint_heads:softmax", "remix:softmax"),
        ("random:easy", "remix:easy"),
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
