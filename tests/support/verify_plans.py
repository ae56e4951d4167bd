"""Edits to plans, with the artifact that `verify` has to name and what it has to say."""

from collections.abc import Callable

import numpy as np

from pipeline.storage.arrow_files import read_table
from pipeline.storage.metadata import read_metadata
from tests.support.verify_edits import HASHES, Steps, Tamper, edited_plan, swap
from trainer.run_directory import Run


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
