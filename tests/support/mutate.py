"""Mutated files as cases of `benchmarks/fuzz.py`.

Opening one must raise a RemixError or return the content of the original file.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml
from pydantic import BaseModel

from pipeline.config import load
from pipeline.decode.config import DecodeConfig
from pipeline.errors import RemixError
from pipeline.features.feature_set import FeatureSet
from pipeline.features.part_writer import part_name
from pipeline.inspect import inspect
from pipeline.plans.config import PlanConfig
from pipeline.plans.plan import BatchPlan
from pipeline.plans.planner import build, remix_plan_builder
from pipeline.scores.table import Scores
from pipeline.storage.metadata import fingerprint, with_metadata
from pipeline.storage.store_path import MANIFEST, StorePath
from tests.support.fuzzing import Case, Cases
from tests.support.mutations import Kind, mutations, text_mutations
from tests.support.plan_tables import arithmetic_costs, scores_table
from tests.support.stores import SHAPES, make_features, run_config


def kind_of(name: str, folder: Path) -> Kind:
    """The kind of this name in KINDS; its judge writes files into `folder`."""
    return KINDS[name](folder)


def _file(data: bytes, folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _written(table: pa.Table, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(
        sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)
    ) as writer:
        writer.write_table(table, max_chunksize=70)
    return bytes(sink.getvalue())


def _same(actual: pa.Table, expected: pa.Table) -> None:
    assert fingerprint(actual.select(expected.column_names), {}) == fingerprint(expected, {}), (
        "the table differs from the original"
    )


def scores_to_mutate() -> pa.Table:
    table = scores_table(arithmetic_costs(150, 2, missing=True), names=["ears", "eyes"])
    for name in ("ears", "eyes"):
        predicted = np.where(
            np.isnan(table[f"kl_{name}"].to_numpy()), -1, np.arange(150) % 5
        ).astype(np.int32)
        table = table.append_column(f"predicted_{name}", pa.array(predicted))
    parents = {"features": "f" * 64}
    return with_metadata(
        table,
        {
            "epoch": 2,
            "seed": 1,
            "modalities": ["ears", "eyes"],
            "num_classes": 5,
            "parents": parents,
        },
    )


def _allowing(*works: Callable[[], object]) -> bool:
    """Whether all functions return without a RemixError; other errors pass through."""
    accepted = True
    for work in works:
        try:
            work()
        except RemixError as error:
            accepted = False
            assert len(str(error)) < 20_000, "the message is too long"
    return accepted


def scores_kind(folder: Path, compression: str | None = None) -> Kind:
    """A scores file."""
    table = scores_to_mutate()

    def judge(data: bytes) -> bool:
        path = _file(data, folder, "scores.arrow")
        return _allowing(
            lambda: _same_scores(Scores.open(StorePath.at(path)), table),
            lambda: json.dumps(inspect(path)),
        )

    return Kind(_written(table, compression), judge, mutations)


def _same_scores(actual: Scores, expected: pa.Table) -> None:
    """Scores without a fingerprint, as other programs write them, may have any content."""
    if actual.fingerprint:
        _same(actual.table, expected)


def plan_kind(folder: Path, compression: str | None = None) -> Kind:
    """A plan file, opened as a plan and by PlanBatchSampler."""
    from trainer.sampler.plan_batch_sampler import PlanBatchSampler

    table = build(remix_plan_builder(Scores(scores_to_mutate()), PlanConfig(), 8, 0, 2)).table
    rows = [row for rows in table["rows"].to_pylist() for row in rows]

    def sample(path: Path) -> None:
        assert [row for batch in PlanBatchSampler(path) for row in batch] == rows

    def judge(data: bytes) -> bool:
        path = _file(data, folder, "plan.arrow")
        return _allowing(
            lambda: _same(BatchPlan.open(StorePath.at(path)).table, table),
            lambda: sample(path),
            lambda: json.dumps(inspect(path)),
        )

    return Kind(_written(table, compression), judge, mutations)


def _features_kind(
    folder: Path, name: str, mutate: Callable[[bytes, int, int], Iterator[bytes]]
) -> Kind:
    made = make_features(
        folder / "made", {key: SHAPES[key] for key in ("sound", "touch")}, num_rows=150, missing=0.2
    )
    assert made.path.local
    number = 0

    def check(path: StorePath) -> None:
        features = FeatureSet.open(path)
        _same(features.samples, made.samples)
        for modality in features.modalities:
            for start in range(0, features.num_rows, 64):
                rows = np.arange(start, min(start + 64, features.num_rows))
                # only `remix verify --parts` compares parts with their SHA-256
                assert features.read(modality, rows).shape == (len(rows), *made.shape(modality))

    def judge(data: bytes) -> bool:
        nonlocal number
        shutil.rmtree(folder / f"copy-{number}", ignore_errors=True)
        number += 1
        copy = folder / f"copy-{number}"
        shutil.copytree(folder / "made", copy, copy_function=os.link)
        (copy / name).unlink()
        (copy / name).write_bytes(data)
        return _allowing(lambda: check(StorePath.at(copy)), lambda: json.dumps(inspect(copy)))

    return Kind((folder / "made" / name).read_bytes(), judge, mutate)


def checkpoint_kind(folder: Path) -> Kind:
    """A checkpoint of a model."""
    from trainer.models import checkpoint as checkpoints
    from trainer.models.checkpoint import Cursor
    from trainer.models.model import build_model

    features = make_features(
        folder / "made", {key: SHAPES[key] for key in ("sound", "touch")}, num_rows=20
    )
    config = run_config(folder, model={"encoders": {}, "encoder": {"kind": "mlp", "hidden": 4}})
    path = StorePath.at(folder / "original.pt")
    state = build_model(
        config.model,
        {name: features.shape(name) for name in features.modalities},
        len(features.classes),
        0,
    ).state_dict()
    cursor = asdict(Cursor(epoch=1, best_epoch=0, best_value=-0.5))
    metadata = {
        "features": features.fingerprint,
        "digest": config.digest,
        "seed": 0,
        "amp": "off",
        "optimizer": {},
        "cursor": cursor,
    }
    checkpoints.save(
        path,
        {
            **metadata,
            "model": state,
            "architecture": checkpoints.architecture(config.model, features),
        },
    )

    def judge(data: bytes) -> bool:
        return _allowing(
            lambda: checkpoints.model_of(
                StorePath.at(_file(data, folder, "checkpoint.pt")), features
            )
        )

    return Kind(path.read_bytes(), judge, mutations)


def _yaml_kind(folder: Path, name: str, config: object, read: Callable[[Path], BaseModel]) -> Kind:
    def judge(data: bytes) -> bool:
        path = _file(data, folder, name)
        return _allowing(lambda: json.dumps(read(path).model_dump(mode="json"), allow_nan=False))

    return Kind(yaml.safe_dump(config, sort_keys=False).encode(), judge, text_mutations)


def decode_yaml_kind(folder: Path) -> Kind:
    """A DecodeConfig in YAML."""
    config = {
        "modalities": {
            "eyes": {"kind": "video", "member": ["mp4"], "frames": 4, "size": 32},
            "ears": {"kind": "audio", "member": "wav", "seconds": 1.5, "sample_rate": 16000},
            "skin": {"kind": "tensor", "member": "npy", "shape": [3, 4]},
        },
        "classes": ["a", "b"],
        "max_rejected_share": 0.5,
        "limits": {"seconds": 60.0, "pixels": 4096},
    }
    return _yaml_kind(folder, "decode.yaml", config, lambda path: load(DecodeConfig, path))


def run_yaml_kind(folder: Path) -> Kind:
    """A run's YAML."""
    from trainer.config import load_run

    config = run_config(folder, source={"generate": {"samples": 20}}).model_dump(mode="json")
    return _yaml_kind(folder, "run.yaml", config, load_run)


