"""Damaged or invalid scores and plans raise a Remix error with file, column and row.

All readers are tested. They never crash, and never return another table.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import DataError
from pipeline.inspect import inspect
from pipeline.plans import validation
from pipeline.plans.plan import BatchPlan
from pipeline.plans.planner import build, joint_plan_builder
from pipeline.plans.stats import statistics_at
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import write_table
from pipeline.storage.metadata import encode_metadata, fingerprint, read_metadata, with_metadata
from pipeline.storage.store_path import StorePath
from tests.support.hostile_files import (
    HAVING,
    LACKING,
    NAN,
    PLAN,
    SCORES,
    STEPS,
    Edit,
    facts,
    lying,
    sealed,
    value,
)
from tests.support.refusals import refused, unnamed
from tests.support.stores import Command
from trainer.sampler.plan_batch_sampler import PlanBatchSampler

BAD_SCORES: dict[str, tuple[Edit, str]] = {
    "predicted past the classes": (
        value("predicted_ears", HAVING, 5),
        f"{HAVING} predicted_ears 5",
    ),
    "predicted of what is missing": (
        value("predicted_ears", LACKING, 2),
        f"{LACKING} predicted_ears 2 kl_ears",
    ),
    "probability above 1": (value("p_label_ears", HAVING, 1.5), f"{HAVING} p_label_ears 1.5"),
    "probability missing": (
        value("p_label_ears", HAVING, NAN),
        f"{HAVING} p_label_ears nan kl_ears",
    ),
    "probability of what is missing": (
        value("p_label_ears", LACKING, 0.5),
        f"{LACKING} p_label_ears 0.5 kl_ears",
    ),
    "ability above log2 of the classes": (value("kl_ears", HAVING, 2.5), f"{HAVING} kl_ears 2.5 0"),
    "label past the classes": (value("label", 7, 5), "7 label 5"),
    "row past any": (value("row", 149, 2**40), f"{2**40} {2**31}"),
    "id null": (value("sample_id", 70, None), "sample_id 1 70"),
    "column twice": (
        lambda table: sealed(table.append_column("kl_eyes", table["kl_eyes"])),
        "kl_eyes 2",
    ),
    "column of lists": (
        lambda table: table.set_column(2, "label", pa.array([[1]] * 150)),
        "label list",
    ),
    "value changed under its fingerprint": (
        lying(value("kl_ears", HAVING, 0.25)),
        f"fingerprint {read_metadata(SCORES.schema)['fingerprint']}",
    ),
    "fingerprint under another name": (
        lambda table: table.replace_schema_metadata(
            {key.replace(b"nt", b"nu"): text for key, text in table.schema.metadata.items()}
        ),
        "remix.fingerprinu remix.fingerprint",
    ),
    "classes as text": (facts(num_classes="5"), "remix.num_classes '5'"),
    "epoch below 0": (facts(epoch=-1), "remix.epoch -1"),
    "a modality twice": (facts(modalities=["ears", "ears"]), "remix.modalities ears"),
    "a parent that is no text": (facts(parents={"features": 7}), "remix.parents.features 7"),
    "other modalities": (facts(modalities=["ears", "nose"]), "kl_nose nose"),
}


@pytest.mark.parametrize("name", BAD_SCORES)
def test_invalid_scores(tmp_path: Path, command: Command, name: str) -> None:
    edit, words = BAD_SCORES[name]
    path = tmp_path / "scores.arrow"
    write_table(StorePath.at(path), edit(SCORES))
    with refused(DataError, *words.split(), file=path):
        Scores.open(StorePath.at(path))
    code, _, said = command("plan", path, "--out", tmp_path / "plan.arrow")
    assert code == 2 and not unnamed(said, *words.split(), file=path)
    assert not (tmp_path / "plan.arrow").exists()


def test_valid_scores(tmp_path: Path) -> None:
    bare = SCORES.select(["row", "sample_id", "label", "kl_ears", "kl_eyes"])
    same = SCORES.set_column(1, "sample_id", pa.array(["same"] * 150))
    for table in (
        SCORES,
        bare.replace_schema_metadata(None),
        sealed(same),
        SCORES.replace_schema_metadata({"by": "hand"}),
    ):
        for compression in (None, "zstd", "lz4"):
            options = pa.ipc.IpcWriteOptions(compression=compression)
            path = tmp_path / "s.arrow"
            with pa.ipc.new_file(str(path), table.schema, options=options) as writer:
                writer.write_table(table)
            assert Scores.open(StorePath.at(path)).table["kl_ears"].num_chunks
            assert inspect(path)["num_rows"] == 150


def step(number: int, **new: object) -> Edit:
    """Change a step of a plan, and update the fingerprint."""

    def edit(table: pa.Table) -> pa.Table:
        steps = table.to_pylist()
        steps[number].update(new)
        return sealed(pa.Table.from_pylist(steps, table.schema.remove_metadata()))

    return edit


ROW = STEPS[2]["rows"][1]
BAD_PLANS: dict[str, tuple[Edit, str]] = {
    "step numbers": (step(3, step=7), "7 3"),
    "unknown modality": (step(4, modality="nose"), "modality 4 nose all ears eyes"),
    "modality null": (step(4, modality=None), "modality"),
    "row twice in a step": (step(2, rows=[ROW, ROW]), f"rows {ROW} 2"),
    "row twice": (step(9, rows=[ROW]), f"rows {ROW} 2 9"),
    "row below 0": (step(5, rows=[-7]), "rows 5 -7"),
    "row past any": (step(5, rows=[2**62]), f"rows 5 {2**62}"),
    "row null": (step(5, rows=[None]), "rows"),
    "no rows": (step(5, rows=[]), "5 0"),
    "a large batch": (step(5, rows=list(range(900, 909))), "5 batch_size 8"),
    "rows swapped under its fingerprint": (
        lying(step(0, rows=STEPS[0]["rows"][::-1])),
        f"fingerprint {read_metadata(PLAN.schema)['fingerprint']}",
    ),
    "batch size as text": (facts(batch_size="8"), "remix.batch_size '8'"),
    "column twice": (lambda table: table.append_column("rows", table["rows"]), "rows 2"),
    "wrong type": (
        lambda table: table.set_column(0, "step", table["step"].cast(pa.int64())),
        "step int64 int32",
    ),
}


@pytest.mark.parametrize("name", BAD_PLANS)
def test_invalid_plans(tmp_path: Path, command: Command, name: str) -> None:
    edit, words = BAD_PLANS[name]
    path = tmp_path / "plan.arrow"
    write_table(StorePath.at(path), edit(PLAN))
    opened: list[Callable[[], object]] = [
        lambda: BatchPlan.open(StorePath.at(path)),
        lambda: PlanBatchSampler(path),
        lambda: statistics_at(StorePath.at(path)),
    ]
    for work in opened:
        with refused(DataError, *words.split(), file=path):
            work()
    for asked in ("stats", "inspect"):
        code, _, said = command(asked, path)
        assert code == 2 and not unnamed(said, *words.split(), file=path)


def test_rows_of_a_plan_must_be_rows_of_the_features(tmp_path: Path) -> None:
    path = StorePath.at(tmp_path / "plan.arrow")
    write_table(path, PLAN)
    assert len(BatchPlan.open(path, num_rows=150)) == len(PLAN)
    assert PlanBatchSampler(path, num_rows=150).num_steps == len(PLAN)
    at = next(step["step"] for step in STEPS if 149 in step["rows"])
    for opened in (BatchPlan.open, PlanBatchSampler):
        with refused(DataError, "rows", at, 149, file=path):
            opened(path, num_rows=149)


@pytest.mark.parametrize("window", [7, 64])
def test_repeated_rows_are_detected_window_by_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(validation, "WINDOW_ROWS", window)
    table = build(joint_plan_builder(np.arange(500) * 2, 16, 0, 0)).table
    path = StorePath.at(tmp_path / "plan.arrow")
    write_table(path, table)
    assert len(BatchPlan.open(path)) == len(table)
    rng = np.random.default_rng(window)
    for _ in range(2):
        steps = table.to_pylist()
        one, other = rng.choice(len(steps), 2, replace=False)
        row = steps[other]["rows"][3] = steps[one]["rows"][0]
        repeated = pa.Table.from_pylist(steps, table.schema.remove_metadata())
        write_table(path, with_metadata(repeated, {"batch_size": 16}))
        with refused(DataError, row, one, other, file=path):
            BatchPlan.open(path)


def test_fingerprints_have_not_changed() -> None:
    """Strings are hashed from their buffers, with the same result if sliced, chunked or empty."""
    words = ["x", "", "yz", "é", "\0", "x" * 300]
    table = pa.table({"s": words})
    lengths = hashlib.sha256(np.array([len(w.encode()) for w in words], np.int64)).hexdigest()
    content = hashlib.sha256("".join(words).encode()).hexdigest()
    text = json.dumps([{}, len(words), [["s", "string", lengths, content]]], separators=(",", ":"))
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert fingerprint(table, {}) == expected
    padded = pa.table({"s": ["junk", *words, "more"]}).slice(1, len(words))
    assert fingerprint(padded, {}) == expected
    empty = pa.table({"s": pa.array([], pa.string())})
    assert fingerprint(table.slice(0, 0), {}) == fingerprint(empty, {})
    assert encode_metadata({}) == {}
