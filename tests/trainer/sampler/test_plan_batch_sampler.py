"""`PlanBatchSampler` of a file: ranks, workers, resuming, and refusal of invalid plans."""

import json
import multiprocessing
import pickle
import re
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, Sampler
from torchdata.stateful_dataloader import StatefulDataLoader

from pipeline.errors import ConfigError, DataError, MismatchError, MissingError, StoreError
from pipeline.storage.metadata import encode_metadata, read_metadata, with_metadata
from pipeline.storage.store_path import StorePath
from remix import PlanBatchSampler
from tests.support.plan_server import PlanServer, stream_of
from tests.support.sampler_plans import (
    MODALITIES,
    NUM,
    OTHER,
    PLAN,
    ROWS,
    SAMPLES,
    STEPS,
    loaded,
    take,
    write,
)


class Pairs(Dataset[tuple[int, str]]):
    """A data set whose samples are (row, modality)."""

    def __getitem__(self, item: tuple[int, str]) -> tuple[int, str]:
        return item


def test_a_loader_returns_the_batches_of_the_plan(plan_file: str) -> None:
    sampler = PlanBatchSampler(plan_file)
    assert isinstance(sampler, Sampler)
    loader = DataLoader(SAMPLES, batch_sampler=sampler)
    assert len(loader) == NUM == sampler.num_steps > 10
    assert loaded(loader) == ROWS
    assert loaded(loader) == ROWS  # the next pass is a complete one
    assert sampler.fingerprint == PLAN.fingerprint
    assert {type(row) for batch in sampler for row in batch} == {int}


