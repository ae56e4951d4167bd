"""Makes the features of a run from its configured source if they do not exist."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.decode.inference import Inferred, infer_config
from pipeline.decode.job import decode
from pipeline.decode.summary import Progress
from pipeline.shards.discover import discover_shards
from pipeline.sources.shard_writer import SUMMARY
from pipeline.sources.synthetic.generate import generate
from pipeline.storage.store_path import MANIFEST, StorePath
from trainer.config import GenerateConfig, RunConfig


def ensure_features(config: RunConfig, report: Callable[[dict[str, Any]], None]) -> None:
    """Decode the run's feature set from its source unless it exists.

    A decoding that was interrupted is continued. Raises InputError, BudgetError, StoreError.
    """
    source, features = config.source, config.features_path
    if source is None or (features / MANIFEST).exists():
        return
    store = StorePath.at(config.store)
    paths: list[str | StorePath] = [
        pattern if pattern.startswith("/") or "://" in pattern else store / pattern
        for pattern in source.shards
    ]
    if source.generate:
        paths = [_generated(source.generate, store / "shards" / config.features)]
    shards = discover_shards(paths)

    def progress(state: Progress) -> None:
        report({"event": "source", **asdict(state)})

    found = Inferred(config=source.decode) if source.decode else infer_config(shards)
    summary = decode(
        shards,
        features,
        found.config,
        inferred=found.lines,
        progress=progress,
        resources=config.resources.decode_resources,
    )
    report({"event": "decoded", "text": "; ".join([f"{features}: {summary.text}", *summary.notes])})


def _generated(config: GenerateConfig, out: StorePath) -> StorePath:
    """Generate shards into `out` unless its summary, which is written last, exists."""
    if (out / SUMMARY).exists():
        return out
    with tempfile.TemporaryDirectory(prefix="remix-") as folder:
        generated = Path(folder) / "shards"
        generate(generated, **config.model_dump())
        for path in sorted(generated.iterdir(), key=lambda path: (path.name == SUMMARY, path.name)):
            (out / path.name).write_bytes(path.read_bytes())
    return out
