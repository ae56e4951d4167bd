"""`remix verify`: finished runs pass, and the command reports problems."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest

from pipeline.errors import MissingError
from pipeline.features.feature_set import FeatureSet
from pipeline.features.part_writer import part_name
from pipeline.plans.plan import BatchPlan
from pipeline.storage.store_path import StorePath
from remix.cli import app as command_line
from tests.support.stores import make_features, run_config
from tests.support.verify_edits import at, problems_of
from trainer.launch import launch
from trainer.run_directory import Run
from trainer.verification.verify import verify


def test_a_finished_run_passes(trained: Path) -> None:
    run, seen = Run.open(StorePath.at(trained / "runs" / "run")), []
    result = verify(run, parts=True, progress=lambda done, total: seen.append((done, total)))
    assert result["problems"] == []
    assert [epoch for epoch in range(5) if run.scores(epoch).exists()] == [2, 4]
    plans = [BatchPlan.open(run.plan(epoch)) for epoch in range(5)]
    num_rows = len(FeatureSet.open(at("features/made")(run)).rows_of("train"))
    epochs = [
        {"epoch": epoch, "steps": len(plan), "rows": num_rows, "taken": len(plan), "ok": True}
        for epoch, plan in enumerate(plans)
    ]
    assert result == {
        "run": "run",
        "status": "finished",
        "ok": True,
        "num_epochs": 5,
        "epochs": epochs,
        "problems": [],
    }
    assert seen == [(done, 5 + 9) for done in range(15)]


@pytest.mark.parametrize(
    "changes",
    [
        {"plan": {"order": "interleaved", "stratify": True, "locality": 32}},
        {"plan": {"policy": "random", "shares": "equal"}, "seed": 7},
        {"train": {"warmup_epochs": 0, "batch_size": 5}},
    ],
)
def test_runs_with_every_kind_of_plan_pass(tmp_path: Path, changes: dict[str, Any]) -> None:
    make_features(tmp_path / "features" / "made", missing=0.2)
    train = {"epochs": 2, "warmup_epochs": 1, **changes.get("train", {})}
    assert problems_of(launch(run_config(tmp_path, **{**changes, "train": train}))) == []


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs `remix verify ...` in this process and returns exit code, output and errors."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["remix", "verify", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, " ".join(err.split())

    return run


def test_the_command_reports_problems(
    run: Run, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = command(run.path)
    assert code == 0
    assert re.search(r"run\b.*\bfinished\b.*\b5 of 5 epochs", out.splitlines()[-1])
    assert len(out.splitlines()) == 6
    at("steps/epoch-0003-step-00000003.arrow")(run).delete()
    code, out, _ = command(run.path, "--json")
    assert (code, len(out.splitlines())) == (1, 1)
    result = json.loads(out)
    assert result == verify(run)
    assert result["problems"][0].keys() == {"epoch", "artifact", "what"}
    assert (
        result["problems"][0]["epoch"],
        result["epochs"][3]["ok"],
        result["epochs"][2]["ok"],
    ) == (3, False, True)
    code, out, _ = command(run.path)
    assert code == 1
    assert "epoch 3: " in out
    assert re.search(r"steps/epoch-0003-step-00000006\.arrow: (?=.*\b6\b)(?=.*\b3\b)", out)
    part = at("features/made")(run) / "sound" / part_name(0)
    part.write_bytes(part.read_bytes() + b"x")
    code, out, _ = command(run.path, "--parts", "--json")
    assert {each["artifact"] for each in json.loads(out)["problems"]} == {
        "features/made/sound/part-00000.arrow",
        "steps/epoch-0003-step-00000006.arrow",
    }
    code, out, err = command(tmp_path / "store" / "runs" / "nope")
    assert (code, out, "runs/nope" in err) == (2, "", True)
    at("run.json")(run).write_bytes(b"{")
    code, out, _ = command(run.path, "--json")
    result = json.loads(out)
    assert (code, result["status"], result["epochs"], result["problems"][0]["artifact"]) == (
        1,
        None,
        [],
        "run.json",
    )


def test_a_run_on_s3_can_be_verified(trained: Path, s3: Callable[[], str]) -> None:
    store = StorePath.at(s3())
    pafs.copy_files(
        str(trained),
        store.path,
        source_filesystem=pafs.LocalFileSystem(),
        destination_filesystem=store.fs,
    )
    run = Run.open(store / "runs" / "run")
    at("steps/epoch-0003-step-00000003.arrow")(run).delete()
    assert [name for name, _ in problems_of(run, parts=True)] == [
        "steps/epoch-0003-step-00000006.arrow"
    ]
    with pytest.raises(MissingError, match="runs/nope"):
        Run.open(store / "runs" / "nope")
