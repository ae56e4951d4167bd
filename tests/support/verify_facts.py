"""Edits to a run's facts, epochs, checkpoints and features, with the artifact that `verify` has to name and what it has to say."""

from typing import Any

import pyarrow as pa
import torch

from pipeline.storage.store_path import Place
from tests.support.verify_edits import (
    Tamper,
    edited_table,
    facts_at,
    features_of,
    manifest_at,
    samples_at,
    with_json,
    with_value,
    without_row,
)
from trainer.models import checkpoint as checkpoints
from trainer.run_directory import Run


def epochs_at(run: Run) -> Place:
    return run.place / "epochs.arrow"


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
