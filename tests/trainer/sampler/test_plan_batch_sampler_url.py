"""`PlanBatchSampler` of a URL: temporary failures are retried, others raised at once."""

import pickle
import re
import threading
import time
import tracemalloc
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from torch.utils.data import DataLoader

from pipeline.errors import (
    ConfigError,
    DataError,
    InputError,
    MismatchError,
    MissingError,
    StoreError,
)
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan
from pipeline.plans.planner import build, joint_plan_builder
from pipeline.storage.store_path import StorePath
from remix import PlanBatchSampler
from tests.support.plan_server import (
    ARROW,
    PlanHandler,
    PlanServer,
    Response,
    cut,
    cut_between_batches,
    hangs_up,
    refused,
    stream_of,
)
from tests.support.sampler_plans import NUM, PLAN, ROWS, SAMPLES, loaded, take
from tests.support.serving import serving

ROOT = Path(__file__).parents[3]

COUNTED = pa.proxy_memory_pool(pa.default_memory_pool())
"""Global, since a buffer may outlive a test."""


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


NOW = {"retry_after": "0"}
PASSING: dict[str, list[Response]] = {
    "503 twice": [refused(503, "the store is not there", **NOW)] * 2,
    "429, 504, 502": [
        refused(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
        refused(504, **NOW),
        refused(502, **NOW),
    ],
    "cut": [cut(0.5, announced=True)],
    "cut without length": [cut(0.5, announced=False)],
    "empty": [cut(0.0, announced=False)],
    "cut between batches": [cut_between_batches],
    "hangs up": [hangs_up],
}


@pytest.mark.parametrize("name", PASSING)
def test_temporary_failures_are_retried(server: PlanServer, name: str) -> None:
    server.responses = list(PASSING[name])
    assert list(PlanBatchSampler(server.url)) == ROWS
    assert len(server.seen) == len(PASSING[name]) + 1


def test_retry_after_is_respected(server: PlanServer) -> None:
    server.responses = [refused(503, "come back", retry_after="1")]
    start = time.monotonic()
    PlanBatchSampler(server.url)
    assert time.monotonic() - start >= 1  # the default wait is half as long


def test_retries_are_limited(server: PlanServer) -> None:
    server.responses = [refused(503, "the store is not there", retry_after="0")] * 9
    with pytest.raises(
        StoreError,
        match=rf"(?=.*{re.escape(server.url)})(?=.*\b503\b)(?=.*the store is not there)(?=.*\b4\b)",
    ):
        PlanBatchSampler(server.url, retries=3)
    assert len(server.seen) == 4
    server.responses = [cut(0.3, announced=True)]
    with pytest.raises(StoreError, match=rf"(?=.*{re.escape(server.url)})(?=.*(?<![.\w])1\b)"):
        PlanBatchSampler(server.url, retries=0)


def test_a_silent_service_times_out(server: PlanServer) -> None:
    done = threading.Event()
    server.responses = [lambda _: done.wait() and None]  # type: ignore[list-item]
    with pytest.raises(StoreError, match=rf"(?=.*{re.escape(server.url)})(?=.*(?<![.\w])1\b)"):
        PlanBatchSampler(server.url, retries=0, timeout=0.05)
    done.set()


def test_refused_connection() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), PlanHandler) as free:
        url = f"http://127.0.0.1:{free.server_port}/v1/runs/demo/plans/2"
    with pytest.raises(StoreError, match=rf"(?=.*{re.escape(url)}/steps)(?=.*(?<![/.\w])2\b)"):
        PlanBatchSampler(url, retries=1)


@pytest.mark.parametrize(
    ("status", "detail", "kind", "names"),
    [
        (404, "there is no run 'demo'", MissingError, "404"),
        (401, "a token is needed", ConfigError, "REMIX_TOKEN"),
        (403, "not yours", ConfigError, "403"),
        (409, "plan and scores", MismatchError, "409"),
        (422, "the plan is damaged", InputError, "422"),
        (400, None, StoreError, "400"),
        (200, None, DataError, "text/html"),
    ],
)
def test_permanent_failures_are_raised_at_once(
    server: PlanServer, status: int, detail: str | None, kind: type[InputError], names: str
) -> None:
    server.responses = [refused(status, detail)]
    with pytest.raises(kind) as error:
        PlanBatchSampler(server.url)
    assert all(word in str(error.value) for word in (server.url, names, detail or ""))
    assert len(server.seen) == 1


def test_invalid_offsets_are_refused(server: PlanServer) -> None:
    offsets = np.array([0, *np.cumsum([len(rows) for rows in ROWS[:3]])], np.int32).tobytes()
    at = server.body.index(offsets)
    server.body = server.body[: at + 4] + np.int32(2**30).tobytes() + server.body[at + 8 :]
    with pytest.raises(DataError, match=re.escape(server.url)):
        PlanBatchSampler(server.url)


def test_the_token_is_sent_but_never_shown(
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
    server.responses = [refused(404, "gone")]
    with pytest.raises(MissingError) as error:
        PlanBatchSampler(
            server.url.replace("http://", "http://user:secret@") + "?signature=secret",
            token="secret",
        )
    assert "secret" not in str(error.value)


def test_invalid_urls_and_settings_are_refused(server: PlanServer) -> None:
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


def test_memory_is_that_of_a_record_batch(server: PlanServer) -> None:
    plan = build(joint_plan_builder(np.arange(2_000_000), 64, 0, 0))
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
    plan = BatchPlan.open(StorePath.at(trained_store / REMIXED / "epoch-0003.arrow"))
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
    monkeypatch.delenv("REMIX_STORE", raising=False)
    names: dict[str, Any] = {"__name__": "readme"}
    with serving(trained_store) as url:
        exec(
            compile(
                re.sub(r'"http://[^"]+"', f'"{url}/v1/{REMIXED}/3"', code), "README.md", "exec"
            ),
            names,
        )
    plan = BatchPlan.open(StorePath.at(trained_store / REMIXED / "epoch-0003.arrow"))
    assert names["sampler"].state_dict() == {"fingerprint": plan.fingerprint, "step": len(plan)}
    assert (
        names["batch"]["label"].tolist()
        == FeatureSet.open(StorePath.at(trained_store / "features" / "made"))
        .labels[list(plan.steps())[-1].rows]
        .tolist()
    )
