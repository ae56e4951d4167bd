"""The service while its store changes, is damaged or disappears: it survives, in bounded memory."""

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
from service.http.formats import ARROW
from service.store.catalog import Catalog
from service.store.reader import MEMORY_BYTES, StoreReader
from tests.support.serving import serving
from tests.support.stores import run_config
from tests.support.trained_run import EPOCHS, PLAN, RUN, RUN_URL, SAMPLE, STATS, STEPS, edit_json
from trainer.launch import launch


def test_the_cache_is_bounded_in_memory(store: Path) -> None:
    """Listing many long runs caches a summary of each, not the rows."""
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
    with_rows = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert listed < 2 * 2**20
    assert 2 * 2**20 < with_rows < MEMORY_BYTES


def write_large_plan(store: Path) -> None:
    """Replace the plan by one of 64 MB in 40 record batches."""
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


def test_a_client_that_disconnects_leaves_no_file_open(store: Path) -> None:
    write_large_plan(store)
    gc.disable()  # garbage collection would close the file eventually
    try:
        with serving(store) as base, httpx.Client(base_url=base) as client:
            for _ in range(3):
                with client.stream("GET", STEPS, headers={"Accept": ARROW}) as response:
                    next(response.iter_raw(2**16))
            deadline = time.monotonic() + 10
            while any(file.path.endswith(PLAN) for file in psutil.Process().open_files()):
                assert time.monotonic() < deadline
                time.sleep(0.05)
    finally:
        gc.enable()


def test_damage_in_the_middle_of_a_plan_aborts_the_stream(store: Path) -> None:
    write_large_plan(store)
    plan = store / PLAN
    with serving(store) as base, httpx.Client(base_url=base) as client:
        complete = client.get(STEPS, headers={"Accept": ARROW}).content
        assert len(pa.ipc.open_stream(complete).read_all()) == 2000
        with client.stream("GET", STEPS, headers={"Accept": ARROW}) as response:
            parts = response.iter_raw(2**16)
            next(parts)
            # truncated in place: with a memory map, the process would die of SIGBUS
            os.truncate(plan, plan.stat().st_size // 2)
            with pytest.raises(httpx.RemoteProtocolError):
                for _ in parts:
                    pass
        assert client.get("/healthz").status_code == 200
        assert client.get(STEPS).json()["status"] == 500


def test_a_missing_store_is_503_until_it_reappears(store: Path) -> None:
    with serving(store) as base, httpx.Client(base_url=base) as client:
        urls = ["/v1/runs", RUN_URL, STEPS, "/v1/features", SAMPLE, "/readyz"]
        assert {client.get(url).status_code for url in urls} == {200}
        store.rename(store.parent / "away")
        for url in urls:
            response = client.get(url)
            assert response.status_code == 503, url
            assert response.headers["content-type"] == "application/problem+json"
            assert "retry-after" in response.headers
            assert str(store) not in response.text
        assert client.get("/healthz").status_code == 200
        assert "remix_store_up 0.0" in client.get("/metrics").text
        (store.parent / "away").rename(store)
        assert {client.get(url).status_code for url in urls} == {200}
        assert "remix_store_up 1.0" in client.get("/metrics").text


def test_responses_are_consistent_while_a_run_trains(store: Path) -> None:
    """Requests during training return no error and no partial table, and see every plan."""
    config = run_config(store, name="live", train={"epochs": 6, "warmup_epochs": 2})
    trained = threading.Thread(target=launch, args=(config,))
    seen = set[int]()
    with serving(store) as base, httpx.Client(base_url=base) as client:
        trained.start()
        while trained.is_alive() or len(seen) < 6:
            response = client.get("/v1/runs/live")
            if response.status_code == 404:
                continue
            assert response.status_code == 200, response.text
            for epoch in response.json()["plans"]:
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
