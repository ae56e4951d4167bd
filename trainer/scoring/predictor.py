"""From rows to class probabilities, per modality and fused: scoring, validation and test all go through here."""

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
from trainer.data.part_prefetcher import fetching
from trainer.models.model import FUSED, MultimodalModel
from trainer.process_group import World

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Predictor:
    """A model in evaluation on a feature set: deterministic input, no augmentation, no gradient."""

    model: MultimodalModel
    inputs: Inputs
    feature_set: FeatureSet
    device: torch.device
    amp: bool = False

    @torch.inference_mode()
    def __call__(self, rows: Array) -> dict[str, Array]:
        """rows (B,) -> (B, C) float32 probabilities of each modality's head and of the fused head (key "fused")."""
        outputs = self.evaluate(self.model.predict, rows)
        logits = {**outputs.unimodal, FUSED: outputs.fused}
        return {name: _probabilities(value) for name, value in logits.items()}

    def alone(self, name: str) -> Callable[[Array], dict[str, Array]]:
        """rows (B,) -> (B, C) float32 probabilities of the fused head (key "fused") when one modality shows and the others are masked."""

        @torch.inference_mode()
        def predict(rows: Array) -> dict[str, Array]:
            outputs = self.evaluate(lambda inputs, has: self.model(inputs, has, train=name), rows)
            return {FUSED: _probabilities(outputs.fused)}

        return predict

    @torch.inference_mode()
    def features(self, rows: Array) -> dict[str, Array]:
        """rows (B,) -> (B, D_k) float32 features of each modality; those of a row without the modality mean nothing."""
        return {
            name: value.float().cpu().numpy()
            for name, value in self.evaluate(self.model.features, rows).items()
        }

    @torch.inference_mode()
    def evaluate(
        self, call: Callable[[dict[str, torch.Tensor], dict[str, torch.Tensor]], T], rows: Array
    ) -> T:
        """What `call` makes of the inputs of rows (B,) and of which modalities they have, the model in evaluation."""
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
    """This rank's batches of rows: `row` int64 and per head (each modality, "fused") `predicted_<head>` int32 and `p_label_<head>` float32."""
    mine = []
    for _, batch in fetching(features, rows, batch_size, world):
        found, labels = predictor(batch), features.labels[batch]
        columns = {"row": batch}
        columns |= {f"predicted_{head}": p.argmax(1).astype(np.int32) for head, p in found.items()}
        columns |= {f"p_label_{head}": p[np.arange(len(p)), labels] for head, p in found.items()}
        mine.append(pa.table(columns))
    return mine


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """A split under a model, over all ranks."""

    accuracy: dict[str, float | None]
    """By head; a modality's over the samples that have it, None where there are none."""
    loss: float
    """The fused head's mean cross-entropy."""
    rho: float | None
    """OGM-GE's ratio: the mean probability of the label under the strongest modality over that under the weakest; None where one has no samples."""


def evaluate(mine: list[pa.Table], features: FeatureSet, world: World) -> Evaluation:
    """Evaluates a split from each rank's outcomes, of which only sums are exchanged."""
    heads = [FUSED, *features.modalities]
    # a place for each rank, so that the order of the sums of floats does not depend on the backend
    sums = torch.zeros(world.size, len(heads), 4, dtype=torch.float64)
    if mine:
        table = pa.concat_tables(mine)
        rows = column(table, "row")
        for h, head in enumerate(heads):
            has = features.has[rows, h - 1] if h else np.full(len(rows), True)
            right = column(table, f"predicted_{head}") == features.labels[rows]
            p = column(table, f"p_label_{head}")[has]
            losses = -np.log(np.clip(p, 1e-9, 1))
            totals = (len(p), right[has].sum(), *(x.sum(dtype=np.float64) for x in (p, losses)))
            sums[world.rank, h] = torch.tensor(totals)
    num, right, p_label, loss = world.sum(sums.to(world.device)).cpu().numpy().sum(axis=0).T
    means = [float(p / n) if n else 0.0 for p, n in zip(p_label[1:], num[1:], strict=True)]
    return Evaluation(
        accuracy={
            head: float(right[h] / num[h]) if num[h] else None for h, head in enumerate(heads)
        },
        loss=float(loss[0] / num[0]),
        rho=max(means) / min(means) if min(means) > 0 else None,
    )
