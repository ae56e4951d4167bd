import json
import multiprocessing
import pickle
import re
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, Sampler
from torchdata.stateful_dataloader import StatefulDataLoader

from pipeline.config import PlanConfig
from pipeline.errors import (
    ConfigError,
    DataError,
    InputError,
    MismatchError,
    MissingError,
    StoreError,
)
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan, joint_plan, remix_plan
from pipeline.scores.table import Scores
from pipeline.storage.schemas import encode_metadata, read_metadata, with_metadata
from pipeline.storage.store_path import Place
from tests.support.plan_tables import arithmetic_costs, scores_table
from tests.support.serving import serving
from trainer import PlanBatchSampler

ROOT = Path(__file__).parents[3]
ARROW = "application/vnd.apache.arrow.stream"
PLAN = remix_plan(
    Scores(scores_table(arithmetic_costs(200, 3))), PlanConfig(order="interleaved"), 16, 5, 2
)
STEPS = [(step.modality, step.rows.tolist()) for step in PLAN.steps()]
ROWS = [rows for _, rows in STEPS]
MODALITIES = [modality for modality, _ in STEPS]
NUM = len(PLAN)
OTHER = joint_plan(np.arange(200), 16, 5, 2)
SAMPLES: Any = range(200)
"""A data set in which a sample is its row."""
COUNTED = pa.proxy_memory_pool(pa.default_memory_pool())
"""Lives as long as the process, since a buffer may outlive a test."""


class Pairs(Dataset[tuple[int, str]]):
    """A sample is its row and the modality that it trains."""

    def __getitem__(self, item: tuple[int, str]) -> tuple[int, str]:
        return item


def write(path: Path, table: pa.Table, chunk: int = 3) -> str:
    """A plan file of small record batches, so that a few steps lie in many of them."""
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=chunk)
    return str(path)


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("plan") / "plan.arrow", PLAN.table)


def loaded(loader: DataLoader[torch.Tensor]) -> list[list[int]]:
    return [batch.tolist() for batch in loader]


def take(iterator: Iterator[Any], num: int) -> list[Any]:
    return [next(iterator) for _ in range(num)]


def test_a_loader_takes_the_plan_as_it_is(plan_file: str) -> None:
    sampler = PlanBatchSampler(plan_file)
    assert isinstance(sampler, Sampler)
    loader = DataLoader(SAMPLES, batch_sampler=sampler)
    assert len(loader) == NUM == sampler.num_steps > 10
    assert loaded(loader) == ROWS
    assert loaded(loader) == ROWS  # the next pass is a whole one
    assert sampler.fingerprint == PLAN.fingerprint
    assert {type(row) for batch in sampler for row in batch} == {int}


@settings(max_examples=60, deadline=None)
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


def test_modality_comes_with_each_row_or_beside_the_batches(plan_file: str) -> None:
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


def test_warm_up_is_a_plan_of_all(tmp_path: Path) -> None:
    assert set(PlanBatchSampler(write(tmp_path / "joint.arrow", OTHER.table)).modalities) == {"all"}


def test_a_state_is_of_one_plan_and_in_its_range(plan_file: str, tmp_path: Path) -> None:
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


def test_a_finished_plan_resumes_to_an_empty_pass(plan_file: str) -> None:
    sampler = PlanBatchSampler(plan_file)
    assert list(sampler) == ROWS
    state = sampler.state_dict()
    assert state["step"] == NUM
    sampler = PlanBatchSampler(plan_file)
    sampler.load_state_dict(state)
    loader = DataLoader(SAMPLES, batch_sampler=sampler)
    assert len(loader) == 0
    assert loaded(loader) == []
    assert loaded(loader) == ROWS


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
    )  # as torchdata has it: after a whole pass comes the next
    next_pass = iter(loader)
    assert loaded(resume(loader.state_dict())) == ROWS
    assert [batch.tolist() for batch in next_pass] == ROWS


def test_torchdata_refuses_another_plan(plan_file: str, tmp_path: Path) -> None:
    loader = StatefulDataLoader(SAMPLES, batch_sampler=PlanBatchSampler(plan_file))
    next(iter(loader))
    other = StatefulDataLoader(
        SAMPLES, batch_sampler=PlanBatchSampler(write(tmp_path / "other.arrow", OTHER.table))
    )
    other.load_state_dict(loader.state_dict())
    with pytest.raises(MismatchError, match=OTHER.fingerprint):
        iter(other)


