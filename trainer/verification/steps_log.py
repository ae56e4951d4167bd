"""The steps that a run says it took, held against the steps of its plans."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np

from pipeline.errors import MissingError
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan, Step
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.schemas import ALL, steps_schema
from pipeline.storage.store_path import StorePath
from trainer.verification.problems import Problems

Row = dict[str, Any]
NAME = re.compile(r"epoch-(\d{4,})-step-(\d{8,})\.arrow")


def check_steps(
    files: Sequence[tuple[int, StorePath]],
    epoch: int,
    plan: BatchPlan,
    features: FeatureSet,
    problems: Problems,
    *,
    masks: bool,
) -> tuple[int, int]:
    """Holds the log of an epoch against its plan: steps in order, each once, each as planned.

    `files` are named after their first steps; `masks`: a step of one modality trains no other.
    Returns how many steps were taken, and the step after the last of them.
    """
    planned, taken, due = plan.steps(), 0, 0
    for path, row in _rows(files, features.modalities, problems):
        number = row["step"]
        if number != due:
            problems.add(path, f"has step {number} where step {due} should be", "order")
        if not due <= number < len(plan):
            continue
        step = next(islice(planned, number - due, None))
        for name, value in _expected(step, epoch, features, masks).items():
            if row[name] != value:
                said = f"{name} is {row[name]!r}, but the plan says {value!r}"
                problems.add(path, f"step {number}: {said}", name)
        taken, due = taken + 1, number + 1
    return taken, due


def _expected(step: Step, epoch: int, features: FeatureSet, masks: bool) -> Row:
    """What the log has to say of a step."""
    names, has = features.modalities, features.has[step.rows]
    if step.assigned is not None:
        has = has & step.trained(names)
    elif masks and step.modality != ALL:
        has = has & (np.array(names) == step.modality)
    return {
        "epoch": epoch,
        "modality": step.modality,
        "num_rows": len(step.rows),
        "rows_hash": step.rows_hash,
        **{f"num_rows_{name}": int(has[:, k].sum()) for k, name in enumerate(names)},
    }


def _rows(
    files: Sequence[tuple[int, StorePath]], modalities: list[str], problems: Problems
) -> Iterator[tuple[StorePath, Row]]:
    """The rows of all files, from the first step on."""
    schema = steps_schema(modalities)
    columns = ["epoch", "step", "modality", "num_rows", "rows_hash"]
    columns += [f"num_rows_{name}" for name in modalities]
    for first, path in sorted(files, key=lambda file: file[0]):
        # a listed file may be gone: a run that is resumed takes the steps after its checkpoint anew
        with problems.reading(path), suppress(MissingError):
            batches = BatchFile(path, schema).batches(columns)
            for number, row in enumerate(row for batch in batches for row in batch.to_pylist()):
                if not number:
                    problems.expect(path, "its first step", row["step"], first)
                yield path, row
