"""What a plan does, in numbers that survive JSON: balance, batch sizes, transitions, churn, difficulty, and how much it makes a reader read."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.arrays import Array
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
    """A plan's statistics; needs one byte a feature row, and with scores one more a scored row.

    `order` tells the course of the plan: the steps of each modality between equal edges, one bin a step where there are at most MAX_ORDER_BINS.
    `labels` are those of all feature rows (by default the scores'); `batch_rows` is the size of the features' record batches.
    `churn` is the share of the rows in both plans whose modality differs; null where there is no previous plan or one of the two has joint rows.
    Of a mixed plan rows count by what they train, and steps under "all"; a row that comes again counts each time, and has the owner of its last step.
    `read_amplification` is the rows of all record batches that each step touches, over the rows that it uses: 1 at best, `batch_rows` at worst.
    """
    names = _names(plan)
    owners = _owners(plan, names)
    statistics: Json = {
        "num_steps": len(plan),
        **_steps(plan, names, batch_rows),
        "order": _order(plan, names),
    }
    statistics |= {"churn": _churn(owners, names, previous), "histograms": None}
    if scores is not None:
        scored = np.concatenate([_at(owners, column(block, "row")) for block in scores.blocks()])
        statistics["histograms"] = score_histograms(
            scores, plan.metadata.get("num_classes"), owners=scored, names=names
        )
        if labels is None:
            counts = _class_counts(scored, scores.labels, len(names))
    if labels is not None:
        counts = _class_counts(owners, labels, len(names))
    known = labels is not None or scores is not None
    for k, name in enumerate(names):
        statistics["modalities"][name]["class_counts"] = counts[k].tolist() if known else None
    return statistics


def statistics_at(path: StorePath, scores: Scores | None = None) -> Json:
    """The statistics of a plan file, as a run stores them where it lies in a run's folder, beside its scores, the plan before it and its features.

    Raises MissingError, DataError, MismatchError.
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
        raise DataError(
            f"{path}: metadata 'remix.epoch' is missing", "give a plan that Remix wrote"
        )
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
            f"{run / 'run.json'} does not name its features", "restore it, or train again"
        )
    return FeatureSet.open(run.parent.parent / "features" / name)


def _scores_of(run: StorePath, epoch: int, fingerprint: str) -> Scores:
    """The scores that a plan was made from: those of its epoch, or of the last one before it that was scored."""
    for number in range(epoch, -1, -1):
        path = run / "scores" / f"epoch-{number:04d}.arrow"
        if path.exists():
            scores = Scores.open(path)
            check_parent(f"plan {epoch} of {run}", fingerprint, "scores", str(scores.fingerprint))
            return scores
    raise MissingError(
        f"plan {epoch} of {run} was made from scores {fingerprint[:12]}, which are not there",
        "give them with --scores",
    )


def _names(plan: BatchPlan) -> list[str]:
    """The modalities that the plan may train: those of its metadata, then others that its steps name."""
    used = pc.unique(plan.table["modality"]).to_pylist()
    named = (
        []
        if used == [ALL] and "assigned" not in plan.table.column_names
        else list(plan.metadata.get("modalities", []))
    )
    return named + [name for name in used if name not in named]


