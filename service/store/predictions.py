"""Accuracy by class and reliability of the heads of a run, counted from its test predictions."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from pipeline.arrays import Array, BoolArray, Float64Array, Int64Array
from pipeline.errors import MissingError
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.table_checks import MAX_CLASSES
from service import prediction_schemas as api
from service.store.catalog import Catalog

FILE = "test.arrow"
KINDS = {"predicted": pa.int32(), "p_predicted": pa.float32()}


@dataclass(frozen=True, slots=True)
class TestCounts:
    """Sums over the test samples, by head (H), and by bin of confidence (B) or class (C)."""

    __test__ = False  # for pytest

    heads: list[str]
    num_rows: int
    bins: Float64Array  # (H, 3, B): samples, correct ones, sum of confidences
    classes: Int64Array  # (H, 2, C): samples, correct ones

    def reliability(self) -> api.Reliability:
        """Confidence and accuracy of each head."""
        return api.Reliability(
            num_rows=self.num_rows,
            num_classes=self.classes.shape[2],
            heads=dict(zip(self.heads, map(_head, self.bins), strict=True)),
        )

    def class_results(self, start: int, num: int) -> list[api.ClassResult]:
        """At most `num` classes, beginning with class `start`."""
        return [
            api.ClassResult(
                label=label,
                heads={
                    head: api.ClassCounts(
                        num_rows=rows, num_correct=right, accuracy=_quotient(right, rows)
                    )
                    for head, (rows, right) in zip(
                        self.heads, self.classes[:, :, label].tolist(), strict=True
                    )
                },
            )
            for label in range(start, min(start + num, self.classes.shape[2]))
        ]


def read_counts(catalog: Catalog, run: str, num_bins: int) -> TestCounts:
    """Counts of test.arrow, a record batch in memory at a time. Raises MissingError, DataError."""
    detail = catalog.run(run)
    if not catalog.reader.has("runs", run, FILE):
        raise MissingError(f"No test predictions of run {run!r} yet", "Wait until it is finished")
    artifact = catalog.reader.artifact("runs", run, FILE)
    file = catalog.reader.table(artifact, pa.schema([("label", pa.int32())]))
    own = ["fused", *detail.modalities]
    others = ["assembled", *(f"assembled_{name}" for name in detail.modalities)]
    heads = own + (others if "predicted_assembled" in file.schema.names else [])
    columns = [(f"{kind}_{head}", type_) for head in heads for kind, type_ in KINDS.items()]
    file = catalog.reader.table(artifact, pa.schema([("label", pa.int32()), *columns]))
    return catalog.reader.cached(
        artifact,
        f"test counts {num_bins} {heads}",
        partial(_count, file, heads, num_bins),
        lambda counts: counts.bins.nbytes + counts.classes.nbytes,
    )


def _count(file: BatchFile, heads: list[str], num_bins: int) -> TestCounts:
    """Count all rows. Raises ValueError if a label or a confidence is out of range."""
    num_rows, bins = 0, np.zeros((len(heads), 3, num_bins))
    classes = np.zeros((len(heads), 2, 0), np.int64)
    for batch in file.batches(["label", *(f"{kind}_{head}" for head in heads for kind in KINDS)]):
        labels = batch.column("label").to_numpy()
        num_rows += len(labels)
        if len(labels) and not 0 <= labels.min() <= labels.max() < MAX_CLASSES:
            raise ValueError(f"labels from {labels.min()} to {labels.max()}")
        size = max(classes.shape[2], int(labels.max(initial=-1)) + 1)
        classes = np.pad(classes, ((0, 0), (0, 0), (0, size - classes.shape[2])))
        for h, head in enumerate(heads):
            p = batch.column(f"p_predicted_{head}").to_numpy(zero_copy_only=False)
            right = batch.column(f"predicted_{head}").to_numpy() == labels
            present = ~np.isnan(p)
            _add(bins[h], classes[h], labels[present], p[present], right[present])
    return TestCounts(heads, num_rows, bins, classes)


def _add(
    bins: Float64Array, classes: Int64Array, labels: Array, p: Array, right: BoolArray
) -> None:
    """Add predictions of one head: labels, confidences and whether they are right, (B,) each."""
    if len(p) and not 0 <= p.min() <= p.max() <= 1:
        raise ValueError(f"confidences from {p.min()} to {p.max()}")
    num_bins, size = bins.shape[1], classes.shape[1]
    number = np.minimum((p.astype(float) * num_bins).astype(int), num_bins - 1)
    for k, weights in enumerate((None, right, p)):
        bins[k] += np.bincount(number, weights, num_bins)
    for k, own in enumerate((labels, labels[right])):
        classes[k] += np.bincount(own, minlength=size)


def _head(bins: Float64Array) -> api.HeadReliability:
    """The reliability of one head from its counts (3, B)."""
    num, right, total = bins.sum(axis=1).tolist()
    width = 1 / bins.shape[1]
    error = _quotient(float(np.abs(bins[1] - bins[2]).sum()), num)
    return api.HeadReliability(
        num_rows=int(num),
        accuracy=_quotient(right, num),
        confidence=_quotient(total, num),
        calibration_error=error,
        bins=[
            api.ReliabilityBin(
                low=i * width,
                high=(i + 1) * width,
                num_rows=int(rows),
                accuracy=_quotient(hits, rows),
                confidence=_quotient(p, rows),
            )
            for i, (rows, hits, p) in enumerate(bins.T.tolist())
        ],
    )


def _quotient(part: float, total: float) -> float | None:
    return part / total if total else None
