"""Write service/examples.json: responses of the service over a store, in short.

    .venv/bin/python docs/examples.py store

The store needs the runs of `make demo`. Run it after a change of the responses.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx

from service.app import create_app
from service.settings import Settings

OUT = Path(__file__).parents[1] / "service" / "examples.json"
QUERIES = {"listScores": {"limit": 1}, "getHistogram": {"bins": 2}}
NUM_ITEMS, NUM_TEXT = 2, 400


def shortened(value: Any) -> Any:
    """The value with at most NUM_ITEMS items in each list, and rounded numbers."""
    if isinstance(value, list):
        return [shortened(each) for each in value[:NUM_ITEMS]]
    if isinstance(value, dict):
        return {name: shortened(each) for name, each in value.items()}
    return round(value, 4) if isinstance(value, float) else value


async def fetch(store: str) -> dict[str, Any]:
    """One response of each operation, by operation id."""
    shards = f"{store}/shards/demo"
    app = create_app(Settings(store=store, token=None, media=True, shards=shards))
    transport, found = httpx.ASGITransport(app), {}
    async with httpx.AsyncClient(transport=transport, base_url="http://examples") as client:
        runs = (await client.get("/v1/runs", params={"method": "remix"})).json()["items"]
        run = (await client.get(f"/v1/runs/{runs[0]['name']}")).json()
        plan = (await client.get(f"/v1/runs/{run['name']}/plans/latest")).json()
        features = f"/v1/features/{run['features']['name']}"
        samples = (await client.get(f"{features}/samples")).json()["items"]
        sample = next(each for each in samples if each["split"] == "train")
        known = {
            "run": run["name"],
            "epoch": plan["epoch"],
            "fingerprint": plan["fingerprint"],
            "sample_id": sample["sample_id"],
            "row": sample["row"],
            "modality": run["modalities"][-1],
            "suffix": "mp4",
        }
        for path, operations in app.openapi()["paths"].items():
            name = run["comparisons"][0] if "comparisons" in path else run["features"]["name"]
            operation = operations["get"]["operationId"]
            url = path.format(**known, name=name)
            response = await client.get(url, params=QUERIES.get(operation, {}))
            response.raise_for_status()
            if response.headers["content-type"].startswith("application/json"):
                found[operation] = shortened(response.json())
            elif response.headers["content-type"].startswith("text/"):
                found[operation] = response.text[:NUM_TEXT].rpartition("\n")[0] + "\n"
    return found


if __name__ == "__main__":
    text = json.dumps(asyncio.run(fetch(sys.argv[1])), indent=1)
    OUT.write_text(text + "\n", "utf-8")
