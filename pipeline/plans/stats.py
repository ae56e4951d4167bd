"""Statistics of a plan as JSON: shares, batch sizes, transitions, churn, scores, data read."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.arrays import Array, Int8Array
from pipeline.errors import DataError, MissingError
from pipeline.features.feature_set import FeatureSet
from pipeline.features.part_writer import BATCH_ROWS
from pipeline.plans.plan import BatchPlan
from pipeline.scores.histograms import score_histograms
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import TABLE_ROWS, column
from pipeline.storage.schemas import ALL
from pipeline.storage.store_path import StorePath
from pipeline.storage.table_checks import check_parent

Json = dict[str, Any]
MAX_ORDER_BINS = 512
UNPLANNED = -1


def plan_statistics(
    plan: BatchPlan,
    *,
    labels: Array | None = None,
    scores: Scores | None = None,
    previous: BatchPlan | None = None,
    batch_rows: int = BATCH_ROWS,
) -> Json:
    """Statistics of a plan. Memory: one byte per feature row, and one more per scored row.

    In a mixed plan, rows count for the modality that they train and steps for "all". A repeated row
    counts every time; for `churn`, `class_counts` and `histograms` its last step decides.

    Args:
        plan: The plan.
        labels: Labels of all feature rows, for `class_counts`; by default those of the scores.
        scores: The scores that the plan was made from, for `histograms`.
        previous: The plan of the epoch before, for `churn`.
        batch_rows: Rows per record batch of the features, for `read_amplification`.
    Returns:
        num_steps, num_rows: Size of the plan.
        modalities: Per modality, num_steps, num_rows, its share of the rows, read_amplification
            and class_counts (null if no labels are known).
        batch_sizes: Minimum, maximum and mean, and the number of batches of each size.
        transitions: How often a step of one modality is followed by a step of another.
        num_switches: The number of modality changes between steps.
        order: The number of steps of each modality between equidistant edges; one bin per step up
            to MAX_ORDER_BINS.
        churn: Fraction of the rows in both plans whose modality differs; null without a previous
            plan, or if rows of either plan train all modalities.
        read_amplification: Rows in the record batches that each step reads, divided by the rows
            that it uses: from 1 to `batch_rows`.
        histograms: As score_histograms; null without scores.
    """
    names = _names(plan)
    assignment = _assignment(plan, names)
    statistics: Json = {
        "num_steps": len(plan),
        **_steps(plan, names, batch_rows),
        "order": _order(plan, names),
    }
    statistics |= {"churn": _churn(assignment, names, previous), "histograms": None}
    if scores is not None:
        scored = np.concatenate(
            [_at(assignment, column(block, "row")) for block in scores.blocks()]
        )
        statistics["histograms"] = score_histograms(
            scores, plan.metadata.get("num_classes"), assignment=scored, names=names
        )
        if labels is None:
            counts = _class_counts(scored, scores.labels, len(names))
    if labels is not None:
        counts = _class_counts(assignment, labels, len(names))
    known = labels is not None or scores is not None
    for k, name in enumerate(names):
        statistics["modalities"][name]["class_counts"] = counts[k].tolist() if known else None
    return statistics


def statistics_at(path: StorePath, scores: Scores | None = None) -> Json:
    """Statistics of a plan file; in a run's folder also with its scores, features and last plan.

    Raises:
        MissingError: the plan, or the scores that it was made from, do not exist.
        DataError: a file is damaged.
        MismatchError: the plan was made from other scores or features.
    """
    run = path.parent.parent
    within = path.parent.name == "plans" and (run / "run.json").exists()
    features = _features_of(run) if within else None
    plan = BatchPlan.open(path, num_rows=features.num_rows if features else None)
    parents = plan.metadata.get("parents", {})
    if scores and scores.fingerprint:
        check_parent(str(path), parents.get("scores"), "scores", scores.fingerprint)
    if features is None:
        return plan_statistics(plan, scores=scores)
    if "epoch" not in plan.metadata:
        raise DataError(f"{path}: metadata 'remix.epoch' is missing", "use a plan that Remix wrote")
    epoch = plan.metadata["epoch"]
    before = path.parent / f"epoch-{epoch - 1:04d}.arrow"
    if scores is None and "scores" in parents:
        scores = _scores_of(run, epoch, parents["scores"])
    check_parent(str(path), parents.get("features"), "features", features.fingerprint)
    previous = BatchPlan.open(before) if before.exists() else None
    return plan_statistics(
        plan,
        labels=features.labels,
        scores=scores,
        previous=previous,
        batch_rows=features.manifest["batch_rows"],
    )


def _features_of(run: StorePath) -> FeatureSet:
    features = (run / "run.json").read_json().get("features")
    name = features.get("name") if isinstance(features, dict) else None
    if not isinstance(name, str):
        raise DataError(
            f"{run / 'run.json'}: field 'features.name' is missing", "restore it, or train again"
        )
    return FeatureSet.open(run.parent.parent / "features" / name)


def _scores_of(run: StorePath, epoch: int, fingerprint: str) -> Scores:
    """The scores that a plan was made from: those of the last scored epoch up to its own."""
    for number in range(epoch, -1, -1):
        path = run / "scores" / f"epoch-{number:04d}.arrow"
        if path.exists():
            scores = Scores.open(path)
            check_parent(f"plan {epoch} of {run}", fingerprint, "scores", str(scores.fingerprint))
            return scores
    raise MissingError(
        f"plan {epoch} of {run} was made from scores {fingerprint[:12]}, which do not exist",
        "pass them with --scores",
    )


def _names(plan: BatchPlan) -> list[str]:
    """Modalities that the plan can train: those of its metadata, then others that steps name."""
    used = pc.unique(plan.table["modality"]).to_pylist()
    named = (
        []
        if used == [ALL] and "assigned" not in plan.table.column_names
        else list(plan.metadata.get("modalities", []))
    )
    return named + [name for name in used if name not in named]


def _parts(plan: BatchPlan, names: list[str]) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Yield per record batch: modality index and size of each step, all rows, their assignment."""
    for batch in plan.table.to_batches():
        rows, modality = (
            batch.column("rows"),
            pc.index_in(batch.column("modality"), pa.array(names)).to_numpy(),
        )
        sizes = np.diff(rows.offsets.to_numpy())
        assignment = np.repeat(modality, sizes)
        if "assigned" in batch.schema.names:
            assigned = batch.column("assigned").flatten().to_numpy()
            assignment = np.where(assigned < 0, assignment, assigned)
        yield modality, sizes, rows.flatten().to_numpy(), assignment