@settings(max_examples=60, deadline=None)
@example(world_size=1, later=2, resume=NUM)
@given(world_size=st.integers(1, 8), later=st.integers(1, 8), resume=st.integers(0, NUM))
def test_ranks_share_each_step_and_resume_on_any_number_of_ranks(
    plan_file: str, world_size: int, later: int, resume: int
) -> None:
    samplers = [
        PlanBatchSampler(plan_file, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    passes = [iter(sampler) for sampler in samplers]
    first = [take(each, resume) for each in passes]
    states = [json.loads(json.dumps(sampler.state_dict())) for sampler in samplers]
    assert states == [{"fingerprint": PLAN.fingerprint, "step": resume}] * world_size
    resumed = [PlanBatchSampler(plan_file, rank=rank, world_size=later) for rank in range(later)]
    for sampler in resumed:
        sampler.load_state_dict(states[0])
        assert len(sampler) == NUM - resume
    rest = [list(sampler) for sampler in resumed]
    assert (
        list(chain(*next(iter(zip(*resumed, strict=True))))) == ROWS[0]
    )  # a complete pass is next
    for ranks, expected in (
        (first, list(PLAN.steps())[:resume]),
        (rest, list(PLAN.steps())[resume:]),
    ):
        for rank, batches in enumerate(ranks):
            assert batches == [step.for_rank(rank, len(ranks)).tolist() for step in expected]
            assert all(batches)
    joined = [
        list(chain(*slices)) for ranks in (first, rest) for slices in zip(*ranks, strict=True)
    ]
    assert joined == ROWS


def test_modality_per_row_or_per_step(plan_file: str) -> None:
    sampler = PlanBatchSampler(plan_file, with_modality=True)
    batches = [
        (rows.tolist(), set(names)) for rows, names in DataLoader(Pairs(), batch_sampler=sampler)
    ]
    assert batches == [(rows, {modality}) for modality, rows in STEPS]
    plain = PlanBatchSampler(plan_file)
    plain.load_state_dict(plain.state_dict(step=4))
    assert list(zip(plain.modalities, map(list, plain), strict=True)) == STEPS[4:]
    assert list(plain.modalities) == MODALITIES
    assert len(set(MODALITIES)) == 3


def test_modality_of_a_joint_plan_is_all(tmp_path: Path) -> None:
    assert set(PlanBatchSampler(write(tmp_path / "joint.arrow", OTHER.table)).modalities) == {"all"}


def test_state_of_another_plan_or_out_of_range_is_refused(plan_file: str, tmp_path: Path) -> None:
    sampler = PlanBatchSampler(plan_file)
    other = PlanBatchSampler(write(tmp_path / "other.arrow", OTHER.table))
    with pytest.raises(MismatchError, match=f"(?=.*{PLAN.fingerprint})(?=.*{OTHER.fingerprint})"):
        other.load_state_dict(sampler.state_dict())
    for step in (-1, NUM + 1, "3", None, 1.0):
        with pytest.raises(
            ConfigError, match=rf"(?=.*\bstep\b)(?=.*{re.escape(repr(step))})(?=.*\b{NUM}\b)"
        ):
            sampler.load_state_dict({"fingerprint": PLAN.fingerprint, "step": step})
    with pytest.raises(ConfigError, match=rf"(?=.*\bstep\b)(?=.*\b{NUM + 1}\b)"):
        sampler.state_dict(step=NUM + 1)
    with pytest.raises(ConfigError, match=r"\bepoch\b"):
        sampler.load_state_dict({"epoch": 3})
    assert list(sampler) == ROWS


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_and_persistent_workers(plan_file: str, start_method: str) -> None:
    sampler = PlanBatchSampler(plan_file, rank=1, world_size=2)
    slices = [step.for_rank(1, 2).tolist() for step in PLAN.steps()]
    context = multiprocessing.get_context(start_method)
    loader = DataLoader(
        SAMPLES,
        batch_sampler=sampler,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context=context,
    )
    sampler.load_state_dict(sampler.state_dict(step=5))
    assert loaded(loader) == slices[5:]
    iterator = iter(loader)
    assert [batch.tolist() for batch in take(iterator, 3)] == slices[:3]
    ahead, named = sampler.state_dict()["step"], sampler.state_dict(step=3)
    assert ahead > 3  # workers load ahead of training: the caller knows its step
    del iterator
    assert loaded(loader) == slices  # a pass that was left begins again
    sampler.load_state_dict(named)
    assert loaded(loader) == slices[3:]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_torchdata_resumes_exactly(plan_file: str, num_workers: int) -> None:
    def make() -> StatefulDataLoader[torch.Tensor]:
        return StatefulDataLoader(
            SAMPLES, batch_sampler=PlanBatchSampler(plan_file), num_workers=num_workers
        )

    def resume(state: dict[str, Any]) -> StatefulDataLoader[torch.Tensor]:
        loader = make()
        loader.load_state_dict(pickle.loads(pickle.dumps(state)))
        return loader

    for step in (0, 7, NUM):
        loader = make()
        iterator = iter(loader)
        assert [batch.tolist() for batch in take(iterator, step)] == ROWS[:step]
        again = resume(loader.state_dict())
        assert loaded(again) == ROWS[step:]
        assert loaded(again) == ROWS
    assert loaded(resume(make().state_dict())) == ROWS
    loader = make()
    assert loaded(loader) == ROWS
    assert (
        loaded(resume(loader.state_dict())) == ROWS
    )  # as in torchdata: a complete pass is followed by the next
    next_pass = iter(loader)
    assert loaded(resume(loader.state_dict())) == ROWS
    assert [batch.tolist() for batch in next_pass] == ROWS


def test_pickled_sampler_is_the_same(plan_file: str, tmp_path: Path) -> None:
    sampler = PlanBatchSampler(plan_file, rank=1, world_size=3, with_modality=True)
    take(iter(sampler), 4)
    copy = pickle.loads(pickle.dumps(sampler))
    assert copy.state_dict() == sampler.state_dict()
    assert list(copy) == list(sampler)
    file = Path(write(tmp_path / "plan.arrow", PLAN.table))
    sampler = PlanBatchSampler(StorePath.at(file))
    pickled = pickle.dumps(sampler)
    write(file, OTHER.table)
    with pytest.raises(MismatchError, match=f"(?=.*{OTHER.fingerprint})(?=.*{PLAN.fingerprint})"):
        pickle.loads(pickled)


def test_ranks_are_checked(plan_file: str) -> None:
    for rank, world_size in ((2, 2), (-1, 1), (0, 0), (1, 1), ("0", 1), (0, 1.0)):
        with pytest.raises(
            ConfigError,
            match=rf"(?=.*\brank\b)(?=.*\bworld_size\b)(?=.*{re.escape(repr(rank))})(?=.*{re.escape(repr(world_size))})",
        ):
            PlanBatchSampler(plan_file, rank, world_size)  # type: ignore[arg-type]
    smallest = min(map(len, ROWS))
    step = [len(rows) for rows in ROWS].index(smallest)
    PlanBatchSampler(plan_file, 0, smallest)
    with pytest.raises(
        ConfigError,
        match=rf"(?=.*\b{step}\b)(?=.*plan\.arrow)(?=.*\b{smallest}\b)(?=.*\b{smallest + 1}\b)",
    ):
        PlanBatchSampler(plan_file, 0, smallest + 1)


UNSIGNED = {key: value for key, value in PLAN.metadata.items() if key != "fingerprint"}
SWAPPED = with_metadata(
    PLAN.table.set_column(2, "rows", pa.array([ROWS[1], ROWS[0], *ROWS[2:]])), UNSIGNED
)
BAD_PLANS: dict[str, tuple[pa.Table, str]] = {
    "no fingerprint": (
        PLAN.table.replace_schema_metadata(encode_metadata(UNSIGNED)),
        r"\bfingerprint\b",
    ),
    "other rows": (
        SWAPPED.replace_schema_metadata(PLAN.table.schema.metadata),
        f"(?=.*{PLAN.fingerprint})(?=.*{read_metadata(SWAPPED.schema)['fingerprint']})",
    ),
    "no rows": (PLAN.table.drop_columns(["rows"]), r"\brows\b"),
}


@pytest.mark.parametrize("name", BAD_PLANS)
def test_invalid_plan_is_refused(name: str, tmp_path: Path, server: "PlanServer") -> None:
    table, message = BAD_PLANS[name]
    with pytest.raises(DataError, match=message) as error:
        PlanBatchSampler(write(tmp_path / "plan.arrow", table))
    assert str(tmp_path / "plan.arrow") in str(error.value)
    server.body = stream_of(table)
    with pytest.raises(DataError, match=message) as error:
        PlanBatchSampler(server.url)
    assert server.url in str(error.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.arrow").write_text("step,modality,rows\n")
    with pytest.raises(DataError, match=r"text\.arrow"):
        PlanBatchSampler(tmp_path / "text.arrow")
    with pytest.raises(MissingError, match=r"absent\.arrow"):
        PlanBatchSampler(tmp_path / "absent.arrow")
    with pytest.raises(StoreError, match="ftp://host/plan"):
        PlanBatchSampler("ftp://host/plan")


def test_expected_fingerprint_is_checked(plan_file: str) -> None:
    assert list(PlanBatchSampler(plan_file, fingerprint=PLAN.fingerprint)) == ROWS
    with pytest.raises(MismatchError, match=f"(?=.*{PLAN.fingerprint})(?=.*{OTHER.fingerprint})"):
        PlanBatchSampler(plan_file, fingerprint=OTHER.fingerprint)
