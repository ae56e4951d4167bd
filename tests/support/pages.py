"""Helpers for tests of the web page in Chromium, and runs and features to display."""

import concurrent.futures
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pyarrow as pa
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from pipeline.features.feature_set import FeatureSet
from pipeline.plans.config import PlanConfig
from pipeline.plans.plan import BatchPlan
from pipeline.plans.planner import build, remix_plan_builder, write_plan
from pipeline.plans.stats import plan_statistics
from pipeline.plans.step_index import write_step_index
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import write_table
from pipeline.storage.schemas import REJECTED
from pipeline.storage.store_path import MANIFEST, StorePath
from trainer.run_directory import Run

expect.set_options(timeout=20_000)  # drawing is slow on a busy machine
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

NEEDS_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None, reason="needs chromium: apt-get install chromium"
)
REMIX = "demo-remix-seed0"
HOSTILE = "<img src=x onerror=\"window.pwned='yes'\"></script><script>window.pwned='yes'</script>"
DASH, MINUS = "\u2013", "\u2212"
MODALITIES = ["sound", "sight", "touch"]


def outside(work: Callable[[], Any]) -> Any:
    """Run a function in another thread, since Playwright's event loop occupies this one."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return pool.submit(work).result()


def copy_run(store: Path, name: str) -> Run:
    shutil.copytree(store / "runs" / REMIX, store / "runs" / name)
    run = Run.open(StorePath.at(store / "runs" / name))
    run.update(name=name)
    return run


def replan(run: Run, features: FeatureSet, batch_size: int) -> None:
    """Replace the plan of the last epoch by one with this batch size."""
    scores = Scores.open(run.scores(3))
    plan = build(
        remix_plan_builder(
            scores,
            PlanConfig(order="interleaved"),
            batch_size,
            0,
            3,
            num_classes=len(features.classes),
        )
    )
    write_plan(run.plan(3), plan)
    run.plan_stats(3).write_json(
        plan_statistics(
            plan, labels=features.labels, scores=scores, previous=BatchPlan.open(run.plan(2))
        )
    )
    write_step_index(run.plan_index(3), plan, features.num_rows)


def reject(features: Path, num: int) -> None:
    rows = [
        {
            "shard": "a.tar",
            "sample_id": f"lost{i}{HOSTILE}",
            "stage": "decode",
            "reason": "truncated",
            "error": f"cut at byte {i}",
        }
        for i in range(num)
    ]
    write_table(
        StorePath.at(features / "rejected.arrow"), pa.Table.from_pylist(rows, schema=REJECTED)
    )
    manifest = json.loads((features / MANIFEST).read_text())
    manifest |= {
        "num_rejected": num,
        "reasons": {"truncated": num},
        "unread": {"png": 3},
        "classes": [HOSTILE, *manifest["classes"][1:]],
    }
    (features / MANIFEST).write_text(json.dumps(manifest))


def get_json(url: str, path: str) -> Any:
    response = httpx.get(url + path)
    assert response.status_code == 200, response.text
    return response.json()


@contextmanager
def visit(browser: Browser, url: str, *, expected: str = "", **context: Any) -> Iterator[Page]:
    """Open the page.

    Asserts at the end that it sent no request to another host and logged no error that does not
    contain `expected`.
    """
    errors: list[str] = []
    requests: list[str] = []
    with browser.new_context(**context) as opened:
        page = opened.new_page()
        page.on(
            "console",
            lambda message: (
                errors.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(url)
        ready(page)
        yield page
        assert page.evaluate("window.pwned") is None
    assert [error for error in errors if not expected or expected not in error] == []
    sent = [each for each in requests if not each.startswith(("data:", "blob:"))]
    assert {urlsplit(each)[:2] for each in sent} == {urlsplit(url)[:2]}


def ready(page: Page) -> None:
    page.wait_for_selector("main:not([aria-busy])")


def cells(table: Locator) -> list[list[str]]:
    """The text of each cell in the body of a table, by row, once the table has a row."""
    table.locator("tbody tr").first.wait_for(state="attached")
    read = "rows => rows.map(row => [...row.cells].map(cell => cell.innerText))"
    rows: list[list[str]] = table.locator("tbody tr").evaluate_all(read)
    return rows


def figure(page: Page, chart: str) -> Locator:
    return page.locator(f'figure[data-chart="{chart}"]')


def numbers(page: Page, chart: str) -> list[list[str]]:
    """The rows of the table below a chart."""
    element = figure(page, chart)
    if element.locator("details[open]").count() == 0:
        element.locator("summary").click()
    return cells(element.locator("table"))


def percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.1f}%"
