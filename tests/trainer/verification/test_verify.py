"""`remix verify`: what holds passes at every moment of a run, and whatever is tampered with, lost or damaged is named."""

import hashlib
import json
import re
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest
import torch

import remix
from pipeline.errors import MissingError
from pipeline.features.feature_set import FeatureSet, part_name, read_table, write_table
from pipeline.features.id_index import STEPS_SCHEMA
from pipeline.plans.plan import BatchPlan
from pipeline.storage.schemas import PLAN, encode_metadata, read_metadata, with_metadata
from pipeline.storage.store_path import MANIFEST, Place
from tests.support.stores import make_features, run_config
from trainer.launch import launch
from trainer.models import checkpoint as checkpoints
from trainer.run_directory import Run
from trainer.verification.verify import verify

Steps = list[dict[str, Any]]
Tamper = Callable[[Run], object]
TRAIN = {"epochs": 5, "warmup_epochs": 2, "rescore_every": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a finished run that scores every second epoch: to be read only."""
    store = tmp_path_factory.mktemp("trained")
    make_features(store / "features" / "made", missing=0.2)
    launch(run_config(store, train=TRAIN))
    return store


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    """A copy of the run, to be tampered with."""
    shutil.copytree(trained, tmp_path / "store", ignore=shutil.ignore_patterns("tensorboard"))
    return Run.open(Place.at(tmp_path / "store" / "runs" / "run"))


def features_of(run: Run) -> Place:
    return run.place.parent.parent / "features" / "made"


def found(run: Run, **options: Any) -> list[tuple[str, str]]:
    """What is named: (artifact, what)."""
    result = verify(run, **options)
    assert result["ok"] == (not result["problems"])
    assert {each["epoch"] for each in result["epochs"] if not each["ok"]} == {
        each["epoch"] for each in result["problems"]
    } - {None} - missing_epochs(result)
    return [(each["artifact"], each["what"]) for each in result["problems"]]


def missing_epochs(result: dict[str, Any]) -> set[int]:
    return {each["epoch"] for each in result["problems"]} - {
        each["epoch"] for each in result["epochs"]
    }


def test_a_finished_run_holds(trained: Path) -> None:
    run, seen = Run.open(Place.at(trained / "runs" / "run")), []
    result = verify(run, parts=True, progress=lambda done, total: seen.append((done, total)))
    assert result["problems"] == []
    plans = [BatchPlan.open(run.plan(epoch)) for epoch in range(5)]
    num_rows = len(FeatureSet.open(features_of(run)).rows_of("train"))
    told = [
        {"epoch": epoch, "steps": len(plan), "rows": num_rows, "taken": len(plan), "ok": True}
        for epoch, plan in enumerate(plans)
    ]
    assert result == {
        "run": "run",
        "status": "finished",
        "ok": True,
        "num_epochs": 5,
        "epochs": told,
        "problems": [],
    }
    assert seen == [(done, 5 + 9) for done in range(15)]


@pytest.mark.parametrize(
    "changes",
    [
        {"plan": {"order": "interleaved", "stratify": True, "locality": 32}},
        {"plan": {"policy": "random", "shares": "equal"}},
        {"plan": {"shares": {"sound": 0.5, "sight": 0.25, "touch": 0.25}}},
        {"plan": {"policy": "loss", "min_share": 0.2}, "seed": 7},
        {"train": {"warmup_epochs": 0, "batch_size": 5}},
        {"train": {"warmup_epochs": 2}},
    ],
)
def test_every_kind_of_plan_holds(tmp_path: Path, changes: dict[str, Any]) -> None:
    make_features(tmp_path / "features" / "made", missing=0.2)
    train = {"epochs": 2, "warmup_epochs": 1, **changes.get("train", {})}
    assert found(launch(run_config(tmp_path, **{**changes, "train": train}))) == []


def edited_plan(
    epoch: int, change: Callable[[Steps], object], /, *, hashed: bool = True, **metadata: Any
) -> Tamper:
    """Changes the steps of a plan, under a right fingerprint unless told otherwise."""

    def tamper(run: Run) -> None:
        table = read_table(run.plan(epoch))
        facts, steps = read_metadata(table.schema), read_table(run.plan(epoch)).to_pylist()
        change(steps)
        new, facts = pa.Table.from_pylist(steps, PLAN), {**facts, **metadata}
        stored = facts.pop("fingerprint")
        new = (
            with_metadata(new, facts)
            if hashed
            else new.replace_schema_metadata(encode_metadata({**facts, "fingerprint": stored}))
        )
        write_table(run.plan(epoch), new)

    return tamper


def swap(steps: Steps) -> None:
    first, second = (
        step["rows"]
        for step in steps
        if step["modality"] == steps[0]["modality"] and step["step"] < 2
    )
    first[0], second[0] = second[0], first[0]


def set_row(row: int) -> Callable[[Steps], None]:
    def change(steps: Steps) -> None:
        steps[0]["rows"][0] = row

    return change


def set_modality(name: str, number: int = 0) -> Callable[[Steps], None]:
    return lambda steps: steps[number].update(modality=name)


def of_split(split: str) -> Callable[[Steps], None]:
    """Puts a row of another split where one of train was (the features of all tests are the same)."""
    labels = np.random.default_rng(0).permutation(200) % 5
    return set_row(int(np.flatnonzero(labels == {"validation": 3, "test": 4}[split])[0]))


def merge_steps(steps: Steps) -> None:
    steps[0]["rows"] += steps[1]["rows"]
    del steps[1]
    for number, step in enumerate(steps):
        step["step"] = number


def with_parents(run: Run, epoch: int, **parents: str) -> None:
    known = read_metadata(read_table(run.plan(epoch)).schema)["parents"]
    edited_plan(epoch, lambda steps: None, parents={**known, **parents})(run)


HASHES = r"\A(?!.*\bparents\.).*\b[0-9a-f]{12}\b.*\b[0-9a-f]{12}\b"
PLANS: dict[str, tuple[Tamper, str, str]] = {
    "rows swapped": (edited_plan(3, swap), "plans/epoch-0003.arrow", HASHES),
    "rows swapped in warm-up": (edited_plan(1, swap), "plans/epoch-0001.arrow", HASHES),
    "row dropped": (
        edited_plan(3, lambda steps: steps[0]["rows"].pop()),
        "plans/epoch-0003.arrow",
        r"(?=.*\b1\b)(?=.*\btrain\b)",
    ),
    "row twice": (
        edited_plan(3, lambda steps: steps[1]["rows"].append(steps[0]["rows"][0])),
        "plans/epoch-0003.arrow",
        r"(?=.*\b1\b)(?=.*\b0\b)",
    ),
    "row twice in a step": (
        edited_plan(3, lambda steps: steps[0]["rows"].append(steps[0]["rows"][0])),
        "plans/epoch-0003.arrow",
        r"\b0\b",
    ),
    "row of test": (edited_plan(3, of_split("test")), "plans/epoch-0003.arrow", r"\btest\b"),
    "row of validation": (
        edited_plan(0, of_split("validation")),
        "plans/epoch-0000.arrow",
        r"\bvalidation\b",
    ),
    "row past the end": (
        edited_plan(3, set_row(200)),
        "plans/epoch-0003.arrow",
        r"(?=.*\b0\b)(?=.*\b200\b)",
    ),
    "row below 0": (
        edited_plan(3, set_row(-1)),
        "plans/epoch-0003.arrow",
        r"(?=.*\b0\b)(?=.*(?<!\w)-1\b)",
    ),
    "modality of a step": (
        edited_plan(3, set_modality("touch")),
        "plans/epoch-0003.arrow",
        r"(?=.*\b0\b)(?=.*\btouch\b)",
    ),
    "unknown modality": (
        edited_plan(3, set_modality("smell")),
        "plans/epoch-0003.arrow",
        r"(?=.*\bsmell\b)(?=.*\bsound\b)(?=.*\bsight\b)(?=.*\btouch\b)",
    ),
    "all after warm-up": (
        edited_plan(3, set_modality("all")),
        "plans/epoch-0003.arrow",
        r"(?=.*\ball\b)(?=.*\bsound\b)(?=.*\bsight\b)(?=.*\btouch\b)",
    ),
    "pure in warm-up": (
        edited_plan(1, set_modality("sound")),
        "plans/epoch-0001.arrow",
        r"(?=.*\bsound\b)(?=.*\ball\b)",
    ),
    "step numbers": (
        edited_plan(3, lambda steps: steps[1].update(step=7)),
        "plans/epoch-0003.arrow",
        r"(?=.*\b1\b)(?=.*\b7\b)",
    ),
    "batch sizes": (
        edited_plan(3, merge_steps),
        "plans/epoch-0003.arrow",
        r"(?=.*\bbatch_size\b)(?=.*\b16\b)",
    ),
    "no new fingerprint": (
        edited_plan(3, swap, hashed=False),
        "plans/epoch-0003.arrow",
        r"\bfingerprint\b",
    ),
    "no steps": (
        edited_plan(3, lambda steps: steps.clear()),
        "plans/epoch-0003.arrow",
        r"\btrain\b",
    ),
    "epoch": (
        edited_plan(3, lambda steps: None, epoch=2),
        "plans/epoch-0003.arrow",
        r"(?=.*\bepoch\b)(?=.*\b2\b)(?=.*\b3\b)",
    ),
    "batch size": (
        edited_plan(3, lambda steps: None, batch_size=32),
        "plans/epoch-0003.arrow",
        r"(?=.*\bbatch_size\b)(?=.*\b32\b)(?=.*\b16\b)",
    ),
    "parents": (
        edited_plan(3, lambda steps: None, parents={}),
        "plans/epoch-0003.arrow",
        r"(?=.*\bparents\.features\b)(?=.*\bNone\b)",
    ),
    "parent features": (
        lambda run: with_parents(run, 0, features="f" * 64),
        "plans/epoch-0000.arrow",
        r"(?=.*\bparents\.features\b)(?=.*\bf{12}\b)",
    ),
    "parent config": (
        lambda run: with_parents(run, 0, config="f" * 64),
        "plans/epoch-0000.arrow",
        r"(?=.*\bparents\.config\b)(?=.*\bf{12}\b)",
    ),
    "parent scores": (
        lambda run: with_parents(run, 3, scores="f" * 64),
        "plans/epoch-0003.arrow",
        r"(?=.*\bparents\.scores\b)(?=.*\bf{12}\b)",
    ),
    "plan of an earlier epoch": (
        lambda run: run.plan(3).write_bytes(run.plan(2).read_bytes()),
        "plans/epoch-0003.arrow",
        r"(?=.*\bepoch\b)(?=.*\b2\b)(?=.*\b3\b)",
    ),
    "plan too many": (
        lambda run: run.plan(7).write_bytes(run.plan(2).read_bytes()),
        "plans/epoch-0007.arrow",
        r"\b5\b",
    ),
}


def edited_table(
    place: Callable[[Run], Place], change: Callable[[pa.Table], pa.Table], *, hashed: bool = False
) -> Tamper:
    """Changes a table; its metadata stay as they are, but for the fingerprint where asked."""

    def tamper(run: Run) -> None:
        before = read_table(place(run))
        after = change(before).combine_chunks().replace_schema_metadata(before.schema.metadata)
        facts = read_metadata(before.schema)
        write_table(
            place(run),
            with_metadata(
                after, {key: value for key, value in facts.items() if key != "fingerprint"}
            )
            if hashed
            else after,
        )

    return tamper


def with_value(column: str, row: int, value: object) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist()
        values[row] = value
        return table.set_column(
            table.column_names.index(column),
            table.schema.field(column),
            pa.array(values, table.schema.field(column).type),
        )

    return change


def without_row(row: int) -> Callable[[pa.Table], pa.Table]:
    return lambda table: pa.concat_tables([table.slice(0, row), table.slice(row + 1)])


def more_able(table: pa.Table) -> pa.Table:
    """The row that goes to the first modality goes to another."""
    row = next(
        i
        for i, each in enumerate(table.to_pylist())
        if each["kl_sound"] == min(each["kl_sound"], *(each[n] for n in ("kl_sight", "kl_touch")))
    )
    return with_value("kl_sound", row, 1.58)(table)


def other_label(table: pa.Table) -> pa.Table:
    return with_value("label", 0, (table["label"][0].as_py() + 1) % 3)(table)


def scores_of(epoch: int) -> Callable[[Run], Place]:
    return lambda run: run.scores(epoch)


def index_of(epoch: int) -> Callable[[Run], Place]:
    return lambda run: run.plan_index(epoch)


def steps_of(step: int, epoch: int = 3) -> Callable[[Run], Place]:
    return lambda run: run.place / "steps" / f"epoch-{epoch:04d}-step-{step:08d}.arrow"


def copied(source: Callable[[Run], Place], name: str) -> Tamper:
    return lambda run: (source(run).parent / name).write_bytes(source(run).read_bytes())


def with_json(place: Callable[[Run], Place], change: Callable[[dict[str, Any]], object]) -> Tamper:
    def tamper(run: Run) -> None:
        value = place(run).read_json()
        change(value)
        place(run).write_json(value)

    return tamper


def index_of_another_plan(run: Run) -> None:
    facts = encode_metadata({"batch_rows": 2**16, "num_rows": 200, "parents": {"plan": "f" * 64}})
    write_table(
        run.plan_index(3),
        read_table(run.plan_index(3)).cast(STEPS_SCHEMA).replace_schema_metadata(facts),
    )


def stats(change: Callable[[dict[str, Any]], object]) -> Tamper:
    return with_json(lambda run: run.plan_stats(3), change)


LOGS: dict[str, tuple[Tamper, str, str]] = {
    "scores edited": (
        edited_table(scores_of(2), with_value("p_label_sound", 0, 0.5)),
        "scores/epoch-0002.arrow",
        r"\bfingerprint\b",
    ),
    "plan follows from other scores": (
        edited_table(scores_of(2), more_able, hashed=True),
        "plans/epoch-0003.arrow",
        HASHES,
    ),
    "parent of other scores": (
        edited_table(scores_of(2), more_able, hashed=True),
        "plans/epoch-0002.arrow",
        r"\bparents\.scores\b",
    ),
    "scores of fewer rows": (
        edited_table(scores_of(2), without_row(5), hashed=True),
        "scores/epoch-0002.arrow",
        r"\btrain\b",
    ),
    "scores of other labels": (
        edited_table(scores_of(2), other_label, hashed=True),
        "scores/epoch-0002.arrow",
        r"\btrain\b",
    ),
    "scores of a missing modality": (
        edited_table(scores_of(4), with_value("kl_sound", 0, float("nan")), hashed=True),
        "scores/epoch-0004.arrow",
        r"(?=.*\bkl_sound\b)(?=.*\bNaN\b)",
    ),
    "scores of unknown rows": (
        edited_table(scores_of(4), with_value("row", 0, 900), hashed=True),
        "scores/epoch-0004.arrow",
        r"(?=.*\b900\b)(?=.*\b200\b)",
    ),
    "scores of another epoch": (
        copied(scores_of(2), "epoch-0004.arrow"),
        "scores/epoch-0004.arrow",
        r"(?=.*\bepoch\b)(?=.*\b2\b)(?=.*\b4\b)",
    ),
    "scores lost": (lambda run: run.scores(2).delete(), "scores/epoch-0002.arrow", ""),
    "stats: steps": (
        stats(lambda told: told.update(num_steps=1)),
        "plans/epoch-0003.stats.json",
        r"(?=.*\bnum_steps\b)(?=.*\b1\b)",
    ),
    "stats: rows": (
        stats(lambda told: told.update(num_rows=1)),
        "plans/epoch-0003.stats.json",
        r"(?=.*\bnum_rows\b)(?=.*\b1\b)",
    ),
    "stats: share": (
        stats(lambda told: told["modalities"]["sight"].update(share=0.1)),
        "plans/epoch-0003.stats.json",
        r"\bsight\b",
    ),
    "stats: modality": (
        stats(lambda told: told["modalities"].pop("sight")),
        "plans/epoch-0003.stats.json",
        r"\bsight\b",
    ),
    "stats: no such entry": (
        stats(lambda told: told.pop("modalities")),
        "plans/epoch-0003.stats.json",
        r"\bmodalities\b",
    ),
    "stats: a list": (
        lambda run: run.plan_stats(3).write_bytes(b"[]"),
        "plans/epoch-0003.stats.json",
        "",
    ),
    "index: a step": (
        edited_table(index_of(3), with_value("step", 0, 99)),
        "plans/epoch-0003.index.arrow",
        r"(?=.*\b0\b)(?=.*\b99\b)",
    ),
    "index: too short": (
        edited_table(index_of(3), without_row(7)),
        "plans/epoch-0003.index.arrow",
        r"\b199\b",
    ),
    "index: of another plan": (
        index_of_another_plan,
        "plans/epoch-0003.index.arrow",
        r"(?=.*\bparents\.plan\b)(?=.*\bf{12}\b)",
    ),
    "first steps lost": (
        lambda run: steps_of(0)(run).delete(),
        "steps/epoch-0003-step-00000003.arrow",
        r"(?=.*\b3\b)(?=.*\b0\b)(?=.*\b2\b)",
    ),
    "middle steps lost": (
        lambda run: steps_of(3)(run).delete(),
        "steps/epoch-0003-step-00000006.arrow",
        r"(?=.*\b6\b)(?=.*\b3\b)(?=.*\b5\b)",
    ),
    "last steps lost": (lambda run: steps_of(6)(run).delete(), "steps", r"\b6\b"),
    "all steps lost": (
        lambda run: (run.place / "steps").delete(),
        "steps",
        r"(?=.*\b0\b)(?=.*\b7\b)",
    ),
    "steps twice": (
        copied(steps_of(3), "epoch-0003-step-00000005.arrow"),
        "steps/epoch-0003-step-00000005.arrow",
        r"\A(?!.*\b5\b).*\b3\b",
    ),
    "steps under a wrong name": (
        copied(steps_of(3), "epoch-0003-step-00000005.arrow"),
        "steps/epoch-0003-step-00000005.arrow",
        r"(?=.*\b3\b)(?=.*\b5\b)",
    ),
    "steps of another epoch": (
        copied(steps_of(3), "epoch-0004-step-00000003.arrow"),
        "steps/epoch-0004-step-00000003.arrow",
        r"(?=.*\bepoch\b)(?=.*\b3\b)(?=.*\b4\b)",
    ),
    "no name of steps": (
        copied(steps_of(3), "epoch-0003-step-00000003-copy.arrow"),
        "steps/epoch-0003-step-00000003-copy.arrow",
        "",
    ),
    "steps without a plan": (
        copied(steps_of(3), "epoch-0009-step-00000003.arrow"),
        "plans/epoch-0009.arrow",
        "",
    ),
    "steps that nobody planned": (
        edited_table(steps_of(6), with_value("step", 1, 99)),
        "steps/epoch-0003-step-00000006.arrow",
        r"\b99\b",
    ),
    "a step lost": (
        edited_table(steps_of(3), without_row(1)),
        "steps/epoch-0003-step-00000003.arrow",
        r"(?=.*\b5\b)(?=.*\b4\b)",
    ),
    "steps out of order": (
        edited_table(steps_of(3), lambda table: table.take([1, 0, 2])),
        "steps/epoch-0003-step-00000003.arrow",
        r"\A(?!.*\b4\b).*\b3\b",
    ),
    "hash of rows": (
        edited_table(steps_of(3), with_value("rows_hash", 1, "0" * 16)),
        "steps/epoch-0003-step-00000003.arrow",
        r"(?=.*\b4\b)(?=.*\brows_hash\b)(?=.*\b0000)",
    ),
    "modality taken": (
        edited_table(steps_of(3), with_value("modality", 1, "all")),
        "steps/epoch-0003-step-00000003.arrow",
        r"(?=.*\b4\b)(?=.*\bmodality\b)(?=.*\ball\b)",
    ),
    "rows taken": (
        edited_table(steps_of(3), with_value("num_rows", 1, 1)),
        "steps/epoch-0003-step-00000003.arrow",
        r"(?=.*\b4\b)(?=.*\bnum_rows\b)(?=.*\b1\b)",
    ),
    "rows of a modality": (
        edited_table(steps_of(3, 0), with_value("num_rows_touch", 1, 99)),
        "steps/epoch-0000-step-00000003.arrow",
        r"(?=.*\bnum_rows_touch\b)(?=.*\b99\b)",
    ),
    "other plan than taken": (
        edited_plan(3, swap),
        "steps/epoch-0003-step-00000000.arrow",
        r"(?=.*\b0\b)(?=.*\brows_hash\b)",
    ),
}


def epochs_at(run: Run) -> Place:
    return run.place / "epochs.arrow"


def facts_at(run: Run) -> Place:
    return run.place / "run.json"


def manifest_at(run: Run) -> Place:
    return features_of(run) / MANIFEST


def samples_at(run: Run) -> Place:
    return features_of(run) / "samples.arrow"


def outcome_at(run: Run) -> Place:
    return run.place / "test.arrow"


def checkpoint(name: str, **changes: Any) -> Tamper:
    return lambda run: checkpoints.save(
        run.checkpoint(name), {**checkpoints.load(run.checkpoint(name)), **changes}
    )


def cursor(name: str, **changes: Any) -> Tamper:
    def tamper(run: Run) -> None:
        found = checkpoints.load(run.checkpoint(name))
        checkpoints.save(run.checkpoint(name), {**found, "cursor": {**found["cursor"], **changes}})

    return tamper


FACTS: dict[str, tuple[Tamper, str, str]] = {
    "epoch's row lost": (edited_table(epochs_at, without_row(4)), "epochs.arrow", r"\b4\b"),
    "epoch's row in the middle lost": (
        edited_table(epochs_at, without_row(1)),
        "epochs.arrow",
        r"\b0\W+2\W+3\W+4\b",
    ),
    "epoch's row twice": (
        edited_table(epochs_at, lambda table: pa.concat_tables([table, table.slice(4)])),
        "epochs.arrow",
        r"\b0\W+1\W+2\W+3\W+4\W+4\b",
    ),
    "epoch's rows": (
        edited_table(epochs_at, with_value("num_rows", 1, 7)),
        "epochs.arrow",
        r"(?=.*\b1\b)(?=.*\bnum_rows\b)(?=.*\b7\b)",
    ),
    "epoch's steps": (
        edited_table(epochs_at, with_value("num_steps", 1, 7)),
        "epochs.arrow",
        r"(?=.*\b1\b)(?=.*\bnum_steps\b)(?=.*\b7\b)",
    ),
    "epochs lost": (lambda run: epochs_at(run).delete(), "epochs.arrow", r"\b0\b"),
    "last lost": (lambda run: run.checkpoint("last").delete(), "checkpoints/last.pt", ""),
    "best lost": (lambda run: run.checkpoint("best").delete(), "checkpoints/best.pt", r"\b\d\b"),
    "last is no checkpoint": (
        lambda run: torch.save({"model": 1}, run.checkpoint("last").path),
        "checkpoints/last.pt",
        "",
    ),
    "last of other features": (
        checkpoint("last", features="f" * 64),
        "checkpoints/last.pt",
        r"(?=.*\bfeatures\b)(?=.*\bf{12}\b)",
    ),
    "best of other configuration": (
        checkpoint("best", digest="f" * 64),
        "checkpoints/best.pt",
        r"(?=.*\bdigest\b)(?=.*\bf{12}\b)",
    ),
    "best of other seed": (
        checkpoint("best", seed=9),
        "checkpoints/best.pt",
        r"(?=.*\bseed\b)(?=.*\b9\b)(?=.*\b0\b)",
    ),
    "cursor before the end": (
        cursor("last", epoch=4),
        "checkpoints/last.pt",
        r"(?=.*\(4, 0\))(?=.*\(5, 0\))",
    ),
    "cursor past the end": (
        cursor("last", epoch=9),
        "checkpoints/last.pt",
        r"(?=.*\b9\b)(?=.*\b5\b)",
    ),
    "cursor of another plan": (
        cursor("last", epoch=3, step=3, plan_fingerprint="f" * 64),
        "checkpoints/last.pt",
        r"(?=.*\b3\b)(?=.*\bf{12}\b)",
    ),
    "cursor past the plan": (
        cursor("last", epoch=3, step=99),
        "checkpoints/last.pt",
        r"(?=.*\b99\b)(?=.*\b3\b)",
    ),
    "cursor is no number": (
        cursor("last", epoch="four"),
        "checkpoints/last.pt",
        r"(?=.*\bcursor\.epoch\b)(?=.*\bfour\b)",
    ),
    "best of a worse epoch": (cursor("best", epoch=0), "checkpoints/best.pt", r"(?<!\w)-1\b"),
    "digest": (
        with_json(facts_at, lambda facts: facts.update(digest="f" * 64)),
        "run.json",
        r"(?=.*\bdigest\b)(?=.*\bf{12}\b)",
    ),
    "configuration": (
        with_json(facts_at, lambda facts: facts["config"].update(seed=1)),
        "run.json",
        r"\bdigest\b",
    ),
    "configuration of the plans": (
        with_json(facts_at, lambda facts: facts["config"].update(seed=1)),
        "plans/epoch-0000.arrow",
        r"(?=.*\bseed\b)(?=.*\b0\b)(?=.*\b1\b)",
    ),
    "no valid configuration": (
        with_json(facts_at, lambda facts: facts["config"].update(seed="x")),
        "run.json",
        "seed",
    ),
    "no configuration": (
        with_json(facts_at, lambda facts: facts.pop("config")),
        "run.json",
        r"\bconfig\b",
    ),
    "features of the run": (
        with_json(facts_at, lambda facts: facts["features"].update(fingerprint="f" * 64)),
        "run.json",
        r"(?=.*\bfingerprint\b)(?=.*\bf{12}\b)",
    ),
    "name of the features": (
        with_json(facts_at, lambda facts: facts["features"].update(name="other")),
        "run.json",
        r"(?=.*\bfeatures\.name\b)(?=.*\bother\b)(?=.*\bmade\b)",
    ),
    "modalities of the run": (
        with_json(facts_at, lambda facts: facts["modalities"].pop()),
        "run.json",
        r"(?=.*\bmodalities\b)(?=.*\['sound', 'sight'\])",
    ),
    "result": (
        with_json(facts_at, lambda facts: facts["result"].update(best_epoch=9)),
        "run.json",
        r"(?=.*\bresult\.best_epoch\b)(?=.*\b9\b)",
    ),
    "no result": (
        with_json(facts_at, lambda facts: facts.pop("result")),
        "run.json",
        r"\bresult\b",
    ),
    "last plan lost": (lambda run: run.plan(4).delete(), "run.json", r"(?=.*\b4\b)(?=.*\b5\b)"),
    "features' fingerprint": (
        with_json(manifest_at, lambda manifest: manifest.update(fingerprint="f" * 64)),
        "features/made/manifest.json",
        r"(?=.*\bfingerprint\b)(?=.*\bf{12}\b)",
    ),
    "features' classes": (
        with_json(manifest_at, lambda manifest: manifest["classes"].reverse()),
        "run.json",
        r"\bfingerprint\b",
    ),
    "features' splits": (
        with_json(manifest_at, lambda manifest: manifest["splits"].update(test=1)),
        "features/made/manifest.json",
        r"\bsplits\b",
    ),
    "features' rows": (
        with_json(manifest_at, lambda manifest: manifest.update(num_rows=1)),
        "features/made/manifest.json",
        r"(?=.*\bnum_rows\b)(?=.*\b1\b)(?=.*\b200\b)",
    ),
    "features' parts": (
        with_json(manifest_at, lambda manifest: manifest["parts"].pop()),
        "features/made/manifest.json",
        r"(?=.*\bparts\b)(?=.*\b200\b)",
    ),
    "hash of a part": (
        with_json(
            manifest_at,
            lambda manifest: manifest["parts"][0]["files"]["sight"].update(sha256="f" * 64),
        ),
        "features/made/manifest.json",
        r"\bfingerprint\b",
    ),
    "no hash of a part": (
        with_json(manifest_at, lambda manifest: manifest["parts"][0].pop("files")),
        "features/made/manifest.json",
        r"\bfiles\b",
    ),
    "a manifest of nothing": (
        lambda run: manifest_at(run).write_json({}),
        "features/made/manifest.json",
        r"\bmodalities\b",
    ),
    "features lost": (lambda run: features_of(run).delete(), "features/made/manifest.json", ""),
    "a sample's split": (
        edited_table(samples_at, with_value("split", 0, "exam")),
        "features/made/samples.arrow",
        r"(?=.*\b0\b)(?=.*\btrain\b)(?=.*\bvalidation\b)(?=.*\btest\b)",
    ),
    "a sample's label": (
        edited_table(samples_at, with_value("label", 0, 2)),
        "features/made/manifest.json",
        r"\bfingerprint\b",
    ),
    "a sample's number": (
        edited_table(samples_at, with_value("row", 0, 5)),
        "features/made/samples.arrow",
        r"\b0\b",
    ),
    "test lost": (lambda run: outcome_at(run).delete(), "test.arrow", ""),
    "a row of the test lost": (edited_table(outcome_at, without_row(0)), "test.arrow", r"\btest\b"),
    "a row of the test twice": (
        edited_table(outcome_at, lambda table: pa.concat_tables([table, table.slice(0, 1)])),
        "test.arrow",
        r"\btest\b",
    ),
}


@pytest.mark.parametrize(
    ("tamper", "artifact", "what"),
    [pytest.param(*each, id=name) for name, each in {**PLANS, **LOGS, **FACTS}.items()],
)
def test_what_is_tampered_with_is_named(run: Run, tamper: Tamper, artifact: str, what: str) -> None:
    tamper(run)
    problems = found(run)
    assert any(name == artifact and re.search(what, said) for name, said in problems), problems


def test_a_careful_forgery_is_named(run: Run) -> None:
    """Plan, index and log agree with each other, and each row is still trained once; but the scores do not make that plan."""
    edited_plan(3, swap)(run)
    plan = BatchPlan.open(run.plan(3))
    step_of = np.full(200, -1, np.int32)
    for step in plan.steps():
        step_of[step.rows] = step.step
        place = steps_of(step.step // 3 * 3)(run)
        edited_table(
            lambda run, place=place: place,
            with_value(
                "rows_hash", step.step % 3, hashlib.sha256(step.rows.tobytes()).hexdigest()[:16]
            ),
        )(run)
    facts = encode_metadata(
        {"batch_rows": 2**16, "num_rows": 200, "parents": {"plan": plan.fingerprint}}
    )
    write_table(run.plan_index(3), pa.table({"step": step_of}).replace_schema_metadata(facts))
    problems = found(run)
    assert [name for name, _ in problems] == ["plans/epoch-0003.arrow"]
    assert re.search(HASHES, problems[0][1])


GROUPS = [
    "plans/*[0-9].arrow",
    "plans/*.stats.json",
    "plans/*.index.arrow",
    "scores/*",
    "steps/*",
    "checkpoints/*",
    "*.arrow",
]
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "zeros": lambda data: b"\0" * len(data),
}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("damage", [None, *DAMAGES])
def test_each_lost_or_damaged_artifact_is_named(run: Run, group: str, damage: str | None) -> None:
    files = sorted(Path(run.place.path).glob(group))
    assert len(files) > 1
    for path in files:
        data = path.read_bytes()
        path.unlink()
        if damage:
            path.write_bytes(DAMAGES[damage](data))
    named, lost = (
        {name for name, _ in found(run)},
        {str(path.relative_to(run.place.path)) for path in files},
    )
    assert lost <= named if damage or group != "steps/*" else "steps" in named


@pytest.mark.parametrize("name", ["run.json", "manifest.json", "samples.arrow"])
@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_root_is_named(run: Run, name: str, damage: str) -> None:
    place = (run.place if name == "run.json" else features_of(run)) / name
    place.write_bytes(DAMAGES[damage](place.read_bytes()))
    assert [artifact.split("/")[-1] for artifact, _ in found(run)] == [name]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_damage_ends_in_a_traceback(run: Run) -> None:
    rng = np.random.default_rng(0)
    files = [
        path
        for path in Path(run.place.path).rglob("*")
        if path.is_file() and not path.name.startswith(".")
    ]
    files = sorted([*files, Path(manifest_at(run).path), Path(samples_at(run).path)])
    for _ in range(20):
        chosen = [files[i] for i in rng.choice(len(files), 4, replace=False)]
        before = [path.read_bytes() for path in chosen]
        for path, data in zip(chosen, before, strict=True):
            damaged = np.frombuffer(data, np.uint8).copy()
            damaged[rng.integers(0, len(data), 1 + rng.integers(8))] = rng.integers(256)
            path.write_bytes(damaged.tobytes())
        found(run)
        for path, data in zip(chosen, before, strict=True):
            path.write_bytes(data)


def test_damaged_parts_are_named_where_they_are_read(run: Run) -> None:
    part = features_of(run) / "sight" / part_name(1)
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(bytes(data))
    (features_of(run) / "touch" / part_name(2)).delete()
    assert found(run) == []
    assert [name for name, _ in found(run, parts=True)] == [
        "features/made/sight/part-00001.arrow",
        "features/made/touch/part-00002.arrow",
    ]


class KilledError(Exception):
    """What a killed process is to a test."""


def test_a_run_holds_at_every_moment_however_often_it_is_killed(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", missing=0.2)
    config = run_config(tmp_path, train={"epochs": 3, "warmup_epochs": 1})
    run, num_events = Run(config.run_place), 0
    saved: dict[str, bytes] = {}

    def watch(stop: Callable[[dict[str, Any]], bool]) -> Callable[[dict[str, Any]], None]:
        def progress(event: dict[str, Any]) -> None:
            nonlocal num_events
            num_events += 1
            assert verify(run)["problems"] == []
            if stop(event):
                raise KilledError
            if event["event"] == "step" and run.checkpoint("last").exists():
                saved["last"] = run.checkpoint("last").read_bytes()

        return progress

    with pytest.raises(KilledError):
        launch(
            config,
            progress=watch(
                lambda event: event["event"] == "step" and (event["epoch"], event["step"]) == (1, 4)
            ),
        )
    result = verify(run)
    assert (result["ok"], result["status"], [each["taken"] for each in result["epochs"]]) == (
        True,
        "failed",
        [len(BatchPlan.open(run.plan(0))), 3],
    )
    with pytest.raises(KilledError):
        launch(
            config,
            resume=True,
            progress=watch(lambda event: (event["event"], event["epoch"]) == ("epoch", 1)),
        )
    # as if it had been killed between the row in epochs.arrow and the checkpoint
    run.checkpoint("last").write_bytes(saved["last"])
    assert run.epochs().num_rows == 2
    assert checkpoints.load(run.checkpoint("last"))["cursor"]["epoch"] == 1
    launch(config, resume=True, progress=watch(lambda event: False))
    assert num_events > 20
    assert verify(run)["epochs"][-1]["ok"]


def test_what_a_killed_run_lost_behind_its_checkpoint_is_named(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", missing=0.2)
    config = run_config(tmp_path, train={"epochs": 2, "warmup_epochs": 1})

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "step" and (event["epoch"], event["step"]) == (1, 4):
            raise KilledError

    with pytest.raises(KilledError):
        launch(config, progress=stop)
    run = Run.open(config.run_place)
    lost = steps_of(0, 1)(run)
    data = lost.read_bytes()
    lost.delete()
    (said,) = [said for name, said in found(run) if name == "steps"]
    assert re.search(r"(?=.*\b0\b)(?=.*\b2\b)", said)
    lost.write_bytes(data)
    run.checkpoint("last").delete()
    assert [name for name, _ in found(run)] == ["checkpoints/last.pt"]


def test_a_run_may_be_trained_meanwhile(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", missing=0.2)
    config = run_config(
        tmp_path, train={"epochs": 8, "warmup_epochs": 2}, resources={"checkpoint_every": 1}
    )
    ended, results = threading.Event(), []

    def watch() -> None:
        while not ended.is_set():
            if (config.run_place / "run.json").exists():
                results.append(verify(Run(config.run_place)))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        launch(config)
    finally:
        ended.set()
        thread.join()
    assert [each["problems"] for each in results if not each["ok"]] == []
    assert len({len(each["epochs"]) for each in results}) > 3


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs `remix verify ...` in this process and returns exit code, output and errors."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["remix", "verify", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            remix.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, " ".join(err.split())

    return run


def test_the_command_says_what_it_found(
    run: Run, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = command(run.place)
    assert (code, out.splitlines()[-1]) == (0, "run (finished), 5 of 5 epochs: everything holds")
    assert len(out.splitlines()) == 6
    steps_of(3)(run).delete()
    code, out, _ = command(run.place, "--json")
    assert (code, len(out.splitlines())) == (1, 1)
    result = json.loads(out)
    assert result == verify(run)
    assert result["problems"][0].keys() == {"epoch", "artifact", "what"}
    assert (
        result["problems"][0]["epoch"],
        result["epochs"][3]["ok"],
        result["epochs"][2]["ok"],
    ) == (3, False, True)
    code, out, _ = command(run.place)
    assert code == 1
    assert "epoch 3: " in out and "NOT AS IT SHOULD BE" in out
    assert re.search(
        r"steps/epoch-0003-step-00000006\.arrow: (?=.*\b6\b)(?=.*\b3\b)(?=.*\b5\b)", out
    )
    part = features_of(run) / "sound" / part_name(0)
    part.write_bytes(part.read_bytes() + b"x")
    code, out, _ = command(run.place, "--parts", "--json")
    assert {each["artifact"] for each in json.loads(out)["problems"]} == {
        "features/made/sound/part-00000.arrow",
        "steps/epoch-0003-step-00000006.arrow",
    }
    code, out, err = command(tmp_path / "store" / "runs" / "nope")
    assert (code, out, "runs/nope" in err) == (2, "", True)
    facts_at(run).write_bytes(b"{")
    code, out, _ = command(run.place, "--json")
    result = json.loads(out)
    assert (code, result["status"], result["epochs"], result["problems"][0]["artifact"]) == (
        1,
        None,
        [],
        "run.json",
    )


def test_a_run_on_s3_is_verified_there(trained: Path, s3: Callable[[], str]) -> None:
    store = Place.at(s3())
    pafs.copy_files(
        str(trained),
        store.path,
        source_filesystem=pafs.LocalFileSystem(),
        destination_filesystem=store.fs,
    )
    run = Run.open(store / "runs" / "run")
    assert verify(run, parts=True)["problems"] == []
    steps_of(3)(run).delete()
    assert [name for name, _ in found(run)] == ["steps/epoch-0003-step-00000006.arrow"]
    with pytest.raises(MissingError, match="runs/nope"):
        Run.open(store / "runs" / "nope")