def _parts(plan: BatchPlan, names: list[str]) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Per record batch: the modality index and the number of rows of each step, and the rows of all of them with what each trains."""
    for batch in plan.table.to_batches():
        rows, modality = (
            batch.column("rows"),
            pc.index_in(batch.column("modality"), pa.array(names)).to_numpy(),
        )
        sizes = np.diff(rows.offsets.to_numpy())
        owners = np.repeat(modality, sizes)
        if "assigned" in batch.schema.names:
            assigned = batch.column("assigned").flatten().to_numpy()
            owners = np.where(assigned < 0, owners, assigned)
        yield modality, sizes, rows.flatten().to_numpy(), owners


def _owners(plan: BatchPlan, names: list[str]) -> npt.NDArray[np.int8]:
    """(largest row + 1,) int8: the index of each row's modality, UNPLANNED where it has none."""
    last = max((int(rows.max(initial=-1)) for _, _, rows, _ in _parts(plan, names)), default=-1)
    owners = np.full(last + 1, UNPLANNED, np.int8)
    for _, _, rows, found in _parts(plan, names):
        owners[rows] = found
    return owners


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
    for modality, sizes, rows, owners in _parts(plan, names):
        num_steps += np.bincount(modality, minlength=num)
        num_rows += np.bincount(owners, minlength=num)
        np.add.at(num_touched, modality, _touched(sizes, rows, batch_rows))
        sizes_seen.update(
            dict(zip(*(a.tolist() for a in np.unique(sizes, return_counts=True)), strict=True))
        )
        walk = np.concatenate([last, modality])
        np.add.at(transitions, (walk[:-1], walk[1:]), 1)
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
    """How many steps of each modality lie between two edges; edges are step numbers."""
    num_bins = min(len(plan), MAX_ORDER_BINS)
    edges = [len(plan) * i // max(num_bins, 1) for i in range(num_bins + 1)]
    counts, start = np.zeros((len(names), num_bins), np.int64), 0
    for modality, _, _, _ in _parts(plan, names):
        numbers = np.arange(start, start + len(modality))
        np.add.at(counts, (modality, np.searchsorted(edges, numbers, side="right") - 1), 1)
        start += len(modality)
    return {"edges": edges, "num_steps": {name: counts[k].tolist() for k, name in enumerate(names)}}


def _touched(sizes: Array, rows: Array, batch_rows: int) -> Array:
    """Per step, the number of record batches that hold a row of it."""
    batches = rows // batch_rows
    span = int(batches.max(initial=0)) + 1
    keys = np.repeat(np.arange(len(sizes)) * span, sizes) + batches
    keys.sort()
    distinct = keys[np.diff(keys, prepend=-1) > 0]
    return np.bincount(distinct // span, minlength=len(sizes))


def _churn(
    owners: npt.NDArray[np.int8], names: list[str], previous: BatchPlan | None
) -> float | None:
    if previous is None or _any_joint(owners, names):
        return None
    before_names = _names(previous)
    before = _owners(previous, before_names)
    if _any_joint(before, before_names):
        return None
    to_now = np.array(
        [names.index(name) if name in names else len(names) for name in before_names], np.int8
    )
    num = min(len(before), len(owners))
    both = (before[:num] != UNPLANNED) & (owners[:num] != UNPLANNED)
    return _ratio(int((to_now[before[:num]] != owners[:num])[both].sum()), int(both.sum()))


def _any_joint(owners: npt.NDArray[np.int8], names: list[str]) -> bool:
    return ALL in names and bool((owners == names.index(ALL)).any())


def _class_counts(owners: npt.NDArray[np.int8], labels: Array, num: int) -> Array:
    """(num, C): the labels of each modality's rows; the longer of `owners` and `labels` counts up to the end of the other."""
    num_classes = int(labels.max(initial=0)) + 1
    counts = np.zeros(num * num_classes, np.int64)
    for start in range(0, min(len(owners), len(labels)), TABLE_ROWS):
        stop = min(start + TABLE_ROWS, len(owners), len(labels))
        planned = np.flatnonzero(owners[start:stop] != UNPLANNED) + start
        counts += np.bincount(
            owners[planned].astype(np.int64) * num_classes + labels[planned], minlength=len(counts)
        )
    return counts.reshape(num, num_classes)


def _at(owners: npt.NDArray[np.int8], rows: Array) -> npt.NDArray[np.int8]:
    """The owners of these rows; rows past the last planned one have none."""
    if not len(owners):
        return np.full(len(rows), UNPLANNED, np.int8)
    return np.where(
        rows < len(owners), owners[np.minimum(rows, len(owners) - 1)], np.int8(UNPLANNED)
    )


def _ratio(above: Any, below: Any) -> float | None:
    return float(above / below) if below else None
