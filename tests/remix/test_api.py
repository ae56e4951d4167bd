"""The public API: exported names, lazy imports, and errors."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import remix
from pipeline.errors import ConfigError
from pipeline.sources.synthetic.generate import generate
from tests.support.stores import make_features, run_config

NAMES = {"BatchPlan", "FeatureSet", "PlanBatchSampler", "Scores", "TrainStep", "__version__"}
NAMES |= {"compare", "decode", "load_model", "plan", "scores_from_logits", "serve", "train"}


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_every_name_exists_and_has_an_example() -> None:
    assert set(remix.__all__) == NAMES
    for name in NAMES - {"__version__"}:
        documentation = getattr(remix, name).__doc__
        assert "Example:" in documentation and f"remix.{name}" in documentation, name


def test_importing_it_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    names = "remix.BatchPlan, remix.Scores, remix.FeatureSet, remix.plan, remix.scores_from_logits"
    code = f"import sys, remix; {names}\n"
    ended = python(f"{code}print(sorted({{'torch', 'ray', 'av'}} & sys.modules.keys()))", tmp_path)
    assert ended.stdout.strip() == "[]", ended.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'plans'"):
        _ = remix.plans  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["trainer", "pipeline", "service"])
def test_a_module_of_the_user_that_shadows_ours_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("mine = True\n")
    ended = python("import remix", tmp_path)
    assert ended.returncode == 1
    assert "ImportError" in ended.stderr and str(tmp_path / f"{name}.py") in ended.stderr


def test_the_command_is_a_module_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "remix", "--help"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0 and "decode" in ended.stdout


def test_clips_become_features(tmp_path: Path, ray_cluster: None) -> None:
    size = {"samples": 12, "classes": 2, "shards": 2, "seed": 0}
    generate(tmp_path / "shards", **size, modalities=("tensor", "text"))
    summary = remix.decode([tmp_path / "shards"], tmp_path / "features")
    features = remix.FeatureSet.open(tmp_path / "features")
    assert (summary.num_rows, features.num_rows) == (12, 12)
    assert features.fingerprint == summary.fingerprint
    with pytest.raises(ConfigError, match="modalities"):
        remix.decode([tmp_path / "shards"], tmp_path / "other", {"modalities": {}})


def test_a_run_its_scores_its_plan_and_a_loader_by_it(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made")
    run = remix.train(run_config(tmp_path).model_dump(mode="json"))
    scores = remix.Scores.open(run.scores(2).path)
    plan = remix.plan(scores, batch_size=16, epoch=2, order="interleaved", out=tmp_path / "p.arrow")
    assert remix.plan(
        run.scores(2).path, batch_size=16, epoch=2, order="interleaved"
    ).fingerprint == (plan.fingerprint)
    sampler = remix.PlanBatchSampler(tmp_path / "p.arrow")
    assert [step.rows.tolist() for step in plan.steps()] == list(sampler)
    assert sorted(np.concatenate([step.rows for step in plan.steps()])) == scores.rows.tolist()
    with pytest.raises(ConfigError, match="ordre"):
        remix.plan(scores, ordre="sequential")


def test_methods_are_compared(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made")
    result = remix.compare(run_config(tmp_path), ["joint_heads", "remix"], seeds=1)
    assert [row["method"] for row in result["methods"]] == ["joint_heads", "remix", "unimodal"]
    assert remix.compare(run_config(tmp_path), ["joint_heads", "remix"], seeds=1) == result
