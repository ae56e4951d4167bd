"""Small feature sets for tests, written through the project's own writers."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.config import parse
from pipeline.decode.shard_task import VERSION
from pipeline.features.feature_set import FeatureSet
from pipeline.features.id_index import IDS, IdSorter, hash_ids, write_ids
from pipeline.features.manifest import features_fingerprint
from pipeline.features.part_writer import BATCH_ROWS, PartWriter, part_name
from pipeline.plans.plan import BatchPlan
from pipeline.shards.discover import ShardFile, discover_shards
from pipeline.shards.reader import ShardReader
from pipeline.shards.samples import Sample
from pipeline.storage.arrow_files import write_table
from pipeline.storage.metadata import fingerprint
from pipeline.storage.schemas import samples_schema
from pipeline.storage.store_path import MANIFEST, StorePath
from trainer.config import RunConfig
from trainer.config_values import merge
from trainer.launch import launch
from trainer.models import checkpoint as checkpoints
from trainer.run_directory import Run

Command = Callable[..., tuple[int, str, str]]
"""Return type of the fixture `command`."""
SHAPES: dict[str, tuple[tuple[int, ...], str]] = {
    "sound": ((1, 16, 16), "float16"),
    "sight": ((2, 3, 16, 16), "uint8"),
    "touch": ((6, 8), "float32"),
}


def make_features(
    folder: Path,
    shapes: Mapping[str, tuple[tuple[int, ...], str]] = SHAPES,
    *,
    num_rows: int = 200,
    num_classes: int = 3,
    num_parts: int = 3,
    missing: float = 0.0,
    seed: int = 0,
) -> FeatureSet:
    """A learnable feature set: each modality is the class plus noise of its own strength.

    All modalities but the first are missing in a share of the rows.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(num_rows) % num_classes
    split = np.array(["train", "train", "train", "validation", "test"])[
        rng.permutation(num_rows) % 5
    ]
    has = {name: rng.random(num_rows) >= (missing if k else 0) for k, name in enumerate(shapes)}
    path = StorePath.at(folder)
    cuts = np.linspace(0, num_rows, num_parts + 1).astype(int).tolist()
    facts = {}
    files: list[dict[str, dict[str, object]]] = [{} for _ in range(num_parts)]
    for k, (name, (shape, dtype)) in enumerate(shapes.items()):
        patterns = rng.normal(size=(num_classes, *shape))
        values = patterns[labels] + rng.normal(size=(num_rows, *shape)) * (1 + k)
        if dtype == "uint8":
            values = np.clip(values * 32 + 128, 0, 255)
        values = values.astype(dtype)
        for part in range(num_parts):
            rows = range(cuts[part], cuts[part + 1])
            files[part][name] = _write_part(path / name / part_name(part), values, has[name], rows)
        facts[name] = _facts(values, int(has[name].sum()))
    samples = _write_samples(path, labels, split, has)
    parts = [
        {
            "index": part,
            "shard": "a.tar",
            "rows": cuts[part + 1] - cuts[part],
            "files": files[part],
        }
        for part in range(num_parts)
    ]
    described = {
        "modalities": facts,
        "classes": [f"c{i}" for i in range(num_classes)],
        "splits": {name: int((split == name).sum()) for name in ("train", "validation", "test")},
        "parts": parts,
    }
    manifest = described | {
        "kind": "features",
        "version": VERSION,
        "num_rows": num_rows,
        "num_rejected": 0,
        "batch_rows": BATCH_ROWS,
        "parents": {},
    }
    manifest["fingerprint"] = features_fingerprint(manifest, fingerprint(samples, {}))
    (path / MANIFEST).write_json(manifest)
    return FeatureSet.open(path)


def _write_part(
    path: StorePath, values: np.ndarray[Any, Any], has: np.ndarray[Any, Any], rows: range
) -> dict[str, object]:
    """Write rows of a modality; returns the file's entry in the manifest."""
    with path.create() as file:
        writer = PartWriter(file, values.shape[1:], values.dtype.name)
        for row in rows:
            writer.append(values[row] if has[row] else None)
        writer.close()
    return {"sha256": file.hexdigest(), "bytes": file.num_bytes}


