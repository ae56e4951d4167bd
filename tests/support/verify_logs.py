"""Edits to scores, indexes, statistics and logs, with the artifact that `verify` has to name and what it has to say."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from pipeline.plans.step_index import STEPS_SCHEMA
from pipeline.storage.arrow_files import read_table, write_table
from pipeline.storage.metadata import encode_metadata
from pipeline.storage.store_path import Place
from tests.support.verify_edits import (
    HASHES,
    Tamper,
    edited_plan,
    edited_table,
    steps_of,
    swap,
    with_json,
    with_value,
    without_row,
)
from trainer.run_directory import Run


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


def copied(source: Callable[[Run], Place], name: str) -> Tamper:
    return lambda run: (source(run).parent / name).write_bytes(source(run).read_bytes())


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
