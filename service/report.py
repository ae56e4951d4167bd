"""`remix report`: the page and the answers it would ask for, as one HTML file that needs no service and no network."""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Iterable
from urllib.parse import quote

import httpx
from pydantic import JsonValue

from pipeline.errors import ConfigError, InputError
from pipeline.storage.store_path import StorePath, without_secrets
from service.app import create_app
from service.settings import Settings

Answers = dict[str, JsonValue]
PAGE_LIMIT = 1000
NUM_STEPS = 25
"""Steps of each plan; as many as the page shows at once, so that it asks for just these."""
NUM_REJECTED = 25
NUM_STORIES = 20_000
"""Samples times epochs: what the report holds of single samples."""
MAX_SAMPLES = 1000
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)
IN_PAGE = "!'()*~"
"""What encodeURIComponent leaves as it is, beside what quote() does."""


def write_report(run: str, out: StorePath) -> dict[str, int]:
    """Writes the report of STORE/runs/NAME; the same run gives the same bytes (raises InputError where the run cannot be read, StoreError)."""
    store, name = _split(run)
    out.check_writable()
    return asyncio.run(_write(store, name, out))


def _split(run: str) -> tuple[str, str]:
    """The store and the name in STORE/runs/NAME, a path or a URI with its query."""
    path, mark, query = run.partition("?") if "://" in run else (os.path.abspath(run), "", "")
    parts = path.rstrip("/").rsplit("/", 2)
    if len(parts) < 3 or parts[1] != "runs":
        raise ConfigError(
            f"{without_secrets(run)!r} is not the folder of a run", "give STORE/runs/NAME"
        )
    return parts[0] + mark + query, parts[2]


async def _write(store: str, name: str, out: StorePath) -> dict[str, int]:
    app = create_app(Settings(store=store, token=None))
    try:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://report"
        ) as client:
            answers = await _answers(client, name)
            html = await _page(client, {"run": name, "responses": answers})
    finally:
        app.state.reader.close()
    data = html.encode()
    out.write_bytes(data)
    return {"answers": len(answers), "bytes": len(data)}


async def _answers(client: httpx.AsyncClient, name: str) -> Answers:
    """What the page asks for, by path and query as it writes them."""
    run = f"v1/runs/{quote(name, safe=IN_PAGE)}"
    answers: Answers = {}
    detail = await _get(client, run, answers)
    if not isinstance(detail, dict) or isinstance(detail.get("status"), int):
        raise InputError(
            str(detail["detail"]) if isinstance(detail, dict) else f"run {name!r} cannot be read"
        )
    async for _ in _pages(client, f"{run}/epochs", answers):
        pass
    plans = [int(str(epoch)) for epoch in _items(detail["plans"])]
    for epoch in plans:
        for path in (
            f"{run}/plans/{epoch}",
            f"{run}/plans/{epoch}/stats",
            f"{run}/plans/{epoch}/steps?start=0&limit={NUM_STEPS}",
        ):
            await _get(client, path, answers)
    parent = detail["features"]
    features = f"v1/features/{quote(str(parent['name']) if isinstance(parent, dict) else '', safe=IN_PAGE)}"
    await _get(client, features, answers)
    await _get(client, f"{features}/rejected?start=0&limit={NUM_REJECTED}", answers)
    for sample in await _first_samples(
        client, features, min(MAX_SAMPLES, NUM_STORIES // max(1, len(plans)))
    ):
        await _get(client, f"{run}/samples/{quote(sample, safe=IN_PAGE)}", answers)
    return answers


async def _get(client: httpx.AsyncClient, path: str, answers: Answers) -> JsonValue:
    """One answer; a problem is an answer too, the page shows it where it belongs."""
    response = await client.get(f"/{path}")
    found: JsonValue = response.json()
    if isinstance(found, dict) and response.status_code >= 400:
        found.pop("request_id", None)  # another one each time
    answers[path] = found
    return found


async def _pages(
    client: httpx.AsyncClient, path: str, answers: Answers
) -> AsyncIterator[Iterable[JsonValue]]:
    """The items of a list, page by page; none where it cannot be read."""
    start: str | None = "0"
    while start is not None:
        found = await _get(client, f"{path}?start={start}&limit={PAGE_LIMIT}", answers)
        items, following = (
            (found.get("items"), found.get("next")) if isinstance(found, dict) else (None, None)
        )
        yield _items(items)
        start = httpx.URL(str(following)).params["start"] if following else None


def _items(value: JsonValue) -> Iterable[JsonValue]:
    return value if isinstance(value, list) else []


async def _first_samples(client: httpx.AsyncClient, features: str, num: int) -> list[str]:
    """The ids of the first training samples; none where the features are gone."""
    pages: Answers = {}
    found: list[str] = []
    async for items in _pages(client, f"{features}/samples", pages):
        found += [
            str(item["sample_id"])
            for item in items
            if isinstance(item, dict) and item["split"] == "train"
        ]
        pages.clear()
        if len(found) >= num:
            break
    return found[:num]


async def _page(client: httpx.AsyncClient, report: dict[str, JsonValue]) -> str:
    """The page with its files and the report inside."""
    html = (await client.get("/")).text
    files = {
        name: (await client.get(f"/assets/{name}")).text
        for name in re.findall(r'(?:src|href)="assets/([^"]+)"', html)
    }
    data = json.dumps(report, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    html = html.replace(
        "<title>", f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<title>', 1
    )
    html = html.replace(
        "<noscript>", f'<script type="application/json" id="report">{data}</script>\n<noscript>', 1
    )
    html = re.sub(
        r'<link rel="stylesheet" href="assets/([^"]+)">',
        lambda found: f"<style>\n{files[found[1]]}</style>",
        html,
    )
    return re.sub(
        r'<script src="assets/([^"]+)"></script>',
        lambda found: f"<script>\n{_inline(files[found[1]])}</script>",
        html,
    )


def _inline(script: str) -> str:
    """A script that cannot end, or hide the end of, the element that it stands in."""
    return re.sub(r"<(?=/script|!--)", r"\\x3C", script, flags=re.IGNORECASE)