def test_pickled_it_is_the_same(plan_file: str, tmp_path: Path) -> None:
    sampler = PlanBatchSampler(plan_file, rank=1, world_size=3, with_modality=True)
    take(iter(sampler), 4)
    copy = pickle.loads(pickle.dumps(sampler))
    assert copy.state_dict() == sampler.state_dict()
    assert list(copy) == list(sampler)
    file = Path(write(tmp_path / "plan.arrow", PLAN.table))
    sampler = PlanBatchSampler(Place.at(file))
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


def column(name: str, values: Any) -> pa.Table:
    """The plan with one column replaced, its fingerprint that of what it now has."""
    at = PLAN.table.schema.names.index(name)
    table = PLAN.table.set_column(
        at, PLAN.table.schema.field(at), pa.array(values, PLAN.table.schema.field(at).type)
    )
    return with_metadata(
        table, {key: value for key, value in PLAN.metadata.items() if key != "fingerprint"}
    )


BARE = PLAN.table.replace_schema_metadata(
    encode_metadata({key: value for key, value in PLAN.metadata.items() if key != "fingerprint"})
)
SWAPPED = column("rows", [ROWS[1], ROWS[0], *ROWS[2:]])
BAD_PLANS: dict[str, tuple[pa.Table, str]] = {
    "no fingerprint": (BARE, r"\bfingerprint\b"),
    "other rows": (
        SWAPPED.replace_schema_metadata(PLAN.table.schema.metadata),
        f"(?=.*{PLAN.fingerprint})(?=.*{read_metadata(SWAPPED.schema)['fingerprint']})",
    ),
    "other metadata": (
        PLAN.table.replace_schema_metadata(PLAN.table.schema.metadata | {b"remix.seed": b"6"}),
        PLAN.fingerprint,
    ),
    "a step missing": (
        column("step", [0, 1, 2, 3, *range(5, NUM + 1)]),
        r"(?=.*\bstep\b)(?=.*\b5\b)(?=.*\b4\b)",
    ),
    "from one": (column("step", range(1, NUM + 1)), r"(?=.*\bstep\b)(?=.*\b1\b)(?=.*\b0\b)"),
    "null modality": (
        PLAN.table.set_column(1, "modality", pa.array([None, *MODALITIES[1:]])),
        r"\bmodality\b",
    ),
    "null row": (
        PLAN.table.set_column(2, "rows", pa.array([[None], *ROWS[1:]], pa.list_(pa.int64()))),
        r"\brows\b",
    ),
    "no rows": (PLAN.table.drop_columns(["rows"]), r"\brows\b"),
    "other type": (
        PLAN.table.set_column(0, "step", pa.array(range(NUM), pa.int64())),
        r"(?=.*\bstep\b)(?=.*\bint64\b)(?=.*\bint32\b)",
    ),
}


@pytest.mark.parametrize("name", BAD_PLANS)
def test_a_plan_that_is_not_what_it_says_is_refused(
    name: str, tmp_path: Path, server: "PlanServer"
) -> None:
    table, message = BAD_PLANS[name]
    with pytest.raises(DataError, match=message) as error:
        PlanBatchSampler(write(tmp_path / "plan.arrow", table))
    assert str(tmp_path / "plan.arrow") in str(error.value)
    server.body = stream_of(table)
    with pytest.raises(DataError, match=message) as error:
        PlanBatchSampler(server.url)
    assert server.url in str(error.value)


