"""The service over a damaged or hostile store: errors name the artifact, the rest is served."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import httpx
import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from pipeline.storage.store_path import StorePath
from service.http.formats import ARROW
from service.store.metrics import StoreCollector
from service.store.reader import StoreReader
from tests.support.serving import serving
from tests.support.trained_run import (
    EPOCHS,
    FEATURES,
    HISTOGRAM,
    INDEX,
    JSON,
    MANIFEST,
    PLAN,
    PLAN_URL,
    RUN,
    RUN_URL,
    SAMPLE,
    SCORES,
    STATS,
    STEPS,
    bad_offsets,
    cut,
    edit_json,
)

Damage = Callable[[Path], object]


def with_nulls(path: Path) -> None:
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    columns = [pa.nulls(len(table), field.type) for field in table.schema]
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(pa.table(columns, schema=table.schema))


def link_to(target: str) -> Damage:
    def replace(path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        path.symlink_to(target)

    return replace


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def with_step(step: int) -> Damage:
    def replace(path: Path) -> None:
        table = pa.ipc.open_file(path.read_bytes()).read_all()
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(
                pa.table([pa.array([step] * len(table), pa.int32())], schema=table.schema)
            )

    return replace


def endless(path: Path) -> None:
    """Infinity is a number for Python, but not in JSON."""
    stats = json.loads(path.read_text())
    stats["batch_sizes"]["counts"] = {}
    stats["histograms"]["touch"]["kl"]["edges"] = [float("inf")]
    path.write_text(json.dumps(stats))


def written(data: bytes) -> Damage:
    return lambda path: path.write_bytes(data)


def edited(**changes: Any) -> Damage:
    return lambda path: edit_json(path, **changes)


def copied(name: str) -> Damage:
    return lambda path: shutil.copy(path.parent / name, path)


STATS_URL, COMPARISON = f"{PLAN_URL}/stats", "/v1/comparisons/demo"
NOISE = written(b"ARROW1" + os.urandom(4000) + b"ARROW1")
GONE, ABROAD = Path.unlink, link_to("/etc/hostname")
SAMPLES, TABLE = "features/made/samples.arrow", "comparisons/demo/table.json"
DAMAGES: list[tuple[str, str, list[Damage]]] = [
    (PLAN, STEPS, [bad_offsets, with_nulls, cut, written(b""), NOISE, fifo]),
    (PLAN, STEPS, [link_to("/etc/passwd"), link_to("/etc"), copied("../epochs.arrow")]),
    (PLAN, PLAN_URL, [cut]),
    (STATS, STATS_URL, [written(b"{"), written(b"[" * 100_000), edited(num_steps=7)]),
    (STATS, STATS_URL, [endless, GONE, ABROAD]),
    (STATS, PLAN_URL, [edited(modalities={"x": 1})]),
    (INDEX, SAMPLE, [with_nulls, cut, GONE, copied("epoch-0000.index.arrow")]),
    (SCORES, SAMPLE, [with_nulls]),
    (SCORES, HISTOGRAM, [cut]),
    (EPOCHS, f"{RUN_URL}/epochs", [cut, with_nulls]),
    (JSON, RUN_URL, [edited(status="dancing"), edited(config={"train": {"epochs": "many"}})]),
    (JSON, RUN_URL, [written(b"\xff\xfe\x00"), fifo]),
    (MANIFEST, FEATURES, [edited(num_rows=10**12), edited(modalities="none")]),
    (MANIFEST, SAMPLE, [edited(parts=[]), edited(classes=[])]),
    ("features/made/ids.arrow", SAMPLE, [with_nulls]),
    (SAMPLES, SAMPLE, [cut]),
    (TABLE, COMPARISON, [edited(methods={})]),
    ("comparisons/demo/curves.arrow", f"{COMPARISON}/curves", [cut]),
    (f"runs/{RUN}", RUN_URL, [link_to("/etc")]),
]
CASES = [
    (file, damage, url, Path(file).name) for file, url, damages in DAMAGES for damage in damages
]
CASES += [
    (PLAN, copied("epoch-0000.arrow"), STATS_URL, "epoch-0002.stats.json"),
    (INDEX, with_step(-1000), SAMPLE, "epoch-0002.arrow"),
    (MANIFEST, edited(fingerprint="f" * 64), SAMPLE, "made"),
    (SAMPLES, with_nulls, SAMPLE, "s"),
]
"""Damage whose error names another file than the damaged one."""


@pytest.fixture(scope="module")
def served(
    trained_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, httpx.Client]]:
    """One process for all cases: a cached damaged file must not outlive the damage."""
    copy = tmp_path_factory.mktemp("hostile") / "store"
    shutil.copytree(trained_store, copy)
    with serving(copy) as base, httpx.Client(base_url=base, timeout=10) as client:
        yield copy, client


@pytest.mark.parametrize(
    ("file", "damage", "url", "named"),
    CASES,
    ids=[f"{n}-{Path(case[0]).name}" for n, case in enumerate(CASES)],
)
def test_damage_is_named_and_the_rest_is_served(
    served: tuple[Path, httpx.Client],
    tmp_path: Path,
    file: str,
    damage: Damage,
    url: str,
    named: str,
) -> None:
    store, client = served
    assert client.get(url).status_code == 200
    damaged, kept = store / file, tmp_path / "kept"
    copy = shutil.copytree if damaged.is_dir() else shutil.copy2
    copy(damaged, kept)
    damage(damaged)
    try:
        for accept in ("application/json", ARROW):
            response = client.get(url, headers={"Accept": accept})
            assert 400 <= response.status_code < 600, response.text
            assert response.headers["content-type"] == "application/problem+json"
            body = response.json()
            assert named in body["detail"]
            assert body["request_id"] not in body["detail"], "internal error"
            assert not any(secret in response.text for secret in (str(store), "/etc", "root:"))
        # the rest of the store
        assert client.get("/readyz").status_code == 200
        assert "remix_store_up 1.0" in client.get("/metrics").text
        assert "demo-joint-seed0" in client.get("/v1/runs").text
        other = "/v1/runs/demo-joint-seed0/plans"
        for path in ("/v1/features", "/v1/comparisons", other, f"{other}/2/steps"):
            assert client.get(path).status_code == 200
        if file.startswith(f"runs/{RUN}/plans"):
            assert client.get(f"{RUN_URL}/plans/3/steps").status_code == 200
            plans = client.get(f"{RUN_URL}/plans").json()["items"]
            assert [item["epoch"] for item in plans] == [0, 1, 2, 3]
    finally:
        if damaged.is_symlink() or damaged.exists():
            damaged.unlink()
        copy(kept, damaged)
    assert client.get(url).status_code == 200


def test_a_damaged_run_is_listed_with_status_damaged(store: Path) -> None:
    (store / JSON).write_text("{}")
    cut(store / PLAN)
    with serving(store) as base, httpx.Client(base_url=base) as client:
        items = client.get("/v1/runs").json()["items"]
        assert [(item["name"], item["status"]) for item in items] == [
            ("demo-joint-seed0", "finished"),
            (RUN, "damaged"),
            ("demo-unimodal-seed0", "finished"),
        ]
        assert "run.json" in items[1]["error"]
        problem = client.get(f"/v1/runs/{RUN}").json()
        assert (problem["status"], problem["type"]) == (500, "urn:remix:damaged")
        assert problem["title"] != "Internal Server Error" and "run.json" in problem["detail"]
        shutil.copy(store / "runs" / "demo-joint-seed0" / "run.json", store / JSON)
        plans = client.get(f"/v1/runs/{RUN}/plans").json()["items"]
        assert [plan.get("status") for plan in plans] == [None, None, "damaged", None]


@pytest.mark.parametrize(
    "folder", ["runs", f"runs/{RUN}", f"runs/{RUN}/plans", "features", "comparisons"]
)
def test_undecodable_names_and_circular_links_hide_no_artifacts(store: Path, folder: str) -> None:
    (store / folder / os.fsdecode(b"\xff\xfe")).mkdir()
    (store / folder / "loop").symlink_to("loop")
    with serving(store) as base, httpx.Client(base_url=base) as client:
        lists = ["/v1/features", "/v1/runs", "/v1/comparisons", f"{RUN_URL}/plans"]
        for path in (*lists, RUN_URL, STEPS, SAMPLE):
            assert client.get(path).status_code == 200, path
        runs = client.get("/v1/runs").json()["items"]
        assert [item["status"] for item in runs].count("finished") == 3
        assert "remix_plans 12.0" in client.get("/metrics").text


def test_a_scrape_reads_the_same_number_of_files_for_any_number_of_plans(store: Path) -> None:
    requests: list[object] = []

    class Counting(pafs.LocalFileSystem):
        def get_file_info(self, paths: object) -> object:
            requests.append(paths)
            return super().get_file_info(paths)

    collector = StoreCollector(StoreReader(StorePath(Counting(), str(store)), None, 0))

    def scrape() -> tuple[int, dict[str, float]]:
        requests.clear()
        gauges = {metric.name: metric.samples[0].value for metric in collector.collect()}
        return len(requests), gauges

    scrape()
    num_requests, gauges = scrape()
    assert (gauges["remix_plans"], gauges["remix_newest_plan_epoch"]) == (12, 3)
    plans = store / "runs" / RUN / "plans"
    for epoch in range(4, 40):
        for end in ("arrow", "stats.json"):
            shutil.copy(plans / f"epoch-0003.{end}", plans / f"epoch-{epoch:04d}.{end}")
    scrape()
    assert scrape()[0] == num_requests < 20
    assert scrape()[1] == gauges | {
        "remix_plans": 48,
        "remix_newest_plan_epoch": 39,
        "remix_newest_plan_age_seconds": ANY,
    }


def test_metrics_omit_numbers_that_are_too_large(store: Path) -> None:
    stats = store / "runs" / RUN / "plans" / "epoch-0003.stats.json"
    values = json.loads(stats.read_text())
    values["modalities"]["touch"]["num_rows"] = 10**400
    stats.write_text(json.dumps(values))
    os.utime(store / "runs" / RUN / "plans" / "epoch-0003.arrow", (2**32, 2**32))
    with serving(store) as base:
        response = httpx.get(f"{base}/metrics")
    assert response.status_code == 200
    assert f'remix_newest_plan_epoch{{run="{RUN}"}} 3.0' in response.text
    assert "remix_newest_plan_rows" not in response.text


@pytest.mark.parametrize("name", ["звук", 'a"b', "a\r\nX-Forged: 1"])
def test_steps_of_a_modality_with_any_name_are_streamed(store: Path, name: str) -> None:
    table = pa.ipc.open_file((store / PLAN).read_bytes()).read_all()
    with pa.ipc.new_file(str(store / PLAN), table.schema) as writer:
        writer.write_table(table.set_column(1, "modality", pa.array([name] * len(table))))
    known = json.loads((store / STATS).read_text())["modalities"]
    edit_json(store / STATS, modalities={name: known["touch"]})
    with serving(store) as base:
        response = httpx.get(f"{base}{STEPS}", params={"modality": name}, headers={"Accept": ARROW})
    assert response.status_code == 200
    assert len(pa.ipc.open_stream(response.content).read_all()) == len(table)
    assert response.headers["etag"].isascii()
    assert "x-forged" not in response.headers