def _assignment(plan: BatchPlan, names: list[str]) -> Int8Array:
    """(largest row + 1,) int8: index of each row's modality, UNPLANNED if not in the plan."""
    last = max((int(rows.max(initial=-1)) for _, _, rows, _ in _parts(plan, names)), default=-1)
    assignment = np.full(last + 1, UNPLANNED, np.int8)
    for _, _, rows, part in _parts(plan, names):
        assignment[rows] = part
    return assignment


def _steps(plan: BatchPlan, names: list[str], batch_rows: int) -> Json:
    num = len(names)
    num_steps, num_rows, num_touched = (
        np.zeros(num, np.int64),
        np.zeros(num, np.int64),
        np.zeros(num, np.int64),
    )
    transitions, sizes_seen, last = (
        np.zeros((num, num), np.int64),
        Counter[int](),
        np.empty(0, np.int64),
    )
    for modality, sizes, rows, assignment in _parts(plan, names):
        num_steps += np.bincount(modality, minlength=num)
        num_rows += np.bincount(assignment, minlength=num)
        np.add.at(num_touched, modality, _touched(sizes, rows, batch_rows))
        sizes_seen.update(
            dict(zip(*(a.tolist() for a in np.unique(sizes, return_counts=True)), strict=True))
        )
        sequence = np.concatenate([last, modality])
        np.add.at(transitions, (sequence[:-1], sequence[1:]), 1)
        last = modality[-1:]
    total = int(num_rows.sum())
    return {
        "num_rows": total,
        "modalities": {
            name: {
                "num_steps": int(num_steps[k]),
                "num_rows": int(num_rows[k]),
                "share": _ratio(num_rows[k], total),
                "read_amplification": _ratio(num_touched[k] * batch_rows, num_rows[k]),
            }
            for k, name in enumerate(names)
        },
        "batch_sizes": {
            "min": min(sizes_seen, default=None),
            "max": max(sizes_seen, default=None),
            "mean": _ratio(total, len(plan)),
            "counts": {str(size): count for size, count in sorted(sizes_seen.items())},
        },
        "transitions": {
            a: {b: int(transitions[i, j]) for j, b in enumerate(names)} for i, a in enumerate(names)
        },
        "num_switches": int(transitions.sum() - np.trace(transitions)),
        "batch_rows": batch_rows,
        "read_amplification": _ratio(num_touched.sum() * batch_rows, total),
    }


