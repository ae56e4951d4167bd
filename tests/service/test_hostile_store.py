"""The service over a store that is damaged or lies: one artifact is named, the rest is served."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import ANY

import httpx
import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from pipeline.storage.store_path import Place
from service.http.responses import ARROW
from service.store.metrics import StoreCollector
from service.store.reader import Shelf
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


def with_nulls(path: Path) -> None:
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    columns = [pa.nulls(len(table), field.type) for field in table.schema]
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(pa.table(columns, schema=table.schema))


def link_to(target: str) -> Callable[[Path], None]:
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


def with_step(step: int) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        table = pa.ipc.open_file(path.read_bytes()).read_all()
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(
                pa.table([pa.array([step] * len(table), pa.int32())], schema=table.schema)
            )

    return replace


def endless(path: Path) -> None:
    """A number that is not JSON where the answer has a number."""
    stats = json.loads(path.read_text())
    stats["batch_sizes"]["counts"] = {}
    stats["histograms"]["touch"]["kl"]["edges"] = [float("inf")]
    path.write_text(json.dumps(stats))


DAMAGES: list[tuple[str, Callable[[Path], None], str, str]] = [
    (PLAN, bad_offsets, STEPS, "epoch-0002.arrow"),
    (PLAN, with_nulls, STEPS, "epoch-0002.arrow"),
    (PLAN, cut, STEPS, "epoch-0002.arrow"),
    (PLAN, cut, PLAN_URL, "epoch-0002.arrow"),
    (PLAN, lambda path: path.write_bytes(b""), STEPS, "epoch-0002.arrow"),
    (
        PLAN,
        lambda path: path.write_bytes(b"ARROW1" + os.urandom(4000) + b"ARROW1"),
        STEPS,
        "epoch-0002.arrow",
    ),
    (PLAN, link_to("/etc/passwd"), STEPS, "epoch-0002.arrow"),
    (PLAN, link_to("/etc"), STEPS, "epoch-0002.arrow"),
    (PLAN, fifo, STEPS, "epoch-0002.arrow"),
    (
        PLAN,
        lambda path: shutil.copy(path.parent.parent / "epochs.arrow", path),
        STEPS,
        "epoch-0002.arrow",
    ),
    (
        PLAN,
        lambda path: shutil.copy(path.parent / "epoch-0000.arrow", path),
        f"{PLAN_URL}/stats",
        "epoch-0002",
    ),
    (STATS, lambda path: path.write_text("{"), f"{PLAN_URL}/stats", "epoch-0002.stats.json"),
    (
        STATS,
        lambda path: path.write_text("[" * 100_000),
        f"{PLAN_URL}/stats",
        "epoch-0002.stats.json",
    ),
    (
        STATS,
        lambda path: edit_json(path, num_steps=7),
        f"{PLAN_URL}/stats",
        "epoch-0002.stats.json",
    ),
    (STATS, lambda path: edit_json(path, modalities={"x": 1}), PLAN_URL, "epoch-0002.stats.json"),
    (STATS, endless, f"{PLAN_URL}/stats", "epoch-0002.stats.json"),
    (STATS, lambda path: path.unlink(), f"{PLAN_URL}/stats", "epoch-0002.stats.json"),
    (STATS, link_to("/etc/hostname"), f"{PLAN_URL}/stats", "epoch-0002.stats.json"),
    (INDEX, with_nulls, SAMPLE, "epoch-0002.index.arrow"),
    (INDEX, cut, SAMPLE, "epoch-0002.index.arrow"),
    (INDEX, with_step(-1000), SAMPLE, "epoch-0002.arrow"),
    (INDEX, lambda path: path.unlink(), SAMPLE, "epoch-0002.index.arrow"),
    (
        INDEX,
        lambda path: shutil.copy(path.parent / "epoch-0000.index.arrow", path),
        SAMPLE,
        "epoch-0002.index.arrow",
    ),
    (SCORES, with_nulls, SAMPLE, "epoch-0002.arrow"),
    (SCORES, cut, HISTOGRAM, "epoch-0002.arrow"),
    (EPOCHS, cut, f"{RUN_URL}/epochs", "epochs.arrow"),
    (EPOCHS, with_nulls, f"{RUN_URL}/epochs", "epochs.arrow"),
    (JSON, lambda path: edit_json(path, status="dancing"), RUN_URL, "run.json"),
    (JSON, lambda path: edit_json(path, config={"train": {"epochs": "many"}}), RUN_URL, "run.json"),
    (JSON, lambda path: path.write_bytes(b"\xff\xfe\x00"), RUN_URL, "run.json"),
    (JSON, fifo, RUN_URL, "run.json"),
    (MANIFEST, lambda path: edit_json(path, num_rows=10**12), FEATURES, "manifest.json"),
    (MANIFEST, lambda path: edit_json(path, parts=[]), SAMPLE, "manifest.json"),
    (MANIFEST, lambda path: edit_json(path, classes=[]), SAMPLE, "manifest.json"),
    (MANIFEST, lambda path: edit_json(path, fingerprint="f" * 64), SAMPLE, "made"),
    (MANIFEST, lambda path: edit_json(path, modalities="none"), FEATURES, "manifest.json"),
    ("features/made/ids.arrow", with_nulls, SAMPLE, "ids.arrow"),
    ("features/made/samples.arrow", with_nulls, SAMPLE, "s"),
    ("features/made/samples.arrow", cut, SAMPLE, "samples.arrow"),
    (
        "comparisons/demo/table.json",
        lambda path: edit_json(path, methods={}),
        "/v1/comparisons/demo",
        "table.json",
    ),
    ("comparisons/demo/curves.arrow", cut, "/v1/comparisons/demo/curves", "curves.arrow"),
    (f"runs/{RUN}", link_to("/etc"), RUN_URL, RUN),
]


@pytest.fixture(scope="module")
def served(
    trained_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, httpx.Client]]:
    """One process for all damages: what it remembers of a damaged file must not outlive the damage."""
    copy = tmp_path_factory.mktemp("hostile") / "store"
    shutil.copytree(trained_store, copy)
    with serving(copy) as base, httpx.Client(base_url=base, timeout=10) as client:
        yield copy, client


@pytest.mark.parametrize(
    ("file", "harm", "url", "named"),
    DAMAGES,
    ids=[f"{n}-{case[0].rsplit('/', 1)[-1]}" for n, case in enumerate(DAMAGES)],
)
def test_damage_is_named_and_the_rest_is_served(
    served: tuple[Path, httpx.Client],
    tmp_path: Path,
    file: str,
    harm: Callable[[Path], None],
    url: str,
    named: str,
) -> None:
    store, client = served
    assert client.get(url).status_code == 200
    kept = tmp_path / "kept"
    shutil.copytree(store / file, kept) if (store / file).is_dir() else shutil.copy2(
        store / file, kept
    )
    harm(store / file)
    try:
        answer = client.get(url)
        assert 400 <= answer.status_code < 600, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        body = answer.json()
        assert named in body["detail"]
        assert body["request_id"] not in body["detail"], "not foreseen"
        assert str(store) not in answer.text
        assert "/etc" not in answer.text
        assert "root:" not in answer.text
        # everything else
        assert client.get("/readyz").status_code == 200
        assert "remix_store_up 1.0" in client.get("/metrics").text
        assert {item["name"] for item in client.get("/v1/runs").json()["items"]} >= {
            "demo-joint-seed0"
        }
        assert client.get("/v1/runs/demo-joint-seed0/plans/2/steps").status_code == 200
        for path in (
            "/v1/features",
            "/v1/runs",
            "/v1/comparisons",
            "/v1/runs/demo-joint-seed0/plans",
        ):
            assert client.get(path).status_code == 200
        if file.startswith(f"runs/{RUN}/plans"):
            assert client.get(f"/v1/runs/{RUN}/plans/3/steps").status_code == 200
            assert [
                item["epoch"] for item in client.get(f"/v1/runs/{RUN}/plans").json()["items"]
            ] == [0, 1, 2, 3]
    finally:
        if (store / file).is_symlink() or (store / file).exists():
            (store / file).unlink()
        shutil.copytree(kept, store / file) if kept.is_dir() else shutil.copy2(kept, store / file)
    assert client.get(url).status_code == 200


def test_a_damaged_run_stands_in_the_list_as_damaged(store: Path) -> None:
    (store / JSON).write_text("{}")
    cut(store / PLAN)
    with serving(store) as base, httpx.Client(base_url=base) as client:
        items = client.get("/v1/runs").json()["items"]
        assert [(item["name"], item["status"]) for item in items] == [
            ("demo-joint-seed0", "finished"),
            (RUN, "damaged"),
        ]
        assert "run.json" in items[1]["error"]
        told = client.get(f"/v1/runs/{RUN}").json()
        assert (told["status"], told["type"]) == (500, "urn:remix:damaged")
        assert told["title"] != "Internal Server Error" and "run.json" in told["detail"]
        shutil.copy(store / "runs" / "demo-joint-seed0" / "run.json", store / JSON)
        plans = client.get(f"/v1/runs/{RUN}/plans").json()["items"]
        assert [plan.get("status") for plan in plans] == [None, None, "damaged", None]


@pytest.mark.parametrize(
    "where", ["runs", f"runs/{RUN}", f"runs/{RUN}/plans", "features", "comparisons"]
)
def test_names_that_are_no_text_or_lead_in_circles_hide_nothing(store: Path, where: str) -> None:
    (store / where / os.fsdecode(b"\xff\xfe")).mkdir()
    (store / where / "loop").symlink_to("loop")
    with serving(store) as base, httpx.Client(base_url=base) as client:
        for path in (
            "/v1/features",
            "/v1/runs",
            "/v1/comparisons",
            RUN_URL,
            f"{RUN_URL}/plans",
            STEPS,
            SAMPLE,
        ):
            assert client.get(path).status_code == 200, path
        assert (
            len(
                [
                    item
                    for item in client.get("/v1/runs").json()["items"]
                    if item["status"] == "finished"
                ]
            )
            == 2
        )
        assert "remix_plans 8.0" in client.get("/metrics").text


def test_a_scrape_looks_at_no_more_files_where_a_run_has_more_plans(store: Path) -> None:
    asked: list[object] = []

    class Counting(pafs.LocalFileSystem):
        def get_file_info(self, paths: object) -> object:
            asked.append(paths)
            return super().get_file_info(paths)

    collector = StoreCollector(Shelf(Place(Counting(), str(store)), None, 0))

    def scrape() -> tuple[int, dict[str, float]]:
        asked.clear()
        found = {each.name: each.samples[0].value for each in collector.collect()}
        return len(asked), found

    scrape()
    num_asked, found = scrape()
    assert (found["remix_plans"], found["remix_newest_plan_epoch"]) == (8, 3)
    plans = store / "runs" / RUN / "plans"
    for epoch in range(4, 40):
        for end in ("arrow", "stats.json"):
            shutil.copy(plans / f"epoch-0003.{end}", plans / f"epoch-{epoch:04d}.{end}")
    scrape()
    assert scrape()[0] == num_asked < 20
    assert scrape()[1] == found | {
        "remix_plans": 44,
        "remix_newest_plan_epoch": 39,
        "remix_newest_plan_age_seconds": ANY,
    }


def test_metrics_do_without_a_number_that_they_cannot_show(store: Path) -> None:
    stats = store / "runs" / RUN / "plans" / "epoch-0003.stats.json"
    facts = json.loads(stats.read_text())
    facts["modalities"]["touch"]["num_rows"] = 10**400
    stats.write_text(json.dumps(facts))
    os.utime(store / "runs" / RUN / "plans" / "epoch-0003.arrow", (2**32, 2**32))
    with serving(store) as base:
        answer = httpx.get(f"{base}/metrics")
    assert answer.status_code == 200
    assert f'remix_newest_plan_epoch{{run="{RUN}"}} 3.0' in answer.text
    assert "remix_newest_plan_rows" not in answer.text


@pytest.mark.parametrize("name", ["звук", 'a"b', "a\r\nX-Forged: 1"])
def test_a_modality_of_any_name_is_streamed(store: Path, name: str) -> None:
    table = pa.ipc.open_file((store / PLAN).read_bytes()).read_all()
    with pa.ipc.new_file(str(store / PLAN), table.schema) as writer:
        writer.write_table(table.set_column(1, "modality", pa.array([name] * len(table))))
    edit_json(
        store / STATS,
        modalities={name: json.loads((store / STATS).read_text())["modalities"]["touch"]},
    )
    with serving(store) as base:
        answer = httpx.get(f"{base}{STEPS}", params={"modality": name}, headers={"Accept": ARROW})
    assert answer.status_code == 200
    assert len(pa.ipc.open_stream(answer.content).read_all()) == len(table)
    assert answer.headers["etag"].isascii()
    assert "x-forged" not in answer.headers
