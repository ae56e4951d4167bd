"""`remix report`: the web page of one run as a single HTML file that works offline.

The file contains the page, its scripts, and the responses of the service that the page requests.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Iterable
from functools import partial
from itertools import pairwise
from urllib.parse import quote

import httpx
from pydantic import JsonValue

from pipeline.errors import ConfigError, InputError
from pipeline.storage.store_path import StorePath, without_secrets
from service.app import create_app
from service.report_pictures import UNQUOTED, Responses, fetch_pictures, named_samples
from service.settings import Settings

PAGE_LIMIT = 1000
NUM_STEPS = 25
"""Steps of each plan: the page size of the web page, so that its request is the same."""
NUM_MOVED = 25
"""Moved samples of each plan, compared with the one before."""
NUM_POINTS = 1000
NUM_POINT_EPOCHS = 5
"""The scatter is that of this many scored epochs, the last ones."""
NUM_RANKED = 25
"""Samples of each ranked list: the page size of the web page."""
MAX_SAMPLE_EPOCHS = 20_000
"""Bounds the report: number of samples times number of epochs."""
MAX_SAMPLES = 1000
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)
CHARTS = '<script src="assets/plotly.min.js"></script>'
"""Element for the chart library, which the page itself loads after its numbers."""


def write_report(run: str, out: StorePath) -> dict[str, int]:
    """Write the report of STORE/runs/NAME. The same run gives the same bytes.

    Returns the number of `answers` (embedded responses) and of `bytes`.
    Raises InputError if the run cannot be read, StoreError if the file cannot be written.
    """
    store, name = _split_run_path(run)
    out.check_writable()
    return asyncio.run(_write(store, name, out))


def _split_run_path(run: str) -> tuple[str, str]:
    """Split STORE/runs/NAME, a path or a URI with a query, into store and name."""
    path, mark, query = run.partition("?") if "://" in run else (os.path.abspath(run), "", "")
    parts = path.rstrip("/").rsplit("/", 2)
    if len(parts) < 3 or parts[1] != "runs":
        raise ConfigError(
            f"Not the folder of a run: {without_secrets(run)!r}", "Pass STORE/runs/NAME"
        )
    return parts[0] + mark + query, parts[2]


async def _write(store: str, name: str, out: StorePath) -> dict[str, int]:
    app = create_app(Settings(store=store, token=None, media=False))
    try:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://report"
        ) as client:
            responses = await _fetch_responses(client, name)
            html = await _build_page(client, {"run": name, "responses": responses})
    finally:
        app.state.store_reader.close()
    data = html.encode()
    out.write_bytes(data)
    return {"answers": len(responses), "bytes": len(data)}


async def _fetch_responses(client: httpx.AsyncClient, name: str) -> Responses:
    """Fetch what the page requests, under exactly the URLs that its scripts build."""
    run = f"v1/runs/{quote(name, safe=UNQUOTED)}"
    responses: Responses = {}
    detail = await _get(client, run, responses)
    if not isinstance(detail, dict) or isinstance(detail.get("status"), int):
        raise InputError(
            str(detail["detail"]) if isinstance(detail, dict) else f"Cannot read run {name!r}"
        )
    await _get(client, f"{run}/predictions", responses)
    for table in (f"{run}/epochs", f"{run}/predictions/classes"):
        async for _ in _pages(client, table, responses):
            pass
    plans = [int(str(epoch)) for epoch in _items(detail["plans"])]
    for epoch in plans:
        for path in (
            f"{run}/plans/{epoch}",
            f"{run}/plans/{epoch}/stats",
            f"{run}/plans/{epoch}/steps?start=0&limit={NUM_STEPS}",
        ):
            await _get(client, path, responses)
    named = await _get_samples(client, run, detail, responses)
    parent = detail["features"]
    parent_name = str(parent["name"]) if isinstance(parent, dict) else ""
    features = f"v1/features/{quote(parent_name, safe=UNQUOTED)}"
    await _get(client, features, responses)
    num = min(MAX_SAMPLES, MAX_SAMPLE_EPOCHS // max(1, len(plans)))
    ids = list(dict.fromkeys([*named, *await _first_samples(client, features, num)]))[:num]
    histories = [
        await _get(client, f"{run}/samples/{quote(sample, safe=UNQUOTED)}", responses)
        for sample in ids
    ]
    pictured = histories[: len(named)]
    return responses | await fetch_pictures(client, partial(_get, client), features, pictured)


async def _get_samples(
    client: httpx.AsyncClient, run: str, detail: dict[str, JsonValue], responses: Responses
) -> list[str]:
    """Fetch points of the last epochs, the moves between plans, and the ranked lists.

    Returns the ids of the samples whose pictures the report has.
    """
    plans, scored = list(_items(detail["plans"])), list(_items(detail["scores"]))
    paths = [
        f"plans/{before}/moves?to={after}&limit={NUM_MOVED}" for before, after in pairwise(plans)
    ]
    paths += [f"scores/{epoch}/points?limit={NUM_POINTS}" for epoch in scored[-NUM_POINT_EPOCHS:]]
    others = [await _get(client, f"{run}/{path}", responses) for path in paths]
    lists = [f"scores/{scored[-1]}/hardest"] if scored else []
    lists += ["changes", *(["mistakes"] if detail["test_accuracy"] else [])]
    ranked = [
        await _get(client, f"{run}/{name}?start=0&limit={NUM_RANKED}", responses) for name in lists
    ]
    return named_samples(ranked, others[-1] if scored else None)


async def _get(client: httpx.AsyncClient, path: str, responses: Responses) -> JsonValue:
    """Fetch one response. Errors are kept too: the page shows them in place of the content."""
    response = await client.get(f"/{path}")
    body: JsonValue = response.json()
    if isinstance(body, dict) and response.status_code >= 400:
        body.pop("request_id", None)  # random, and the report must be reproducible
    responses[path] = body
    return body


async def _pages(
    client: httpx.AsyncClient, path: str, responses: Responses
) -> AsyncIterator[Iterable[JsonValue]]:
    """Fetch a list and yield the items of each page; none if it cannot be read."""
    start: str | None = "0"
    while start is not None:
        body = await _get(client, f"{path}?start={start}&limit={PAGE_LIMIT}", responses)
        page = body if isinstance(body, dict) else {}
        yield _items(page.get("items"))
        following = page.get("next")
        start = httpx.URL(str(following)).params["start"] if following else None


def _items(value: JsonValue) -> Iterable[JsonValue]:
    return value if isinstance(value, list) else []


async def _first_samples(client: httpx.AsyncClient, features: str, num: int) -> list[str]:
    """Ids of the first training samples; none if the features were deleted."""
    pages: Responses = {}
    ids: list[str] = []
    async for items in _pages(client, f"{features}/samples", pages):
        ids += [
            str(item["sample_id"])
            for item in items
            if isinstance(item, dict) and item["split"] == "train"
        ]
        pages.clear()
        if len(ids) >= num:
            break
    return ids[:num]


async def _build_page(client: httpx.AsyncClient, report: dict[str, JsonValue]) -> str:
    """Return the page with its scripts, styles and the responses inlined."""
    html = (await client.get("/")).text
    html = html.replace("<noscript>", f"{CHARTS}\n<noscript>", 1)
    files = {
        name: (await client.get(f"/assets/{name}")).text
        for name in re.findall(r'(?:src|href)="assets/([^"]+)"', html)
    }
    data = json.dumps(report, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    html = html.replace(
        "<title>",
        f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_SECURITY_POLICY}">\n<title>',
        1,
    )
    html = html.replace(
        "<noscript>", f'<script type="application/json" id="report">{data}</script>\n<noscript>', 1
    )
    html = re.sub(
        r'<link rel="stylesheet" href="assets/([^"]+)">',
        lambda match: f"<style>\n{files[match[1]]}</style>",
        html,
    )
    return re.sub(
        r'<script src="assets/([^"]+)"></script>',
        lambda match: f"<script>\n{_escape_script(files[match[1]])}</script>",
        html,
    )


def _escape_script(script: str) -> str:
    """Escape what would end the enclosing script element, or hide its end, in HTML."""
    return re.sub(r"<(?=/script|!--)", r"\\x3C", script, flags=re.IGNORECASE)
