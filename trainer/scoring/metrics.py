"""Metrics of the heads' predictions by class, from counts that are exact for any number of ranks.

They are those of torchmetrics; their states are summed over the ranks.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.arrays import Array
from pipeline.features.feature_set import FeatureSet
from trainer.models.model import FUSED
from trainer.process_group import World

if TYPE_CHECKING:
    from torchmetrics import Metric

MAX_CONFUSION_CLASSES = 64
"""With more classes, no confusion matrix is made, so that run.json stays small."""
THRESHOLDS = torch.sigmoid(torch.linspace(-16, 16, 201, dtype=torch.float64)).float()
"""Of the ROC curve. They are equally spaced in the logit, because AUROC depends on the order of
probabilities alone, and those of many classes are all close to 0."""


class ClassMetrics:
    """Counts the predictions of a split by class."""

    def __init__(self, features: FeatureSet, world: World, *, auroc: bool) -> None:
        self._features, self._world = features, world
        from torchmetrics import classification  # takes seconds to import

        num = len(features.classes)
        # `result` sums over the ranks, whose numbers of batches differ
        common: dict[str, Any] = {"sync_on_compute": False, "validate_args": False}

        def metrics() -> dict[str, "Metric"]:
            own: dict[str, Metric] = {
                "counts": classification.MulticlassStatScores(num, average=None, **common)
            }
            if num <= MAX_CONFUSION_CLASSES:
                own["confusion"] = classification.MulticlassConfusionMatrix(num, **common)
            if auroc:
                own["auroc"] = classification.MulticlassAUROC(
                    num, average=None, thresholds=THRESHOLDS.clone(), **common
                )
            return own

        self._heads = {head: metrics() for head in (FUSED, *features.modalities)}

    def add(self, rows: Array, by_head: dict[str, Array]) -> None:
        """Add the probabilities (B, C) of rows (B,) by head."""
        for h, (head, metrics) in enumerate(self._heads.items()):
            present = self._features.has[rows, h - 1] if h else np.full(len(rows), True)
            if present.any():
                p = by_head[head][present]
                # as everywhere, the first of equal probabilities is the prediction
                predicted = torch.from_numpy(p.argmax(axis=1))
                labels = torch.from_numpy(self._features.labels[rows][present]).long()
                for name, metric in metrics.items():
                    metric.update(torch.from_numpy(p) if name == "auroc" else predicted, labels)

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
        for head, own in self._heads.items():
            states = [self._summed(metric) for metric in own.values()]
            correct, wrong, missed = (states[0][key].double() for key in ("tp", "fp", "fn"))
            labels = correct + missed
            if not labels.sum():
                continue
            is_label, occurs = labels > 0, labels + wrong > 0
            f1 = 2 * correct / (2 * correct + wrong + missed)
            metrics[head] = {
                "accuracy": float(correct.sum() / labels.sum()),
                "macro_f1": float(f1[occurs].mean()),
                "balanced_accuracy": float((correct / labels)[is_label].mean()),
            }
            if "auroc" in own:
                areas = own["auroc"].compute()[is_label & (labels < labels.sum())]
                metrics[head]["auroc"] = float(areas.mean()) if len(areas) else None
            if "confusion" in own:
                confusion[head] = own["confusion"].compute().tolist()
        return {"metrics": metrics} | ({"confusion": confusion} if confusion else {})

    def _summed(self, metric: "Metric") -> dict[str, torch.Tensor]:
        """Sum a metric's state over the ranks, in place, and return it."""
        for name, value in metric.metric_state.items():
            total = self._world.sum(torch.as_tensor(value).to(self._world.device))
            setattr(metric, name, total.cpu())
        return {name: torch.as_tensor(value) for name, value in metric.metric_state.items()}
