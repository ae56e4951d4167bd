"""The features of a run: those that are there, or made now from what the configuration names as their source."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.decode.job import decode
from pipeline.decode.preflight import infer_config
from pipeline.decode.summary import Progress
from pipeline.shards.discover import discover_shards
from pipeline.sources.shard_writer import SUMMARY
from pipeline.sources.synthetic.generate import generate
from pipeline.storage.store_path import MANIFEST, StorePath
from trainer.config import GenerateConfig, RunConfig


def ensure_features(config: RunConfig, tell: Callable[[dict[str, Any]], None]) -> None:
    """Makes the run's feature set from its source where there is none; a call that was cut short is taken up (raises InputError, BudgetError, StoreError)."""
    source, features = config.source, config.features_path
    if source is None or (features / MANIFEST).exists():
        return
    store = StorePath.at(config.store)
    places: list[str | StorePath] = [
        pattern if pattern.startswith("/") or "://" in pattern else store / pattern
        for pattern in source.shards
    ]
    if source.generate:
        places = [_generated(source.generate, store / "shards" / config.features)]
    shards = discover_shards(places)

    def progress(at: Progress) -> None:
        tell({"event": "source", **asdict(at)})

    summary = decode(
        shards,
        features,
        source.decode or infer_config(shards),
        progress=progress,
        resources=config.resources.decode_resources,
    )
    tell({"event": "decoded", "text": "; ".join([f"{features}: {summary.text}", *summary.notes])})


def _generated(config: GenerateConfig, out: StorePath) -> StorePath:
    """The folder of shards, made before or now; its summary is its last file."""
    if (out / SUMMARY).exists():
        return out
    with tempfile.TemporaryDirectory(prefix="remix-") as folder:
        made = Path(folder) / "shards"
        generate(made, **config.model_dump())
        for path in sorted(made.iterdir(), key=lambda path: (path.name == SUMMARY, path.name)):
            (out / path.name).write_bytes(path.read_bytes())
    return out
