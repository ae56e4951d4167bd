"""Imbalance diagnostics: gradient cosines and single-modality accuracy.

They change neither the model nor any random state.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.arrays import Int64Array
from pipeline.counter_rng import Purpose, hashes, key_of
from pipeline.features.feature_set import FeatureSet
from trainer.config import RunConfig
from trainer.data.inputs import Inputs
from trainer.data.part_prefetcher import prefetched_rows
from trainer.models.model import FUSED, MultimodalModel
from trainer.process_group import World
from trainer.scoring.predictor import Predictor

NUM_ROWS = 256
"""Rows of the train split whose gradients are compared, the same in every epoch."""

Examples = tuple[Mapping[str, Tensor], Mapping[str, Tensor], Tensor]
"""Inputs and presence per modality, and labels, as passed to the model."""
Values = dict[str, float | None]


def probe_rows(features: FeatureSet, seed: int) -> Int64Array:
    """A random sample of at most NUM_ROWS rows of the train split, fixed by the seed; ascending."""
    rows = features.rows_of("train")
    order = np.argsort(hashes(key_of(seed, Purpose.DIAGNOSTICS), rows), kind="stable")
    return np.sort(rows[order[:NUM_ROWS]])


def gradient_cosines(model: MultimodalModel, batches: Iterable[Examples]) -> Values:
    """Cosine similarities of loss gradients over all examples, in evaluation mode.

    Returns:
        gradient_cosine_<m>: Between the fused and the unimodal loss, on the encoder of <m>.
        head_gradient_cosine: Between the fused losses of two modalities, each with the others
            masked, on the parameters that all modalities share; the mean over pairs.
        A value is None if a gradient is zero or does not exist.
    """
    was_training = model.training
    model.eval()
    sums = _gradient_sums(model, batches)
    model.train(was_training)
    cosines: Values = {
        f"gradient_cosine_{name}": _cosine(sums.get(("fused", name)), sums.get(("own", name)))
        for name in model.modalities
    }
    pairs = [
        _cosine(sums.get(("alone", a)), sums.get(("alone", b)))
        for a, b in combinations(model.modalities, 2)
    ]
    known = [pair for pair in pairs if pair is not None]
    return {**cosines, "head_gradient_cosine": float(np.mean(known)) if known else None}


def _gradient_sums(
    model: MultimodalModel, batches: Iterable[Examples]
) -> dict[tuple[str, str], Tensor]:
    """Summed gradients (P,) keyed by (loss, modality).

    Losses are "fused" and "own" (unimodal), on the modality's encoder, and "alone" (fused, with all
    other modalities masked), on the shared parameters.
    """
    sums: dict[tuple[str, str], Tensor] = {}

    def add(loss: str, name: str, value: Tensor, parameters: list[nn.Parameter]) -> None:
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        if not trainable:  # a frozen encoder
            return
        grads = torch.autograd.grad(value, trainable, retain_graph=True, materialize_grads=True)
        sums[loss, name] = sums.get((loss, name), 0) + torch.cat([g.flatten() for g in grads])

    shared = shared_parameters(model)
    for inputs, has, labels in batches:
        with torch.enable_grad():
            outputs = model(inputs, has)
            for name in model.modalities:
                parameters = list(model.encoder(name).parameters())
                fused = F.cross_entropy(outputs.fused.float(), labels, reduction="sum")
                add("fused", name, fused, parameters)
                add("own", name, _loss_of(outputs.unimodal[name], labels, has[name]), parameters)
            del outputs  # frees the graph before the next forward passes
            for name in model.modalities if shared else []:
                alone = model(inputs, has, active=name).fused
                add("alone", name, _loss_of(alone, labels, has[name]), shared)
    return sums


def shared_parameters(model: MultimodalModel) -> list[nn.Parameter]:
    """Parameters of the fusion or, if it has none, of the head that all modalities share."""
    heads = {model.head(name) for name in model.modalities}
    own = list(heads.pop().parameters()) if len(heads) == 1 else []
    return list(model.fusion.parameters()) or own


def _loss_of(logits: Tensor, labels: Tensor, has: Tensor) -> Tensor:
    return (F.cross_entropy(logits.float(), labels, reduction="none") * has.to(labels.device)).sum()


def _cosine(first: Tensor | None, second: Tensor | None) -> float | None:
    if first is None or second is None or not first.any() or not second.any():
        return None
    return float(F.cosine_similarity(first.double(), second.double(), dim=0))


def zero_mask_accuracies(
    predictor: Predictor,
    features: FeatureSet,
    rows: Int64Array,
    batch_size: int,
    world: World,
) -> Values:
    """Accuracy of the fused head with one modality, all others masked.

    Over the rows that have the modality; None if no row has it.
    """
    accuracies: Values = {}
    for k, name in enumerate(features.modalities):
        present, predict = rows[features.has[rows, k]], predictor.alone(name)
        num_correct = sum(
            int((predict(batch)[FUSED].argmax(axis=1) == features.labels[batch]).sum())
            for _, batch in prefetched_rows(features, present, batch_size, world)
        )
        total = int(world.sum(torch.tensor(num_correct, device=world.device)))
        accuracies[name] = total / len(present) if len(present) else None
    return accuracies


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """Diagnostics during training.

    Every rank computes all cosines; the rows of the accuracies are divided among ranks.
    """

    model: MultimodalModel
    inputs: Inputs
    predictor: Predictor
    features: FeatureSet
    config: RunConfig
    world: World

    def epoch(self) -> Values:
        """The diagnostic columns of epochs.arrow."""
        with torch.autocast(
            self.world.device.type, torch.bfloat16, enabled=self.config.train.amp == "bf16"
        ):
            cosines = gradient_cosines(self.model, self._batches())
        alone = self.zero_mask_accuracy("validation")
        return cosines | {f"zero_mask_accuracy_{name}": value for name, value in alone.items()}

    def zero_mask_accuracy(self, split: str) -> Values:
        """zero_mask_accuracies on a split."""
        rows, batch_size = self.features.rows_of(split), self.config.train.score_batch
        return zero_mask_accuracies(self.predictor, self.features, rows, batch_size, self.world)

    def _batches(self) -> Iterator[Examples]:
        probe, batch_size = (
            probe_rows(self.features, self.config.seed),
            self.config.train.score_batch,
        )
        for _, rows in prefetched_rows(self.features, probe, batch_size, World()):
            labels = torch.from_numpy(self.features.labels[rows]).long().to(self.world.device)
            yield *self.inputs.of_rows(self.features, rows), labels
