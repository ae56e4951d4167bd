"""Filters and orders of the list of runs."""

import json
from pathlib import Path

import httpx
import pytest

from tests.support.serving import serving


@pytest.fixture
def names(store: Path) -> Path:
    """Four runs: a finished one, two copies of it with other fields, and a damaged one."""
    run = store / "runs" / "demo-remix-seed0" / "run.json"
    for name, status, accuracy in (("a", "failed", 0.1), ("b", "finished", 0.99)):
        (store / "runs" / name).mkdir()
        changed = json.loads(run.read_text()) | {"status": status}
        changed["config"]["method"] = "joint"
        changed["result"]["test_accuracy"]["fused"] = accuracy
        (store / "runs" / name / "run.json").write_text(json.dumps(changed))
    (store / "runs" / "c").mkdir()
    (store / "runs" / "c" / "run.json").write_text("{")
    for other in (store / "runs").iterdir():
        if other.name not in ("a", "b", "c", "demo-remix-seed0"):
            other.rename(store / other.name)
    return store


def test_runs_are_filtered_and_sorted(names: Path) -> None:
    run = "demo-remix-seed0"
    with serving(names) as url, httpx.Client(base_url=url) as client:

        def listed(query: str) -> list[str]:
            return [item["name"] for item in client.get(f"/v1/runs{query}").json()["items"]]

        assert listed("") == ["a", "b", "c", run]
        assert listed("?method=joint") == ["a", "b"]
        assert listed("?status=finished") == ["b", run]
        assert listed("?status=damaged") == ["c"]
        assert listed("?features=made&status=failed") == ["a"]
        assert listed("?features=other") == []
        assert listed("?sort=-name") == [run, "b", "a", "c"]
        assert listed("?sort=accuracy")[0] == "a" and listed("?sort=-accuracy")[0] == "b"
        assert listed("?sort=-accuracy")[-1] == "c"
        page = client.get("/v1/runs?method=joint&limit=1").json()
        assert client.get(page["next"]).json()["items"][0]["name"] == "b"
        item = client.get("/v1/runs/a").json()
        assert (item["method"], item["seed"]) == ("joint", 0)
