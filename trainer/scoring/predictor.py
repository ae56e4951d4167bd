"""Predictions of a model for rows of a feature set, used by scoring, validation and test."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch

from pipeline.arrays import Array
from pipeline.features.feature_set import FeatureSet
from pipeline.storage.arrow_files import column
from trainer.data.inputs import Inputs
from trainer.data.part_prefetcher import prefetched_rows
from trainer.models.model import FUSED, MultimodalModel
from trainer.process_group import World

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Predictor:
    """Predicts rows of a feature set in evaluation mode, without augmentation or gradients."""

    model: MultimodalModel
    inputs: Inputs
    feature_set: FeatureSet
    device: torch.device
    amp: bool = False

    @torch.inference_mode()
    def __call__(self, rows: Array) -> dict[str, Array]:
        """Class probabilities of rows (B,): per head, unimodal and "fused", (B, C) float32."""
        outputs = self.evaluate(self.model.predict, rows)
        logits = {**outputs.unimodal, FUSED: outputs.fused}
        return {name: _probabilities(value) for name, value in logits.items()}

    def alone(self, name: str) -> Callable[[Array], dict[str, Array]]:
        """A function that predicts with the fused head, all modalities but `name` masked."""

        @torch.inference_mode()
        def predict(rows: Array) -> dict[str, Array]:
            outputs = self.evaluate(lambda inputs, has: self.model(inputs, has, active=name), rows)
            return {FUSED: _probabilities(outputs.fused)}

        return predict

    @torch.inference_mode()
    def features(self, rows: Array) -> dict[str, Array]:
        """Features (B, D_k) float32 of each modality; meaningless for rows that lack it."""
        return {
            name: value.float().cpu().numpy()
            for name, value in self.evaluate(self.model.features, rows).items()
        }

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


def outcomes(
    predictor: Callable[[Array], dict[str, Array]],
    features: FeatureSet,
    rows: Array,
    batch_size: int,
    world: World,
) -> list[pa.Table]:
    """Predict this rank's batches of `rows`.

    Returns:
        One table per batch: `row`, and per head (the modalities and "fused") `predicted_<head>`
        int32 and `p_label_<head>` float32, the probability of the label.
    """
    tables = []
    for _, batch in prefetched_rows(features, rows, batch_size, world):
        by_head, labels = predictor(batch), features.labels[batch]
        columns = {"row": batch}
        columns |= {
            f"predicted_{head}": p.argmax(1).astype(np.int32) for head, p in by_head.items()
        }
        columns |= {f"p_label_{head}": p[np.arange(len(p)), labels] for head, p in by_head.items()}
        tables.append(pa.table(columns))
    return tables


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Evaluation of a model on a split, over all ranks."""

    accuracy: dict[str, float | None]
    """Accuracy per head, over the samples that have the modality; None if no sample has it."""
    loss: float
    """Mean cross-entropy of the fused head."""
    rho: float | None
    """Confidence ratio of OGM-GE (arXiv 2203.15332): mean probability of the label under the
    strongest modality, divided by that under the weakest; None if one has no samples."""


def evaluate(tables: list[pa.Table], features: FeatureSet, world: World) -> Evaluation:
    """Evaluate a split from the `outcomes` of all ranks; only their sums are exchanged."""
    heads = [FUSED, *features.modalities]
    # Each rank has its own entries, so that floats are added in the same order by every backend.
    sums = torch.zeros(world.size, len(heads), 4, dtype=torch.float64)
    if tables:
        table = pa.concat_tables(tables)
        rows = column(table, "row")
        for h, head in enumerate(heads):
            present = features.has[rows, h - 1] if h else np.full(len(rows), True)
            correct = column(table, f"predicted_{head}") == features.labels[rows]
            p = column(table, f"p_label_{head}")[present]
            losses = -np.log(np.clip(p, 1e-9, 1))
            totals = (
                len(p),
                correct[present].sum(),
                *(x.sum(dtype=np.float64) for x in (p, losses)),
            )
            sums[world.rank, h] = torch.tensor(totals)
    num, correct, p_label, loss = world.sum(sums.to(world.device)).cpu().numpy().sum(axis=0).T
    means = [float(p / n) if n else 0.0 for p, n in zip(p_label[1:], num[1:], strict=True)]
    return Evaluation(
        accuracy={
            head: float(correct[h] / num[h]) if num[h] else None for h, head in enumerate(heads)
        },
        loss=float(loss[0] / num[0]),
        rho=max(means) / min(means) if min(means) > 0 else None,
    )
