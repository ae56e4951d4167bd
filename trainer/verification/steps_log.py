"""Check the log of an epoch's training steps against its plan."""

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
    """Check that the log of an epoch has each step once, in order and as planned.

    Args:
        files: The log's files, with their first steps.
        masks: Whether a step of one modality trains no other.
    Returns:
        The number of steps taken, and the step after the last of them.
    """
    planned, num_taken, next_step = plan.steps(), 0, 0
    for path, row in _rows(files, features.modalities, problems):
        number = row["step"]
        if number != next_step:
            problems.add(path, f"step {number} follows, expected step {next_step}", "order")
        if not next_step <= number < len(plan):
            continue
        step = next(islice(planned, number - next_step, None))
        for name, value in _expected(step, epoch, features, masks).items():
            if row[name] != value:
                problems.add(
                    path, f"step {number}: {name} is {row[name]!r}, {value!r} in the plan", name
                )
        num_taken, next_step = num_taken + 1, number + 1
    return num_taken, next_step


def _expected(step: Step, epoch: int, features: FeatureSet, masks: bool) -> Row:
    """The row of the log for a step that was trained as planned."""
    names, active = features.modalities, features.has[step.rows]
    if step.assigned is not None:
        active = active & step.trained(names)
    elif masks and step.modality != ALL:
        active = active & (np.array(names) == step.modality)
    return {
        "epoch": epoch,
        "modality": step.modality,
        "num_rows": len(step.rows),
        "rows_hash": step.rows_hash,
        **{f"num_rows_{name}": int(active[:, k].sum()) for k, name in enumerate(names)},
    }


def _rows(
    files: Sequence[tuple[int, StorePath]], modalities: list[str], problems: Problems
) -> Iterator[tuple[StorePath, Row]]:
    """Yield the rows of all files, in the order of the files' first steps."""
    schema = steps_schema(modalities)
    columns = ["epoch", "step", "modality", "num_rows", "rows_hash"]
    columns += [f"num_rows_{name}" for name in modalities]
    for first, path in sorted(files, key=lambda file: file[0]):
        # a listed file may have been deleted: a resumed run repeats the steps after its checkpoint
        with problems.reading(path), suppress(MissingError):
            batches = BatchFile(path, schema).batches(columns)
            for number, row in enumerate(row for batch in batches for row in batch.to_pylist()):
                if not number:
                    problems.expect(path, "the first step", row["step"], first)
                yield path, row