KINDS: dict[str, Callable[[Path], Kind]] = {
    "scores": scores_kind,
    "scores_zstd": lambda folder: scores_kind(folder, "zstd"),
    "plan": plan_kind,
    "plan_lz4": lambda folder: plan_kind(folder, "lz4"),
    "samples": lambda folder: _features_kind(folder, "samples.arrow", mutations),
    "part": lambda folder: _features_kind(folder, f"touch/{part_name(1)}", mutations),
    "manifest": lambda folder: _features_kind(folder, MANIFEST, text_mutations),
    "checkpoint": checkpoint_kind,
    "decode_yaml": decode_yaml_kind,
    "run_yaml": run_yaml_kind,
}
YAML = ("decode_yaml", "run_yaml")


def table_cases(folder: Path) -> Cases:
    """Arrow files, manifests and checkpoints, in turn."""
    return _cases([name for name in KINDS if name not in YAML], folder)


def yaml_cases(folder: Path) -> Cases:
    """Configurations, in turn."""
    return _cases(YAML, folder)


def _cases(names: Sequence[str], folder: Path) -> Cases:
    for name in names:
        (folder / name).mkdir()
    kinds = [(name, KINDS[name](folder / name)) for name in names]

    def case(seed: int, number: int) -> Case:
        name, kind = kinds[number % len(kinds)]
        (data,) = kind.mutations(kind.original, (seed << 40) + number, 1)
        return Case(
            name=name, data=data, judge=lambda data: "accepted" if kind.judge(data) else "refused"
        )

    return case
