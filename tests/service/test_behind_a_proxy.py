"""The service behind a proxy that removes a prefix, and pages of other origins."""

import re
from pathlib import Path

import httpx
import pytest

from tests.support.http_client import RUN
from tests.support.prefix_proxy import proxied
from tests.support.serving import serving

ORIGIN = "https://lab.example"


@pytest.mark.parametrize("header", [True, False])
def test_links_and_the_description_work_behind_a_prefix(trained_store: Path, header: bool) -> None:
    options = {} if header else {"root_path": "/remix"}
    with (
        serving(trained_store, **options) as target,
        proxied(target, header=header) as url,
        httpx.Client(base_url=url) as client,
    ):
        first = client.get(f"/remix{RUN}/plans?limit=1")
        assert first.links["next"]["url"] == first.json()["next"]
        assert client.get(first.json()["next"]).json()["items"][0]["epoch"] == 1
        docs = client.get("/remix/docs").text
        paths = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""", docs)
        assert len(paths) >= 3
        for path in paths:
            assert client.get(path).status_code == 200, path
        slash = client.get("/remix/v1/runs/")
        assert slash.status_code == 307
        assert httpx.URL(slash.headers["location"]).path == "/remix/v1/runs"


def test_pages_of_chosen_origins_may_read(trained_store: Path) -> None:
    allowed = "access-control-allow-origin"
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}
    with serving(trained_store) as url:
        assert allowed not in httpx.get(f"{url}/v1/runs", headers=asked).headers
    with serving(trained_store, cors_origins=f"{ORIGIN},https://two.example") as url:
        answer = httpx.get(f"{url}/v1/runs", headers=asked)
        assert answer.headers[allowed] == ORIGIN
        assert "ETag" in answer.headers["access-control-expose-headers"]
        assert httpx.options(f"{url}/v1/runs", headers=asked).status_code == 200
        other = httpx.get(f"{url}/v1/runs", headers={"Origin": "https://else.example"})
        assert allowed not in other.headers
