"""Metrics of the heads' predictions by class, from counts that are exact for any number of ranks.

AUROC is that of torchmetrics. The others are quotients of the counts: importing torchmetrics takes
seconds, which every run would pay.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.arrays import Array, Int64Array
from pipeline.features.feature_set import FeatureSet
from trainer.models.model import FUSED
from trainer.process_group import World

if TYPE_CHECKING:
    from torchmetrics.classification import MulticlassAUROC

MAX_CONFUSION_CLASSES = 64
"""With more classes, no confusion matrix is made, so that run.json stays small."""
THRESHOLDS = torch.sigmoid(torch.linspace(-16, 16, 201, dtype=torch.float64)).float()
"""Of the ROC curve. They are equally spaced in the logit, because AUROC depends on the order of
probabilities alone, and those of many classes are all close to 0."""


class ClassMetrics:
    """Counts the predictions of a split by class."""

    def __init__(self, features: FeatureSet, world: World, *, auroc: bool) -> None:
        self._features, self._world = features, world
        self._heads = [FUSED, *features.modalities]
        num = len(features.classes)
        # per head and class: labels, predictions, and correct predictions
        self._counts = np.zeros((len(self._heads), 3, num), np.int64)
        small = num if num <= MAX_CONFUSION_CLASSES else 0
        self._confusion = np.zeros((len(self._heads), small * small), np.int64)
        self._auroc = [_auroc(num) for _ in self._heads] if auroc else []

    def add(self, rows: Array, by_head: dict[str, Array]) -> None:
        """Add the probabilities (B, C) of rows (B,) by head."""
        num = self._counts.shape[2]
        for h, head in enumerate(self._heads):
            present = self._features.has[rows, h - 1] if h else np.full(len(rows), True)
            p, labels = by_head[head][present], self._features.labels[rows][present]
            predicted = p.argmax(axis=1)
            for k, classes in enumerate((labels, predicted, labels[predicted == labels])):
                self._counts[h, k] += np.bincount(classes, minlength=num)
            if size := self._confusion.shape[1]:
                self._confusion[h] += np.bincount(labels * num + predicted, minlength=size)
            if self._auroc and len(p):
                self._auroc[h].update(torch.from_numpy(p), torch.from_numpy(labels).long())

    def result(self) -> dict[str, Any]:
        """Entries of run.json, without heads whose modality no row has. All ranks call this.

        Returns:
            `metrics` by head: accuracy; macro_f1, over the classes that are labels or predictions;
            balanced_accuracy, the mean recall of the classes that are labels; auroc, if asked for,
            the mean over the classes that are labels, but not the only one. `confusion` by head:
            the number of rows (C, C) by label and prediction.
        """
        metrics: dict[str, dict[str, float | None]] = {}
        confusion: dict[str, list[list[int]]] = {}
        counts, matrices = self._summed(self._counts), self._summed(self._confusion)
        for h, head in enumerate(self._heads):
            labels, predicted, correct = counts[h]
            areas = self._areas(h)
            if not labels.sum():
                continue
            is_label, occurs = labels > 0, labels + predicted > 0
            metrics[head] = {
                "accuracy": float(correct.sum() / labels.sum()),
                "macro_f1": float((2 * correct[occurs] / (labels + predicted)[occurs]).mean()),
                "balanced_accuracy": float((correct[is_label] / labels[is_label]).mean()),
            }
            if areas is not None:
                areas = areas[is_label & (labels < labels.sum())]
                metrics[head]["auroc"] = float(areas.mean()) if len(areas) else None
            if len(matrices[h]):
                confusion[head] = matrices[h].reshape(len(labels), -1).tolist()
        return {"metrics": metrics} | ({"confusion": confusion} if confusion else {})

    def _summed(self, counts: Int64Array) -> Int64Array:
        total = self._world.sum(torch.from_numpy(counts).to(self._world.device))
        result: Int64Array = total.cpu().numpy()
        return result

    def _areas(self, h: int) -> Array | None:
        """AUROC (C,) of a head, from the states of all ranks; None if it is not asked for."""
        if not self._auroc:
            return None
        metric = self._auroc[h]
        for name, value in metric.metric_state.items():
            total = self._world.sum(torch.as_tensor(value).to(self._world.device))
            setattr(metric, name, total.cpu())
        return np.asarray(metric.compute())


def _auroc(num_classes: int) -> "MulticlassAUROC":
    from torchmetrics.classification import MulticlassAUROC

    # `result` sums over the ranks, whose numbers of batches differ
    return MulticlassAUROC(
        num_classes,
        average=None,
        thresholds=THRESHOLDS.clone(),
        validate_args=False,
        sync_on_compute=False,
    )
