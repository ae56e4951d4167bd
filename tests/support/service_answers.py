"""What the service answers to a client, one document or a whole list."""

from collections.abc import Iterator
from typing import Any

import httpx

RUN = "/v1/runs/demo-remix-seed0"
PLAN = f"{RUN}/plans/2"


def get(client: httpx.Client, url: str, status: int = 200) -> Any:
    answer = client.get(url)
    assert answer.status_code == status, answer.text
    return answer.json()


def walk(client: httpx.Client, url: str) -> Iterator[Any]:
    """All items of a list, page by page."""
    following: str | None = url
    while following:
        answer = client.get(following)
        page = answer.json()
        yield from page["items"]
        following = page["next"]
        assert answer.links.get("next", {}).get("url") == following