def _facts(values: np.ndarray[Any, Any], num_rows: int) -> dict[str, object]:
    """A modality's entry in the manifest."""
    channels = values.ndim - 3 if values.ndim >= 4 else 1
    axes = tuple(i for i in range(values.ndim) if i != channels)
    return {
        "kind": "tensor",
        "shape": list(values.shape[1:]),
        "dtype": values.dtype.name,
        "num_rows": num_rows,
        "mean": values.mean(axes, dtype=float).tolist(),
        "std": values.std(axes, dtype=float).tolist(),
    }


def _write_samples(
    path: StorePath,
    labels: np.ndarray[Any, Any],
    split: np.ndarray[Any, Any],
    has: dict[str, np.ndarray[Any, Any]],
) -> pa.Table:
    num_rows = len(labels)
    ids = [f"s{i:04d}" for i in range(num_rows)]
    columns = [
        np.arange(num_rows),
        ids,
        labels.astype(np.int32),
        split,
        ["a.tar"] * num_rows,
        np.arange(num_rows),
        *has.values(),
    ]
    samples = pa.table([pa.array(column) for column in columns], schema=samples_schema(list(has)))
    write_table(path / "samples.arrow", samples)
    with IdSorter(num_rows) as sorter:
        sorter.add(hash_ids(ids), np.arange(num_rows))
        write_ids(path / IDS, sorter.blocks())
    return samples


def run_config(store: Path, *, assemble: bool = False, **changes: object) -> RunConfig:
    """A run of seconds on the features `made` in a store; assembly would take a third of them."""
    small = {"kind": "cnn", "width": 4, "norm": "group"}
    base = {
        "name": "run",
        "features": "made",
        "store": str(store),
        "model": {"encoder": small, "encoders": {"touch": {"kind": "mlp", "hidden": 16}}},
    }
    base |= {
        "train": {
            "epochs": 4,
            "warmup_epochs": 2,
            "batch_size": 16,
            "score_batch": 32,
            "assemble": assemble,
        },
        "resources": {"checkpoint_every": 3},
    }
    return parse(RunConfig, merge(base, changes), "test")


def weights(run: Run, name: str = "last") -> dict[str, torch.Tensor]:
    """The model in a checkpoint of a run."""
    return dict(checkpoints.load(run.checkpoint(name))["model"])


def same_weights(first: Run, second: Run) -> bool:
    """Whether the last and the best checkpoints of two runs are equal to the bit."""
    pairs = [(weights(first, name), weights(second, name)) for name in ("last", "best")]
    return all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in pairs
    )


def interrupt(config: RunConfig, epoch: int, step: int = 0) -> Run:
    """A run that is interrupted when it reports a step."""

    def stop(event: dict[str, object]) -> None:
        if event["event"] == "step" and (event["epoch"], event["step"]) == (epoch, step):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(config, progress=stop)
    return Run.open(config.run_path)


def check_coverage(run: Run, num_epochs: int) -> None:
    """Assert that the logged steps are the planned ones, in order, each once."""
    for epoch in range(num_epochs):
        plan, taken = BatchPlan.open(run.plan(epoch)), run.steps(epoch)
        planned = [
            {
                "step": step.step,
                "modality": step.modality,
                "num_rows": len(step.rows),
                "rows_hash": hashlib.sha256(np.ascontiguousarray(step.rows)).hexdigest()[:16],
            }
            for step in plan.steps()
        ]
        assert taken.select(list(planned[0])).to_pylist() == planned


def read_samples(folder: Path) -> dict[str, tuple[dict[str, Any], Sample]]:
    """Metadata and sample by sample_id, of intact shards."""
    found = {}
    for path in discover_shards([str(folder)]):
        with ShardFile(path) as file:
            reader = ShardReader(file)
            for sample in reader.samples():
                facts = json.loads(sample.members["json"])
                assert facts["sample_id"] not in found
                found[facts["sample_id"]] = (facts, sample)
            assert reader.accounting.samples_lost == 0
    return found


def bytes_at_once(folder: Path) -> int:
    """Content of files that all existed at one moment: opened before and not unlinked after it."""
    held = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            held.append(os.open(path, os.O_RDONLY))
    sizes = [os.fstat(each).st_size for each in held]
    total = sum(size for each, size in zip(held, sizes, strict=True) if os.fstat(each).st_nlink)
    for each in held:
        os.close(each)
    return total
