"""Predictions of a model for rows of a feature set, used by scoring, validation and test."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch

from pipeline.arrays import Array
from pipeline.features.feature_set import FeatureSet
from trainer.data.inputs import Inputs
from trainer.data.part_prefetcher import prefetched_rows
from trainer.models.model import FUSED, MultimodalModel, Outputs
from trainer.process_group import World
from trainer.scoring.calibration import (
    TEMPERATURES,
    best_temperature,
    log_probabilities,
    losses,
)
from trainer.scoring.metrics import ClassMetrics

T = TypeVar("T")
PredictAll = Callable[[Array], dict[str, Array]]
"""Maps rows (B,) to class probabilities (B, C) by head, the modalities and "fused"."""


@dataclass(frozen=True, slots=True)
class Predictor:
    """Predicts rows of a feature set in evaluation mode, without augmentation or gradients."""

    model: MultimodalModel
    inputs: Inputs
    feature_set: FeatureSet
    device: torch.device
    amp: bool = False
    temperatures: Mapping[str, float] = field(default_factory=dict)
    """By which the logits of heads are divided; 1 if absent."""

    @torch.inference_mode()
    def __call__(self, rows: Array) -> dict[str, Array]:
        """Class probabilities of rows (B,): per head, unimodal and "fused", (B, C) float32."""
        return self.probabilities(self.outputs(rows)[0])

    @torch.inference_mode()
    def outputs(self, rows: Array) -> tuple[Outputs, dict[str, torch.Tensor]]:
        """Outputs for rows (B,), and which of them have each modality."""
        return self.evaluate(
            lambda inputs, present: (self.model.predict(inputs, present), present), rows
        )

    def outputs_of(
        self, rows: Array, batch_size: int, world: World
    ) -> Iterator[tuple[Array, Outputs, dict[str, torch.Tensor]]]:
        """Yield this rank's batches of rows (n,) with their outputs and presence.

        A batch is yielded when the next one has been given to the device, so that a GPU computes
        while a batch is read and another one is used.
        """
        before = None
        for _, batch in prefetched_rows(self.feature_set, rows, batch_size, world):
            started = (batch, *self.outputs(batch))
            if before:
                yield before
            before = started
        if before:
            yield before

    def probabilities(self, outputs: Outputs) -> dict[str, Array]:
        """Class probabilities by head, (B, C) float32."""
        logits = {**outputs.unimodal, FUSED: outputs.fused}
        return {
            name: _probabilities(value.float() / self.temperatures.get(name, 1.0))
            for name, value in logits.items()
        }

    def alone(self, name: str) -> Callable[[Array], dict[str, Array]]:
        """A function that predicts with the fused head, all modalities but `name` masked."""

        @torch.inference_mode()
        def predict(rows: Array) -> dict[str, Array]:
            outputs = self.evaluate(lambda inputs, has: self.model(inputs, has, active=name), rows)
            return {FUSED: _probabilities(outputs.fused)}

        return predict

    @torch.inference_mode()
    def evaluate(
        self, call: Callable[[dict[str, torch.Tensor], dict[str, torch.Tensor]], T], rows: Array
    ) -> T:
        """Call a function with the inputs and presence of rows (B,), in evaluation mode."""
        was_training = self.model.training
        self.model.eval()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            result = call(*self.inputs.of_rows(self.feature_set, rows))
        self.model.train(was_training)
        return result


def _probabilities(logits: torch.Tensor) -> Array:
    probabilities: Array = torch.softmax(logits.float(), dim=1).cpu().numpy()
    return probabilities


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Evaluation of a model on a split, over all ranks."""

    accuracy: dict[str, float | None]
    """Accuracy per head, over the samples that have the modality; None if no sample has it."""
    loss: float
    """Mean cross-entropy of the fused head."""
    calibrated_loss: dict[str, float | None]
    """Mean cross-entropy per head at its best temperature; None if no sample has the modality."""
    temperature: dict[str, float]
    """The best temperature per head."""
    macro_f1: float
    """F1 score of the fused head, averaged over the classes that are labels or predictions."""
    rho: float | None
    """Confidence ratio of OGM-GE (arXiv 2203.15332): mean probability of the label under the
    strongest modality, divided by that under the weakest; None if one has no samples."""

    @property
    def columns(self) -> dict[str, float | None]:
        """Columns of epochs.arrow."""
        columns: dict[str, float | None] = {"validation_loss": self.loss, "rho": self.rho}
        for head, accuracy in self.accuracy.items():
            suffix = "" if head == FUSED else f"_{head}"
            columns[f"validation_accuracy{suffix}"] = accuracy
            columns[f"calibrated_loss{suffix}"] = self.calibrated_loss[head]
            columns[f"temperature{suffix}"] = self.temperature[head]
        return {**columns, "macro_f1": self.macro_f1}


