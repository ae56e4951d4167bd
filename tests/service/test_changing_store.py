"""The service over a store that is damaged amid a stream, changes, grows or goes away: the process lives, and its memory and files are bounded."""

import gc
import os
import shutil
import threading
import time
import tracemalloc
from pathlib import Path

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pytest

from pipeline.plans.plan import BatchPlan
from pipeline.storage.store_path import StorePath
from service.http.responses import ARROW
from service.store.catalog import Catalog
from service.store.reader import MEMORY_BYTES, StoreReader
from tests.support.serving import serving
from tests.support.stores import run_config
from tests.support.trained_run import EPOCHS, PLAN, RUN, RUN_URL, SAMPLE, STATS, STEPS, edit_json
from trainer.launch import launch


def test_what_is_remembered_is_bounded_in_memory(store: Path) -> None:
    """Listing many long runs keeps a little of each, not their rows."""
    table = pa.ipc.open_file((store / EPOCHS).read_bytes()).read_all()
    with pa.ipc.new_file(str(store / EPOCHS), table.schema) as writer:
        writer.write_table(pa.concat_tables([table] * 50))
    for number in range(40):
        copy = store / "runs" / f"copy-{number}"
        copy.mkdir()
        for name in ("run.json", "epochs.arrow"):
            shutil.copy(store / "runs" / RUN / name, copy / name)
    catalog = Catalog(StoreReader(str(store), None, 0))
    catalog.runs()
    tracemalloc.start()
    for name in catalog.runs():
        catalog.run(name)
    listed = tracemalloc.get_traced_memory()[0]
    for name in catalog.runs():
        catalog.epochs(name)
    whole = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert listed < 2 * 2**20
    assert 2 * 2**20 < whole < MEMORY_BYTES


def write_large_plan(store: Path) -> None:
    """64 MB in 40 record batches."""
    rng = np.random.default_rng(0)
    plan = store / PLAN
    table = BatchPlan.open(StorePath.at(plan)).table
    with pa.ipc.new_file(str(plan) + ".new", table.schema) as writer:
        for number in range(40):
            rows = pa.array([rng.integers(0, 2**40, 4000) for _ in range(50)], pa.list_(pa.int64()))
            steps = pa.array(np.arange(number * 50, number * 50 + 50), pa.int32())
            writer.write_batch(
                pa.record_batch([steps, pa.array(["touch"] * 50), rows], schema=table.schema)
            )
    os.replace(str(plan) + ".new", plan)
    edit_json(store / STATS, num_steps=2000)


def test_a_client_that_hangs_up_leaves_no_file_open(store: Path) -> None:
    write_large_plan(store)
    gc.disable()  # it would tidy up sooner or later
    try:
        with serving(store) as base, httpx.Client(base_url=base) as client:
            for _ in range(3):
                with client.stream("GET", STEPS, headers={"Accept": ARROW}) as answer:
                    next(answer.iter_raw(2**16))
            deadline = time.monotonic() + 10
            while any(file.path.endswith(PLAN) for file in psutil.Process().open_files()):
                assert time.monotonic() < deadline
                time.sleep(0.05)
    finally:
        gc.enable()


def test_a_plan_that_is_damaged_further_on_ends_the_stream_as_an_error(store: Path) -> None:
    write_large_plan(store)
    plan = store / PLAN
    with serving(store) as base, httpx.Client(base_url=base) as client:
        whole = client.get(STEPS, headers={"Accept": ARROW}).content
        assert len(pa.ipc.open_stream(whole).read_all()) == 2000
        with client.stream("GET", STEPS, headers={"Accept": ARROW}) as answer:
            parts = answer.iter_raw(2**16)
            next(parts)
            # in place: a memory map would end the process here
            os.truncate(plan, plan.stat().st_size // 2)
            with pytest.raises(httpx.RemoteProtocolError):
                for _ in parts:
                    pass
        assert client.get("/healthz").status_code == 200
        assert client.get(STEPS).json()["status"] == 500


def test_a_store_that_vanishes_is_a_503_and_comes_back_by_itself(store: Path) -> None:
    with serving(store) as base, httpx.Client(base_url=base) as client:
        urls = ["/v1/runs", RUN_URL, STEPS, "/v1/features", SAMPLE, "/readyz"]
        assert {client.get(url).status_code for url in urls} == {200}
        store.rename(store.parent / "away")
        for url in urls:
            answer = client.get(url)
            assert answer.status_code == 503, url
            assert answer.headers["content-type"] == "application/problem+json"
            assert "retry-after" in answer.headers
            assert str(store) not in answer.text
        assert client.get("/healthz").status_code == 200
        assert "remix_store_up 0.0" in client.get("/metrics").text
        (store.parent / "away").rename(store)
        assert {client.get(url).status_code for url in urls} == {200}
        assert "remix_store_up 1.0" in client.get("/metrics").text


def test_a_run_is_seen_whole_while_it_trains(store: Path) -> None:
    """Asks without pause while a run trains: no error, no partial table, and every plan is seen."""
    config = run_config(store, name="live", train={"epochs": 6, "warmup_epochs": 2})
    trained = threading.Thread(target=launch, args=(config,))
    seen = set[int]()
    with serving(store) as base, httpx.Client(base_url=base) as client:
        trained.start()
        while trained.is_alive() or len(seen) < 6:
            answer = client.get("/v1/runs/live")
            if answer.status_code == 404:
                continue
            assert answer.status_code == 200, answer.text
            for epoch in answer.json()["plans"]:
                seen.add(epoch)
                stats = client.get(f"/v1/runs/live/plans/{epoch}/stats")
                steps = client.get(f"/v1/runs/live/plans/{epoch}/steps", headers={"Accept": ARROW})
                assert (stats.status_code, steps.status_code) == (200, 200)
                table = pa.ipc.open_stream(steps.content).read_all()
                assert len(table) == stats.json()["num_steps"]
            epochs = client.get("/v1/runs/live/epochs").json()["items"]
            assert [row["epoch"] for row in epochs] == list(range(len(epochs)))
        trained.join()
        assert client.get("/v1/runs/live").json()["status"] == "finished"
