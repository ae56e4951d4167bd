"""From rows to class probabilities, per modality and fused: scoring, validation and test all go through here."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from pipeline.arrays import Array
from pipeline.features.feature_set import FeatureSet
from trainer.data.inputs import Inputs
from trainer.data.part_prefetcher import fetching
from trainer.models.model import FUSED, MultimodalModel
from trainer.process_group import World

T = TypeVar("T")


class Predictor:
    """A model in evaluation on a feature set: deterministic input, no augmentation, no gradient."""

    def __init__(
        self,
        model: MultimodalModel,
        inputs: Inputs,
        features: FeatureSet,
        device: torch.device,
        amp: bool = False,
    ) -> None:
        self.model = model
        self._inputs = inputs
        self._features = features
        self._device = device
        self._amp = amp

    @torch.inference_mode()
    def __call__(self, rows: Array) -> dict[str, Array]:
        """rows (B,) -> (B, C) float32 probabilities of each modality's head and of the fused head (key "fused")."""
        outputs = self.evaluate(self.model.predict, rows)
        logits = {**outputs.unimodal, FUSED: outputs.fused}
        return {
            name: torch.softmax(value.float(), dim=1).cpu().numpy()
            for name, value in logits.items()
        }

    def alone(self, name: str) -> Callable[[Array], dict[str, Array]]:
        """rows (B,) -> (B, C) float32 probabilities of the fused head (key "fused") when one modality shows and the others are masked."""

        @torch.inference_mode()
        def predict(rows: Array) -> dict[str, Array]:
            outputs = self.evaluate(lambda inputs, has: self.model(inputs, has, train=name), rows)
            return {FUSED: torch.softmax(outputs.fused.float(), dim=1).cpu().numpy()}

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
        raw = {
            name: torch.from_numpy(self._features.read(name, rows))
            for name in self._features.modalities
        }
        has = {
            name: torch.from_numpy(self._features.has[rows, k])
            for k, name in enumerate(self._features.modalities)
        }
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._amp):
            result = call(self._inputs(raw, rows, training=False), has)
        self.model.train(was_training)
        return result


def outcomes(
    predictor: Callable[[Array], dict[str, Array]],
    features: FeatureSet,
    rows: Array,
    batch_size: int,
    world: World,
) -> dict[str, Array]:
    """Per row of a split and per head (each modality, "fused"): `predicted_<head>` (n,) int32 and `p_label_<head>` (n,) float32, on every rank."""
    mine = []
    for number, batch in fetching(features, rows, batch_size, world):
        found = predictor(batch)
        labels = features.labels[batch]
        part = {f"predicted_{name}": p.argmax(axis=1).astype(np.int32) for name, p in found.items()}
        part |= {f"p_label_{name}": p[np.arange(len(batch)), labels] for name, p in found.items()}
        mine.append((number, part))
    parts = sorted((item for rank in world.gather(mine) for item in rank), key=lambda item: item[0])
    return {key: np.concatenate([part[key] for _, part in parts]) for key in parts[0][1]}


def accuracies(
    found: dict[str, Array], features: FeatureSet, rows: Array
) -> dict[str, float | None]:
    """Accuracy per head; a modality's over the samples that have it, None where there are none."""
    right = {
        name: found[f"predicted_{name}"] == features.labels[rows]
        for name in [FUSED, *features.modalities]
    }
    result: dict[str, float | None] = {FUSED: float(right[FUSED].mean())}
    for k, name in enumerate(features.modalities):
        own = features.has[rows, k]
        result[name] = float(right[name][own].mean()) if own.any() else None
    return result


def imbalance(found: dict[str, Array], features: FeatureSet, rows: Array) -> float | None:
    """OGM-GE's ratio rho: the mean probability of the label under the strongest modality over that under the weakest; None where one has no samples."""
    means = []
    for k, name in enumerate(features.modalities):
        own = found[f"p_label_{name}"][features.has[rows, k]]
        means.append(float(own.mean(dtype=np.float64)) if len(own) else 0.0)
    return max(means) / min(means) if min(means) > 0 else None