def evaluate(
    predictor: PredictAll,
    features: FeatureSet,
    split: str,
    batch_size: int,
    world: World,
    outcomes: list[pa.Table] | None = None,
    metrics: ClassMetrics | None = None,
) -> Evaluation:
    """Evaluate a split; each rank predicts every `world.size`-th batch.

    Args:
        outcomes: If given, receives a table for each batch of this rank: `row`, and per head (the
            modalities and "fused") `predicted_<head>` int32, and float32 `p_label_<head>`, the
            probability of the label, and `p_predicted_<head>`, that of the predicted class, NaN if
            the sample lacks the head's modality.
        metrics: If given, counts the predictions of this rank.
    """
    tally = _Tally(features, world)
    for _, batch in prefetched_rows(features, features.rows_of(split), batch_size, world):
        by_head, labels = predictor(batch), features.labels[batch]
        tally.add(batch, by_head)
        if metrics:
            metrics.add(batch, by_head)
        if outcomes is not None:
            columns = {"row": batch}
            columns |= {
                f"predicted_{head}": p.argmax(1).astype(np.int32) for head, p in by_head.items()
            }
            columns |= {
                f"p_label_{head}": p[np.arange(len(p)), labels] for head, p in by_head.items()
            }
            has = {
                FUSED: True,
                **dict(zip(features.modalities, features.has[batch].T, strict=True)),
            }
            columns |= {
                f"p_predicted_{head}": np.where(has[head], p.max(1), np.float32(np.nan))
                for head, p in by_head.items()
            }
            outcomes.append(pa.table(columns))
    return tally.evaluation()


class _Tally:
    """Sums over predicted rows, from which an Evaluation is computed."""

    def __init__(self, features: FeatureSet, world: World) -> None:
        self._features, self._world = features, world
        self._heads = [FUSED, *features.modalities]
        # Each rank has its own entries, so that floats are added in the same order by every
        # backend: per head, the numbers of rows and of correct rows, the sums of p and of -log p,
        # and the sum of the losses at each temperature.
        self._sums = np.zeros((world.size, len(self._heads), 4 + len(TEMPERATURES)))
        # per class: labels, predictions, and correct predictions of the fused head
        self._classes = np.zeros((3, len(features.classes)), np.int64)

    def add(self, rows: Array, by_head: dict[str, Array]) -> None:
        """Add the probabilities (B, C) of rows (B,) by head."""
        for h, head in enumerate(self._heads):
            present = self._features.has[rows, h - 1] if h else np.full(len(rows), True)
            p, labels = by_head[head][present], self._features.labels[rows][present]
            log_p, predicted = log_probabilities(p), p.argmax(axis=1)
            own = np.arange(len(p)), labels
            correct = predicted == labels
            totals = (len(p), correct.sum(), p[own].sum(dtype=np.float64), -log_p[own].sum())
            self._sums[self._world.rank, h, :4] += totals
            self._sums[self._world.rank, h, 4:] += losses(log_p, labels).sum(axis=0)
            if head == FUSED:
                for k, classes in enumerate((labels, predicted, labels[correct])):
                    self._classes[k] += np.bincount(classes, minlength=self._classes.shape[1])

    def evaluation(self) -> Evaluation:
        """Combine the sums of all ranks."""
        sums, classes = (
            self._world.sum(torch.from_numpy(values).to(self._world.device)).cpu().numpy()
            for values in (self._sums, self._classes)
        )
        sums = sums.sum(axis=0)
        num, correct, p_label, loss = sums[:, :4].T
        best = {
            head: best_temperature(sums[h, 4:] / num[h]) if num[h] else (1.0, None)
            for h, head in enumerate(self._heads)
        }
        means = [float(p / n) if n else 0.0 for p, n in zip(p_label[1:], num[1:], strict=True)]
        occurring = classes[0] + classes[1] > 0
        f1 = 2 * classes[2][occurring] / (classes[0] + classes[1])[occurring]
        return Evaluation(
            accuracy={
                head: float(correct[h] / num[h]) if num[h] else None
                for h, head in enumerate(self._heads)
            },
            loss=float(loss[0] / num[0]),
            calibrated_loss={head: value for head, (_, value) in best.items()},
            temperature={head: temperature for head, (temperature, _) in best.items()},
            macro_f1=float(f1.mean()),
            rho=max(means) / min(means) if min(means) > 0 else None,
        )
