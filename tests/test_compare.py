"""The comparison: paired, saved, resumable, and its statistics right."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pipeline.errors import ConfigError
from pipeline.plan import BatchPlan
from pipeline.store import Place
from pipeline.tables import read_table
from tests.support import make_features, run_config
from trainer.compare import compare, markdown, mcnemar_p
from trainer.config import RunConfig
from trainer.launch import launch
from trainer.run import Run


def test_mcnemar_is_the_binomial_test_on_the_discordant() -> None:
    first, second = np.array([1, 1, 1, 1, 0, 0, 1, 0], bool), np.array([0, 0, 0, 1, 1, 0, 0, 0], bool)
    assert mcnemar_p(first, second) == pytest.approx(2 * sum(stats.binom.pmf(k, 5, 0.5) for k in (4, 5)))
    assert mcnemar_p(first, first) == 1.0


def test_compare_trains_every_method_on_the_same_everything(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made")
    config = run_config(tmp_path, name="c", train={"epochs": 3, "warmup_epochs": 1})
    trained: list[str] = []

    def train(each: RunConfig) -> Run:
        trained.append(each.name)
        return launch(each, resume=True)

    result = compare(config, ["joint", "random", "remix"], [0, 1], train)
    assert trained == [f"c-{method}-seed{seed}" for seed in (0, 1) for method in ("joint", "random", "remix")]
    runs = {name: Run.open(Place.at(tmp_path / "runs" / name)) for name in trained}
    firsts = [{step.rows.tobytes() for step in BatchPlan.open(runs[f"c-{method}-seed0"].plan(0)).steps()} for method in ("joint", "random", "remix")]
    assert firsts[0] == firsts[1] == firsts[2]
    policies = {method: BatchPlan.open(runs[f"c-{method}-seed0"].plan(2)).metadata["policy"] for method in ("joint", "random", "remix")}
    assert policies == {"joint": "joint", "random": "random", "remix": "kl"}
    joint, random, remix = result["methods"]
    each = [runs[f"c-remix-seed{seed}"].facts["result"]["test_accuracy"]["fused"] for seed in (0, 1)]
    assert remix["accuracy"]["fused"] == {"mean": pytest.approx(np.mean(each)), "sd": pytest.approx(np.std(each, ddof=1)), "each": each}
    assert joint["time_ratio"] == 1.0
    assert random["time_ratio"] > 0
    by_pair = {test["pair"]: test for test in result["tests"]}
    assert set(by_pair) == {"random - joint", "remix - joint", "remix - random"}
    base = [runs[f"c-joint-seed{seed}"].facts["result"]["test_accuracy"]["fused"] for seed in (0, 1)]
    if np.std(np.subtract(each, base)) > 0:
        assert by_pair["remix - joint"]["paired_t_p"] == pytest.approx(stats.ttest_rel(each, base).pvalue)
    place = Place.at(tmp_path / "comparisons" / "c")
    assert {entry.name for entry in place.list()} == {"accuracy.png", "share.png", "curves.arrow", "table.json", "table.md"}
    assert (place / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert read_table(place / "curves.arrow").num_rows == 2 * 3 * 3
    assert (place / "table.md").read_bytes().decode() == markdown(result)
    before = {name: (run.place / "run.json").read_bytes() for name, run in runs.items()}
    again = compare(config, ["joint", "random", "remix"], [0, 1], lambda each: launch(each, resume=True))
    assert again == result
    assert before == {name: (run.place / "run.json").read_bytes() for name, run in runs.items()}


def test_an_unknown_method_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="method 'magic' is unknown; choose from joint, random, remix"):
        compare(run_config(tmp_path), ["joint", "magic"], [0], lambda each: pytest.fail("trained"))
