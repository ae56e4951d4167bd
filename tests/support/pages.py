"""The page in a real browser: what is opened, what is read off it, and runs and features of a store to show."""

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

expect.set_options(timeout=20_000)  # a busy machine draws late
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

NEEDS_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"
)
REMIX = "demo-remix-seed0"
HOSTILE = "<img src=x onerror=\"window.pwned='yes'\"></script><script>window.pwned='yes'</script>"
DASH, MINUS = "\u2013", "\u2212"
MODALITIES = ["sound", "sight", "touch"]


def outside(work: Callable[[], Any]) -> Any:
    """Runs something that needs an event loop of its own."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return pool.submit(work).result()


def copy_run(store: Path, name: str) -> Run:
    shutil.copytree(store / "runs" / REMIX, store / "runs" / name)
    run = Run.open(StorePath.at(store / "runs" / name))
    run.update(name=name)
    return run


def replan(run: Run, features: FeatureSet, batch_size: int) -> None:
    """Plans the last epoch again, in small batches."""
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
        "classes": [HOSTILE, *manifest["classes"][1:]],
    }
    (features / MANIFEST).write_text(json.dumps(manifest))


def ask(url: str, path: str) -> Any:
    answer = httpx.get(url + path)
    assert answer.status_code == 200, answer.text
    return answer.json()


@contextmanager
def visit(browser: Browser, url: str, *, expected: str = "", **context: Any) -> Iterator[Page]:
    """Opens the page, and asserts at the end that nothing went to another host and that the console holds no error but the expected."""
    errors: list[str] = []
    asked: list[str] = []
    with browser.new_context(**context) as opened:
        page = opened.new_page()
        page.on(
            "console",
            lambda message: (
                errors.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        ready(page)
        yield page
        assert page.evaluate("window.pwned") is None
    assert [error for error in errors if not expected or expected not in error] == []
    assert {urlsplit(each)[:2] for each in asked if not each.startswith("data:")} == {
        urlsplit(url)[:2]
    }


def ready(page: Page) -> None:
    page.wait_for_selector("main:not([aria-busy])")


def cells(table: Locator) -> list[list[str]]:
    """The text of the rows of a table's body."""
    return [row.locator("th, td").all_inner_texts() for row in table.locator("tbody tr").all()]


def figure(page: Page, title: str) -> Locator:
    return page.locator("figure").filter(has=page.get_by_role("heading", name=title, exact=True))


def numbers(page: Page, title: str) -> list[list[str]]:
    """The rows of the table beside a chart."""
    found = figure(page, title)
    if found.locator("details[open]").count() == 0:
        found.get_by_text("Numbers", exact=True).click()
    found.locator("tbody tr").first.wait_for()
    return cells(found.locator("table"))


def percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.1f}%"
