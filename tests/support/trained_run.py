"""Paths and URLs of the artifacts of the trained store's run, and ways to damage them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.plans.plan import BatchPlan
from pipeline.storage.store_path import StorePath

RUN = "demo-remix-seed0"


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def bad_offsets(path: Path) -> None:
    """Overwrite the list offsets of a plan with values far out of range."""
    table = BatchPlan.open(StorePath.at(path)).table
    offsets = table["rows"].chunk(0).offsets.to_numpy().astype(np.int32).tobytes()
    data = path.read_bytes()
    assert data.count(offsets) == 1
    wrong = np.frombuffer(offsets, np.int32).copy()
    wrong[1:] += 2**30
    path.write_bytes(data.replace(offsets, wrong.tobytes()))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


PLAN = f"runs/{RUN}/plans/epoch-0002.arrow"
STATS = f"runs/{RUN}/plans/epoch-0002.stats.json"
INDEX = f"runs/{RUN}/plans/epoch-0002.index.arrow"
SCORES = f"runs/{RUN}/scores/epoch-0002.arrow"
EPOCHS = f"runs/{RUN}/epochs.arrow"
JSON = f"runs/{RUN}/run.json"
MANIFEST = "features/made/manifest.json"
STEPS = f"/v1/runs/{RUN}/plans/2/steps"
PLAN_URL = f"/v1/runs/{RUN}/plans/2"
SAMPLE = f"/v1/runs/{RUN}/samples/s0003"
HISTOGRAM = f"/v1/runs/{RUN}/scores/2/histogram"
FEATURES = "/v1/features/made"
RUN_URL = f"/v1/runs/{RUN}"