def test_other_files_are_refused(plan_file: str, tmp_path: Path) -> None:
    (tmp_path / "text.arrow").write_text("step,modality,rows\n")
    whole = bytearray(Path(plan_file).read_bytes())
    (tmp_path / "cut.arrow").write_bytes(whole[: len(whole) // 2])
    offsets = np.array([0, *np.cumsum([len(rows) for rows in ROWS[:3]])], np.int32).tobytes()
    at = whole.index(offsets)
    whole[at + 4 : at + 8] = np.int32(2**30).tobytes()
    (tmp_path / "offsets.arrow").write_bytes(whole)
    for name in ("text", "cut", "offsets"):
        with pytest.raises(DataError, match=rf"{name}\.arrow"):
            PlanBatchSampler(tmp_path / f"{name}.arrow")
    with pytest.raises(MissingError, match=r"absent\.arrow"):
        PlanBatchSampler(tmp_path / "absent.arrow")
    with pytest.raises(StoreError, match="ftp://host/plan"):
        PlanBatchSampler("ftp://host/plan")


def test_the_expected_fingerprint_is_the_one(plan_file: str) -> None:
    assert list(PlanBatchSampler(plan_file, fingerprint=PLAN.fingerprint)) == ROWS
    with pytest.raises(MismatchError, match=f"(?=.*{PLAN.fingerprint})(?=.*{OTHER.fingerprint})"):
        PlanBatchSampler(plan_file, fingerprint=OTHER.fingerprint)


def stream_of(table: pa.Table, chunk: int = 3) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=chunk)
    return bytes(sink.getvalue())


Answer = Callable[["PlanHandler"], None]


class PlanHandler(BaseHTTPRequestHandler):
    """Answers as the test has laid down, and else with the plan."""

    protocol_version = "HTTP/1.1"
    server: "PlanServer"

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))
        (self.server.answers.pop(0) if self.server.answers else whole)(self)

    def head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"content_type": ARROW} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class PlanServer(ThreadingHTTPServer):
    """A plan over real HTTP, with the failures that a network has."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), PlanHandler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1/runs/demo/plans/2/steps"
        self.body = stream_of(PLAN.table)
        self.answers: list[Answer] = []
        self.seen: list[tuple[str, dict[str, str]]] = []


def whole(handler: PlanHandler) -> None:
    handler.head(200, content_length=str(len(handler.server.body)))
    handler.wfile.write(handler.server.body)


def refused(status: int, detail: str | None = None, **headers: str) -> Answer:
    def send(handler: PlanHandler) -> None:
        body = (
            b"<p>no</p>"
            if detail is None
            else json.dumps({"type": "about:blank", "status": status, "detail": detail}).encode()
        )
        kind = "text/html" if detail is None else "application/problem+json"
        handler.head(status, content_type=kind, content_length=str(len(body)), **headers)
        handler.wfile.write(body)

    return send


def cut(share: float, *, announced: bool) -> Answer:
    """A part of the body; with its length announced, or until the connection closes."""

    def send(handler: PlanHandler) -> None:
        body = handler.server.body
        handler.head(
            200, **({"content_length": str(len(body))} if announced else {"connection": "close"})
        )
        handler.wfile.write(body[: int(len(body) * share)])
        handler.close_connection = True

    return send


def cut_between_batches(handler: PlanHandler) -> None:
    handler.head(200, connection="close")
    handler.wfile.write(handler.server.body[:-8])  # all but the end-of-stream mark
    handler.close_connection = True


def hangs_up(handler: PlanHandler) -> None:
    handler.close_connection = True


@pytest.fixture
def server() -> Iterator[PlanServer]:
    with PlanServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("ending", ["/steps", "", "/", "/steps/"])
def test_a_plan_comes_from_a_url(
    server: PlanServer, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REMIX_TOKEN", raising=False)
    sampler = PlanBatchSampler(server.url.removesuffix("/steps") + ending, rank=1, world_size=2)
    assert loaded(DataLoader(SAMPLES, batch_sampler=sampler)) == [
        step.for_rank(1, 2).tolist() for step in PLAN.steps()
    ]
    sampler.load_state_dict(sampler.state_dict(step=NUM - 2))
    assert (
        loaded(DataLoader(SAMPLES, batch_sampler=sampler))
        == [step.for_rank(1, 2).tolist() for step in PLAN.steps()][-2:]
    )
    [(path, headers)] = server.seen
    assert path == "/v1/runs/demo/plans/2/steps"
    assert headers["Accept"] == ARROW
    assert "Authorization" not in headers


def test_a_sampler_of_a_url_can_be_pickled(server: PlanServer) -> None:
    sampler = PlanBatchSampler(server.url)
    take(iter(sampler), 3)
    copy = pickle.loads(pickle.dumps(sampler))
    assert copy.state_dict() == sampler.state_dict()
    assert list(copy) == ROWS


@pytest.mark.parametrize(
    "answers",
    [
        [
            refused(503, "the store is not there", retry_after="0"),
            refused(503, "the store is not there", retry_after="0"),
        ],
        [
            refused(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
            refused(504, retry_after="0"),
            refused(502, retry_after="0"),
        ],
        [cut(0.5, announced=True)],
        [cut(0.5, announced=False)],
        [cut(0.0, announced=False)],
        [cut_between_batches],
        [hangs_up],
    ],
    ids=[
        "503 twice",
        "429, 504, 502",
        "cut",
        "cut without length",
        "empty",
        "cut between batches",
        "hangs up",
    ],
)
def test_what_may_pass_is_tried_again(server: PlanServer, answers: list[Answer]) -> None:
    server.answers = list(answers)
    assert list(PlanBatchSampler(server.url)) == ROWS
    assert len(server.seen) == len(answers) + 1


def test_the_service_says_how_long_to_wait(server: PlanServer) -> None:
    server.answers = [refused(503, "come back", retry_after="1")]
    start = time.monotonic()
    PlanBatchSampler(server.url)
    assert time.monotonic() - start >= 1  # by itself it would wait half as long


def test_attempts_end(server: PlanServer) -> None:
    server.answers = [refused(503, "the store is not there", retry_after="0")] * 9
    with pytest.raises(
        StoreError,
        match=rf"(?=.*{re.escape(server.url)})(?=.*\b503\b)(?=.*the store is not there)(?=.*\b4\b)",
    ):
        PlanBatchSampler(server.url, retries=3)
    assert len(server.seen) == 4
    server.answers = [cut(0.3, announced=True)]
    with pytest.raises(StoreError, match=rf"(?=.*{re.escape(server.url)})(?=.*(?<![.\w])1\b)"):
        PlanBatchSampler(server.url, retries=0)


def test_a_silent_service_is_given_up(server: PlanServer) -> None:
    done = threading.Event()
    server.answers = [lambda _: done.wait() and None]  # type: ignore[list-item]
    with pytest.raises(StoreError, match=rf"(?=.*{re.escape(server.url)})(?=.*(?<![.\w])1\b)"):
        PlanBatchSampler(server.url, retries=0, timeout=0.05)
    done.set()


def test_nobody_there() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), PlanHandler) as free:
        url = f"http://127.0.0.1:{free.server_port}/v1/runs/demo/plans/2"
    with pytest.raises(StoreError, match=rf"(?=.*{re.escape(url)}/steps)(?=.*(?<![/.\w])2\b)"):
        PlanBatchSampler(url, retries=1)


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (
            refused(404, "there is no run 'demo'"),
            MissingError,
            r"(?=.*\b404\b)(?=.*there is no run 'demo')",
        ),
        (
            refused(401, "a token is needed"),
            ConfigError,
            r"(?=.*\b401\b)(?=.*a token is needed)(?=.*REMIX_TOKEN)",
        ),
        (refused(403, "not yours"), ConfigError, r"(?=.*\b403\b)(?=.*not yours)"),
        (refused(409, "plan and scores"), MismatchError, r"(?=.*\b409\b)(?=.*plan and scores)"),
        (
            refused(422, "the plan is damaged"),
            InputError,
            r"(?=.*\b422\b)(?=.*the plan is damaged)",
        ),
        (refused(400), StoreError, r"\b400\b"),
        (refused(200), DataError, r"(?=.*text/html)(?=.*application/vnd\.apache\.arrow\.stream)"),
    ],
)
def test_what_stays_wrong_is_told_at_once(
    server: PlanServer, answer: Answer, kind: type[InputError], message: str
) -> None:
    server.answers = [answer]
    with pytest.raises(kind, match=message) as error:
        PlanBatchSampler(server.url)
    assert server.url in str(error.value)
    assert len(server.seen) == 1


def test_offsets_that_point_nowhere_are_refused(server: PlanServer) -> None:
    offsets = np.array([0, *np.cumsum([len(rows) for rows in ROWS[:3]])], np.int32).tobytes()
    at = server.body.index(offsets)
    server.body = server.body[: at + 4] + np.int32(2**30).tobytes() + server.body[at + 8 :]
    with pytest.raises(DataError, match=re.escape(server.url)):
        PlanBatchSampler(server.url)


def test_the_token_is_sent_and_never_shown(
    server: PlanServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMIX_TOKEN", "from-environment\n")
    PlanBatchSampler(server.url)
    PlanBatchSampler(server.url, token="given")
    assert [headers["Authorization"] for _, headers in server.seen] == [
        "Bearer from-environment",
        "Bearer given",
    ]
    for token in ("two\nlines", "naïve"):
        with pytest.raises(ConfigError, match="token") as error:
            PlanBatchSampler(server.url, token=token)
        assert token not in str(error.value)
    server.answers = [refused(404, "gone")]
    with pytest.raises(MissingError) as error:
        PlanBatchSampler(
            server.url.replace("http://", "http://user:secret@") + "?signature=secret",
            token="secret",
        )
    assert "secret" not in str(error.value)


def test_odd_urls_and_settings_are_refused(server: PlanServer) -> None:
    for url in (
        "http://",
        "http://[::1/plans/1",
        "http://host:port/plans/1",
        "http://127.0.0.1:1\x00/plans/1",
    ):
        with pytest.raises(StoreError, match="http://"):
            PlanBatchSampler(url, retries=0)
    for name, value in (("retries", -1), ("timeout", 0.0)):
        with pytest.raises(ConfigError, match=rf"(?=.*\b{name}\b)(?=.*(?<!\w){value})"):
            PlanBatchSampler(server.url, **{name: value})  # type: ignore[arg-type]
    assert server.seen == []


def test_another_plan_at_the_url_is_refused(server: PlanServer) -> None:
    with pytest.raises(
        MismatchError,
        match=f"(?=.*{re.escape(server.url)})(?=.*{PLAN.fingerprint})(?=.*{OTHER.fingerprint})",
    ):
        PlanBatchSampler(server.url, fingerprint=OTHER.fingerprint)


def test_memory_holds_a_record_batch_of_the_plan(server: PlanServer) -> None:
    plan = joint_plan(np.arange(2_000_000), 64, 0, 0)
    server.body = stream_of(plan.table, 500)  # 16 MB in batches of a quarter
    expected = hash(tuple(int(step.rows[0]) for step in plan.steps()))
    default = pa.default_memory_pool()
    pa.set_memory_pool(COUNTED)
    tracemalloc.start()
    try:
        sampler = PlanBatchSampler(server.url, 0, 60)
        assert hash(tuple(rows[0] for rows in sampler)) == expected
        peak = tracemalloc.get_traced_memory()[1] + COUNTED.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(default)
    assert peak < 6e6 < 16e6 < len(server.body)


REMIXED = "runs/demo-remix-seed0/plans"


def test_the_service_serves_plans_to_a_loader(
    trained_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REMIX_TOKEN", raising=False)
    plan = BatchPlan.open(Place.at(trained_store / REMIXED / "epoch-0003.arrow"))
    with serving(trained_store, token="secret") as url:
        for rank in range(3):
            sampler = PlanBatchSampler(
                f"{url}/v1/{REMIXED}/3",
                rank,
                3,
                token="secret",
                fingerprint=plan.fingerprint,
                with_modality=True,
            )
            assert list(sampler) == [
                [(row, step.modality) for row in step.for_rank(rank, 3).tolist()]
                for step in plan.steps()
            ]
        with pytest.raises(MissingError, match=r"(?=.*plans/77/steps)(?=.*\b404\b)"):
            PlanBatchSampler(f"{url}/v1/{REMIXED}/77", token="secret")
        with pytest.raises(ConfigError, match=r"(?=.*\b401\b)(?=.*REMIX_TOKEN)"):
            PlanBatchSampler(f"{url}/v1/{REMIXED}/3")


def test_the_example_of_the_readme_runs(
    trained_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [code] = [
        block
        for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        if "PlanBatchSampler" in block
    ]
    (tmp_path / "store" / "features").mkdir(parents=True)
    (tmp_path / "store" / "features" / "demo").symlink_to(trained_store / "features" / "made")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REMIX_TOKEN", raising=False)
    names: dict[str, Any] = {"__name__": "readme"}
    with serving(trained_store) as url:
        exec(
            compile(
                re.sub(r'"http://[^"]+"', f'"{url}/v1/{REMIXED}/3"', code), "README.md", "exec"
            ),
            names,
        )
    plan = BatchPlan.open(Place.at(trained_store / REMIXED / "epoch-0003.arrow"))
    assert names["sampler"].state_dict() == {"fingerprint": plan.fingerprint, "step": len(plan)}
    assert (
        names["batch"].tolist()
        == FeatureSet.open(Place.at(trained_store / "features" / "made"))
        .labels[list(plan.steps())[-1].rows]
        .tolist()
    )
