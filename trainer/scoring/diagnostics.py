"""What an epoch's model shows of imbalance and clash: gradients compared, and each modality left alone; nothing of the model or of a random state moves."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.counter_rng import Purpose, hashes, key_of
from pipeline.features.feature_set import FeatureSet
from trainer.config import RunConfig
from trainer.data.inputs import Inputs
from trainer.data.part_prefetcher import fetching
from trainer.models.model import FUSED, MultimodalModel
from trainer.process_group import World
from trainer.scoring.predictor import Predictor

NUM_ROWS = 256
"""Of the train split, whose gradients are compared: the same in every epoch."""

Examples = tuple[Mapping[str, Tensor], Mapping[str, Tensor], Tensor]
"""Inputs and `has` by modality, and labels, as the model takes them."""
Found = dict[str, float | None]


def probe_rows(features: FeatureSet, seed: int) -> npt.NDArray[np.int64]:
    """Up to NUM_ROWS rows of the train split, the first by their hash under the seed, ascending."""
    rows = features.rows_of("train")
    order = np.argsort(hashes(key_of(seed, Purpose.DIAGNOSTICS), rows), kind="stable")
    return np.sort(rows[order[:NUM_ROWS]])


def gradient_cosines(model: MultimodalModel, batches: Iterable[Examples]) -> Found:
    """Cosines of loss gradients over all examples, the model in evaluation; null where a gradient is zero or there is none.

    `gradient_cosine_<m>`: the fused and the modality's own loss, on its encoder. `head_gradient_cosine`: the fused loss when one modality shows alone,
    on the parameters that all modalities share, as the mean over pairs of modalities.
    """
    was_training = model.training
    model.eval()
    sums = _gradients(model, batches)
    model.train(was_training)
    found: Found = {
        f"gradient_cosine_{name}": _cosine(sums.get(("fused", name)), sums.get(("own", name)))
        for name in model.modalities
    }
    pairs = [
        _cosine(sums.get(("alone", a)), sums.get(("alone", b)))
        for a, b in combinations(model.modalities, 2)
    ]
    known = [pair for pair in pairs if pair is not None]
    return {**found, "head_gradient_cosine": float(np.mean(known)) if known else None}


def _gradients(
    model: MultimodalModel, batches: Iterable[Examples]
) -> dict[tuple[str, str], Tensor]:
    """By (loss, modality) the summed gradient (P,), of the fused and its own loss on its encoder, and of the fused loss when it is alone on what is shared."""
    sums: dict[tuple[str, str], Tensor] = {}

    def add(loss: str, name: str, value: Tensor, parameters: list[nn.Parameter]) -> None:
        given = [each for each in parameters if each.requires_grad]
        found = torch.autograd.grad(value, given, retain_graph=True, materialize_grads=True)
        sums[loss, name] = sums.get((loss, name), 0) + torch.cat([g.flatten() for g in found])

    shared = shared_parameters(model)
    for inputs, has, labels in batches:
        with torch.enable_grad():
            outputs = model(inputs, has)
            for name in model.modalities:
                parameters = list(model.encoder(name).parameters())
                fused = F.cross_entropy(outputs.fused.float(), labels, reduction="sum")
                add("fused", name, fused, parameters)
                add("own", name, _loss_of(outputs.unimodal[name], labels, has[name]), parameters)
            del outputs
            for name in model.modalities if shared else []:
                alone = model(inputs, has, train=name).fused
                add("alone", name, _loss_of(alone, labels, has[name]), shared)
    return sums


def shared_parameters(model: MultimodalModel) -> list[nn.Parameter]:
    """Those of the fusion; where it has none, those of a head that all modalities share."""
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
    rows: npt.NDArray[np.int64],
    batch_size: int,
    world: World,
) -> Found:
    """Accuracy of the fused head when a modality shows alone, over the rows that have it; None where there are none."""
    found: Found = {}
    for k, name in enumerate(features.modalities):
        own, predict = rows[features.has[rows, k]], predictor.alone(name)
        right = sum(
            int((predict(batch)[FUSED].argmax(axis=1) == features.labels[batch]).sum())
            for _, batch in fetching(features, own, batch_size, world)
        )
        total = int(world.sum(torch.tensor(right, device=world.device)))
        found[name] = total / len(own) if len(own) else None
    return found


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """The diagnostics of a run in training; every rank finds the same cosines, and its stripe of the accuracies."""

    model: MultimodalModel
    inputs: Inputs
    predictor: Predictor
    features: FeatureSet
    config: RunConfig
    world: World

    def epoch(self) -> Found:
        """The columns of epochs.arrow that are null without diagnostics."""
        with torch.autocast(
            self.world.device.type, torch.bfloat16, enabled=self.config.train.amp == "bf16"
        ):
            cosines = gradient_cosines(self.model, self._batches())
        alone = self.zero_mask_accuracy("validation")
        return cosines | {f"zero_mask_accuracy_{name}": value for name, value in alone.items()}

    def zero_mask_accuracy(self, split: str) -> Found:
        """zero_mask_accuracies on a split."""
        rows, batch_size = self.features.rows_of(split), self.config.train.score_batch
        return zero_mask_accuracies(self.predictor, self.features, rows, batch_size, self.world)

    def _batches(self) -> Iterator[Examples]:
        probe, batch_size = (
            probe_rows(self.features, self.config.seed),
            self.config.train.score_batch,
        )
        for _, rows in fetching(self.features, probe, batch_size, World()):
            labels = torch.from_numpy(self.features.labels[rows]).long().to(self.world.device)
            yield *self.inputs.of_rows(self.features, rows), labels
