"""Requests to the service: one document, or all pages of a list."""

from collections.abc import Iterator
from typing import Any

import httpx

RUN = "/v1/runs/demo-remix-seed0"
PLAN = f"{RUN}/plans/2"


def get(client: httpx.Client, url: str, status: int = 200) -> Any:
    response = client.get(url)
    assert response.status_code == status, response.text
    return response.json()


def walk(client: httpx.Client, url: str) -> Iterator[Any]:
    """Yield all items of a list, page by page."""
    following: str | None = url
    while following:
        response = client.get(following)
        page = response.json()
        yield from page["items"]
        following = page["next"]
        assert response.links.get("next", {}).get("url") == following
