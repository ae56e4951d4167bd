"""`PlanBatchSampler` of a run: its epochs, waiting for plans, and refusal to be divided again."""

import json
import os
import pickle
import platform
import shutil
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
from accelerate.data_loader import BatchSamplerShard
from lightning.fabric.utilities.data import _replace_dunder_methods
from lightning.pytorch.utilities.data import _update_dataloader
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler

from pipeline.errors import ConfigError, MissingError
from pipeline.plans.plan import BatchPlan
from remix import PlanBatchSampler
from tests.support.sampler_plans import SAMPLES, loaded, take
from tests.support.serving import serving
from tests.support.trained_run import RUN, edit_json


@pytest.fixture
def run(trained_store: Path, tmp_path: Path) -> Path:
    """A run of 4 epochs."""
    return Path(shutil.copytree(trained_store / "runs" / RUN, tmp_path / "runs" / RUN))


def rows_of(run: Path, epoch: int) -> list[list[int]]:
    plan = BatchPlan.open(run / "plans" / f"epoch-{epoch:04d}.arrow")
    return [step.rows.tolist() for step in plan.steps()]


def test_each_epoch_of_a_run_has_its_plan(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMIX_STORE", str(run.parents[1]))
    sampler = PlanBatchSampler(RUN)
    assert isinstance(sampler, BatchSampler) and sampler.epoch == 0
    loader = DataLoader(SAMPLES, batch_sampler=sampler)
    for epoch in (0, 3, 2, 2):
        sampler.set_epoch(epoch)
        assert loaded(loader) == rows_of(run, epoch)
        assert sampler.num_steps == len(rows_of(run, epoch))
    assert rows_of(run, 2) != rows_of(run, 3)
    with pytest.raises(TypeError):  # a framework would train as many steps in every epoch
        len(loader)


def test_a_resume_returns_to_the_epoch(run: Path) -> None:
    sampler = PlanBatchSampler(run)
    sampler.set_epoch(3)
    take(iter(sampler), 2)
    state = json.loads(json.dumps(sampler.state_dict()))
    for resumed in (PlanBatchSampler(run), pickle.loads(pickle.dumps(sampler))):
        resumed.load_state_dict(state)
        resumed.set_epoch(3)  # as frameworks do before every pass
        assert list(resumed) == rows_of(run, 3)[2:]
        assert list(resumed) == rows_of(run, 3)


def test_a_run_of_the_service(run: Path) -> None:
    with serving(run.parents[1]) as url:
        sampler = PlanBatchSampler(f"{url}/v1/runs/{RUN}")
        sampler.set_epoch(2)
        assert list(sampler) == rows_of(run, 2)
        with pytest.raises(MissingError, match=r"(?=.*\b7\b)(?=.*finished)"):
            sampler.set_epoch(7)
        with pytest.raises(MissingError, match="absent"):
            PlanBatchSampler(f"{url}/v1/runs/absent")


def test_a_plan_is_waited_for_while_the_run_goes_on(run: Path) -> None:
    edit_json(run / "run.json", status="running")
    plan, later = run / "plans" / "epoch-0003.arrow", run / "later.arrow"
    plan.rename(later)
    with pytest.raises(MissingError, match=r"(?=.*\b3\b)(?=.*running)"):
        PlanBatchSampler(run).set_epoch(3)
    with pytest.raises(MissingError, match=r"\b3\b"):
        PlanBatchSampler(run, wait=0.1).set_epoch(3)
    sampler = PlanBatchSampler(run, wait=True)
    threading.Timer(0.5, later.rename, [plan]).start()
    sampler.set_epoch(3)
    assert list(sampler) == rows_of(run, 3)


@pytest.mark.parametrize("status", ["finished", "failed", "interrupted"])
def test_a_run_that_has_ended_is_not_waited_for(run: Path, status: str) -> None:
    edit_json(run / "run.json", status=status)
    sampler = PlanBatchSampler(run, wait=True)
    with pytest.raises(MissingError, match=rf"(?=.*\b4\b)(?=.*{status})"):
        sampler.set_epoch(4)
    assert list(sampler) == rows_of(run, 0)


def test_a_run_whose_process_was_killed_is_not_waited_for(run: Path) -> None:
    edit_json(run / "run.json", status="running")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    owner = {"pid": ended.pid, "host": platform.node(), "since": "", "command": "remix train"}
    (run / ".lock").write_text(json.dumps(owner))
    with pytest.raises(MissingError, match=rf"\b{ended.pid}\b"):
        PlanBatchSampler(run, wait=True).set_epoch(4)
    (run / ".lock").write_text(json.dumps({**owner, "pid": os.getpid()}))
    with pytest.raises(MissingError, match="running"):
        PlanBatchSampler(run, wait=0.2).set_epoch(4)


def test_accelerate_cannot_divide_the_batches_again(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?=.*use_distributed_sampler)(?=.*num_processes=1)"):
        BatchSamplerShard(PlanBatchSampler(run), num_processes=2)


@pytest.mark.parametrize("in_hook", [False, True])
def test_lightning_cannot_replace_the_sampler(run: Path, in_hook: bool) -> None:
    """It reads other attributes of a sampler that a hook of a module has made."""
    with _replace_dunder_methods(BatchSampler) if in_hook else nullcontext():
        loader = DataLoader(SAMPLES, batch_sampler=PlanBatchSampler(run))
    with pytest.raises(ConfigError, match=r"(?=.*use_distributed_sampler)(?=.*num_processes=1)"):
        _update_dataloader(loader, DistributedSampler(SAMPLES, num_replicas=2, rank=0))


@pytest.mark.parametrize("wait", [-1, float("nan")])
def test_an_invalid_wait_is_refused(run: Path, wait: float) -> None:
    with pytest.raises(ConfigError, match=r"\bwait\b"):
        PlanBatchSampler(run, wait=wait)