def _order(plan: BatchPlan, names: list[str]) -> Json:
    """Number of steps of each modality between two edges, which are step numbers."""
    num_bins = min(len(plan), MAX_ORDER_BINS)
    edges = [len(plan) * i // max(num_bins, 1) for i in range(num_bins + 1)]
    counts, start = np.zeros((len(names), num_bins), np.int64), 0
    for modality, _, _, _ in _parts(plan, names):
        numbers = np.arange(start, start + len(modality))
        np.add.at(counts, (modality, np.searchsorted(edges, numbers, side="right") - 1), 1)
        start += len(modality)
    return {"edges": edges, "num_steps": {name: counts[k].tolist() for k, name in enumerate(names)}}


def _touched(sizes: Array, rows: Array, batch_rows: int) -> Array:
    """Number of record batches of the features that each step reads from."""
    batches = rows // batch_rows
    span = int(batches.max(initial=0)) + 1
    # keys of half the width are sorted in half the time
    width = np.dtype(np.uint32 if len(sizes) * span < 2**32 else np.uint64)
    first = (np.arange(len(sizes)) * span).astype(width)
    keys = np.repeat(first, sizes) + batches.astype(width)
    keys.sort()
    is_new = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
    return np.bincount(keys[is_new] // span, minlength=len(sizes))


def _churn(assignment: Int8Array, names: list[str], previous: BatchPlan | None) -> float | None:
    if previous is None or _any_joint(assignment, names):
        return None
    before_names = _names(previous)
    before = _assignment(previous, before_names)
    if _any_joint(before, before_names):
        return None
    to_now = np.array(
        [names.index(name) if name in names else len(names) for name in before_names], np.int8
    )
    num = min(len(before), len(assignment))
    both = (before[:num] != UNPLANNED) & (assignment[:num] != UNPLANNED)
    return _ratio(int((to_now[before[:num]] != assignment[:num])[both].sum()), int(both.sum()))


def _any_joint(assignment: Int8Array, names: list[str]) -> bool:
    return ALL in names and bool((assignment == names.index(ALL)).any())


def _class_counts(assignment: Int8Array, labels: Array, num: int) -> Array:
    """(num, C): class counts of each modality's rows, over the rows that both arrays have."""
    num_classes = int(labels.max(initial=0)) + 1
    counts = np.zeros(num * num_classes, np.int64)
    for start in range(0, min(len(assignment), len(labels)), TABLE_ROWS):
        stop = min(start + TABLE_ROWS, len(assignment), len(labels))
        planned = np.flatnonzero(assignment[start:stop] != UNPLANNED) + start
        counts += np.bincount(
            assignment[planned].astype(np.int64) * num_classes + labels[planned],
            minlength=len(counts),
        )
    return counts.reshape(num, num_classes)


def _at(assignment: Int8Array, rows: Array) -> Int8Array:
    """The assignment of some rows, UNPLANNED for rows after the last planned one."""
    if not len(assignment):
        return np.full(len(rows), UNPLANNED, np.int8)
    return np.where(
        rows < len(assignment),
        assignment[np.minimum(rows, len(assignment) - 1)],
        np.int8(UNPLANNED),
    )


def _ratio(numerator: Any, denominator: Any) -> float | None:
    return float(numerator / denominator) if denominator else None
