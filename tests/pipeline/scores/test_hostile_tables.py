"""Scores and plans that are damaged or lie: an error of ours that names file, column and row, whoever opens them; never a crash, never another table."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import DataError
from pipeline.inspect import inspect
from pipeline.plans import validation
from pipeline.plans.plan import BatchPlan
from pipeline.plans.planner import build, joint_draft
from pipeline.plans.stats import statistics_at
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import write_table
from pipeline.storage.metadata import encode_metadata, fingerprint, read_metadata, with_metadata
from pipeline.storage.store_path import Place
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
    names,
    sealed,
    value,
)
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
    "predicted null": (value("predicted_eyes", 7, None), "predicted_eyes 1 7"),
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
    "seed as a fraction": (facts(seed=0.5), "remix.seed 0.5"),
    "epoch below 0": (facts(epoch=-1), "remix.epoch -1"),
    "a modality twice": (facts(modalities=["ears", "ears"]), "remix.modalities ears"),
    "modalities as text": (facts(modalities="ears"), "remix.modalities 'ears'"),
    "a parent that is no text": (facts(parents={"features": 7}), "remix.parents.features 7"),
    "other modalities": (facts(modalities=["ears", "nose"]), "kl_nose nose"),
}


@pytest.mark.parametrize("name", BAD_SCORES)
def test_scores_that_lie(
    tmp_path: Path, command: Callable[..., tuple[int, str]], name: str
) -> None:
    edit, words = BAD_SCORES[name]
    path = tmp_path / "scores.arrow"
    write_table(Place.at(path), edit(SCORES))
    with pytest.raises(DataError) as error:
        Scores.open(Place.at(path))
    assert str(path) in str(error.value) and names(str(error.value), words, path)
    code, said = command("plan", path, "--out", tmp_path / "plan.arrow")
    assert code == 2 and names(said, words, path)
    assert not (tmp_path / "plan.arrow").exists()


def test_scores_that_are_as_they_should_be(tmp_path: Path) -> None:
    bare = SCORES.select(
        ["row", "sample_id", "label", "kl_ears", "kl_eyes"]
    ).replace_schema_metadata(None)
    same = SCORES.set_column(1, "sample_id", pa.array(["same"] * 150))
    for table in (SCORES, bare, sealed(same), SCORES.replace_schema_metadata({"by": "hand"})):
        for compression in (None, "zstd", "lz4"):
            with pa.ipc.new_file(
                str(tmp_path / "s.arrow"),
                table.schema,
                options=pa.ipc.IpcWriteOptions(compression=compression),
            ) as writer:
                writer.write_table(table)
            assert Scores.open(Place.at(tmp_path / "s.arrow")).table["kl_ears"].num_chunks
            assert inspect(tmp_path / "s.arrow")["num_rows"] == 150


def steps(change: Callable[[list[dict[str, Any]]], object]) -> Edit:
    """Changes the steps of a plan, which is sealed again."""

    def edit(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        change(rows)
        return sealed(pa.Table.from_pylist(rows, table.schema.remove_metadata()))

    return edit


BAD_PLANS: dict[str, tuple[Edit, str]] = {
    "step numbers": (steps(lambda all_: all_[3].update(step=7)), "7 3"),
    "unknown modality": (
        steps(lambda all_: all_[4].update(modality="nose")),
        "modality 4 nose all ears eyes",
    ),
    "modality null": (steps(lambda all_: all_[4].update(modality=None)), "modality"),
    "row twice in a step": (
        steps(lambda all_: all_[2]["rows"].__setitem__(0, STEPS[2]["rows"][1])),
        f"rows {STEPS[2]['rows'][1]} 2",
    ),
    "row twice": (
        steps(lambda all_: all_[9]["rows"].__setitem__(0, STEPS[2]["rows"][1])),
        f"rows {STEPS[2]['rows'][1]} 2 9",
    ),
    "row below 0": (steps(lambda all_: all_[5]["rows"].__setitem__(1, -7)), "rows 5 -7"),
    "row past any": (steps(lambda all_: all_[5]["rows"].__setitem__(1, 2**62)), f"rows 5 {2**62}"),
    "row null": (steps(lambda all_: all_[5]["rows"].__setitem__(1, None)), "rows"),
    "no rows": (steps(lambda all_: all_[5].update(rows=[])), "5 0"),
    "a large batch": (
        steps(lambda all_: all_[5]["rows"].extend([900, 901, 902])),
        "5 batch_size 8",
    ),
    "rows swapped under its fingerprint": (
        lying(steps(lambda all_: all_[0]["rows"].reverse())),
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
def test_plans_that_lie(tmp_path: Path, command: Callable[..., tuple[int, str]], name: str) -> None:
    edit, words = BAD_PLANS[name]
    path = tmp_path / "plan.arrow"
    write_table(Place.at(path), edit(PLAN))
    opened: list[Callable[[], object]] = [
        lambda: BatchPlan.open(Place.at(path)),
        lambda: PlanBatchSampler(path),
        lambda: statistics_at(Place.at(path)),
    ]
    for work in opened:
        with pytest.raises(DataError) as error:
            work()
        assert str(path) in str(error.value) and names(str(error.value), words, path)
    for args in (["stats", path], ["inspect", path]):
        code, said = command(*args)
        assert code == 2 and names(said, words, path)


def test_rows_are_those_of_the_features_where_they_are_known(tmp_path: Path) -> None:
    place = Place.at(tmp_path / "plan.arrow")
    write_table(place, PLAN)
    assert (
        len(BatchPlan.open(place, num_rows=150))
        == len(PLAN)
        == PlanBatchSampler(place, num_rows=150).num_steps
    )
    step = next(step["step"] for step in STEPS if 149 in step["rows"])
    for work in (
        lambda: BatchPlan.open(place, num_rows=149),
        lambda: PlanBatchSampler(place, num_rows=149),
    ):
        with pytest.raises(
            DataError,
            match=rf"(?s)(?=.*plan\.arrow\b)(?=.*\brows\b)(?=.*(?<![\w-]){step}\b)(?=.*(?<![\w-])149\b)",
        ):
            work()


@pytest.mark.parametrize("window", [7, 64])
def test_repeated_rows_are_found_window_by_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(validation, "WINDOW_ROWS", window)
    table = build(joint_draft(np.arange(500) * 2, 16, 0, 0)).table
    place = Place.at(tmp_path / "plan.arrow")
    write_table(place, table)
    assert len(BatchPlan.open(place)) == len(table)
    rng = np.random.default_rng(window)
    for _ in range(2):
        all_ = table.to_pylist()
        one, other = rng.choice(len(all_), 2, replace=False)
        row = all_[one]["rows"][0]
        all_[other]["rows"][3] = row
        write_table(
            place,
            with_metadata(
                pa.Table.from_pylist(all_, table.schema.remove_metadata()), {"batch_size": 16}
            ),
        )
        first, second = sorted([one, other])
        with pytest.raises(
            DataError,
            match=rf"(?s)(?=.*(?<![\w-]){row}\b)(?=.*(?<![\w-]){first}\b)(?=.*(?<![\w-]){second}\b)",
        ):
            BatchPlan.open(place)


def test_the_fingerprint_is_what_it_was() -> None:
    """Strings are hashed from their buffers: the hash is that of their bytes one by one, sliced, chunked or empty."""
    words = ["x", "", "yz", "é", "\0", "x" * 300]
    table = pa.table({"s": words})
    column = [
        "s",
        "string",
        hashlib.sha256(np.array([len(w.encode()) for w in words], np.int64)).hexdigest(),
    ]
    column.append(hashlib.sha256("".join(words).encode()).hexdigest())
    expected = hashlib.sha256(
        json.dumps([{}, len(words), [column]], separators=(",", ":")).encode()
    ).hexdigest()
    assert fingerprint(table, {}) == expected
    padded = pa.table({"s": ["junk", *words, "more"]}).slice(1, len(words))
    assert fingerprint(padded, {}) == expected
    assert fingerprint(table.slice(0, 0), {}) == fingerprint(
        pa.table({"s": pa.array([], pa.string())}), {}
    )
    assert encode_metadata({}) == {}
