"""`remix verify` of killed, resumed and training runs: passes at any time, reports losses."""

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.plans.plan import BatchPlan
from tests.support.stores import interrupt, make_features, run_config
from tests.support.verify_edits import at, problems_of
from trainer.launch import launch
from trainer.models import checkpoint as checkpoints
from trainer.run_directory import Run
from trainer.verification.verify import verify


class KilledError(Exception):
    """Stands for a killed process."""


def test_a_run_passes_at_any_time_and_after_any_kill(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", missing=0.2)
    config = run_config(tmp_path, train={"epochs": 3, "warmup_epochs": 1})
    run, num_events = Run(config.run_path), 0
    saved: dict[str, bytes] = {}

    def watch(stop: Callable[[dict[str, Any]], bool]) -> Callable[[dict[str, Any]], None]:
        def progress(event: dict[str, Any]) -> None:
            nonlocal num_events
            num_events += 1
            assert verify(run)["problems"] == []
            if stop(event):
                raise KilledError
            if event["event"] == "step" and run.checkpoint("last").exists():
                saved["last"] = run.checkpoint("last").read_bytes()

        return progress

    with pytest.raises(KilledError):
        launch(
            config,
            progress=watch(lambda event: (event["epoch"], event.get("step")) == (1, 4)),
        )
    result = verify(run)
    assert (result["ok"], result["status"]) == (True, "failed")
    assert [each["taken"] for each in result["epochs"]] == [len(BatchPlan.open(run.plan(0))), 3]
    with pytest.raises(KilledError):
        launch(
            config,
            resume=True,
            progress=watch(lambda event: (event["event"], event["epoch"]) == ("epoch", 1)),
        )
    # as if killed between the row in epochs.arrow and the checkpoint
    run.checkpoint("last").write_bytes(saved["last"])
    assert run.epochs().num_rows == 2
    assert checkpoints.load(run.checkpoint("last"))["cursor"]["epoch"] == 1
    launch(config, resume=True, progress=watch(lambda event: False))
    assert num_events > 20
    assert verify(run)["epochs"][-1]["ok"]


def test_steps_lost_before_the_checkpoint_are_reported(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", missing=0.2)
    config = run_config(tmp_path, train={"epochs": 2, "warmup_epochs": 1})

    run = interrupt(config, epoch=1, step=4)
    lost = at("steps/epoch-0001-step-00000000.arrow")(run)
    data = lost.read_bytes()
    lost.delete()
    (said,) = [said for name, said in problems_of(run) if name == "steps"]
    assert re.search(r"(?=.*\b0\b)(?=.*\b2\b)", said)
    lost.write_bytes(data)
    run.checkpoint("last").delete()
    assert [name for name, _ in problems_of(run)] == ["checkpoints/last.pt"]


def test_a_run_can_be_verified_during_training(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", missing=0.2)
    config = run_config(
        tmp_path, train={"epochs": 6, "warmup_epochs": 2}, resources={"checkpoint_every": 1}
    )
    ended, results = threading.Event(), []

    def watch() -> None:
        while not ended.is_set():
            if (config.run_path / "run.json").exists():
                results.append(verify(Run(config.run_path)))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        launch(config)
    finally:
        ended.set()
        thread.join()
    assert [each["problems"] for each in results if not each["ok"]] == []
    assert len({len(each["epochs"]) for each in results}) > 3
