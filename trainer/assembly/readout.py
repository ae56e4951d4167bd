"""Readouts: fused predictions made from the outputs of trained encoders and heads.

- fused: the model's own fused head, at its best temperature.
- late: sum_k w_k log p_k over the modalities that a row has; w_k > 0, fitted on validation rows.
- refit: multinomial logistic regression on the encoders' standardised features, fitted on training
  rows with a ridge chosen by validation loss. A missing modality counts as the mean feature.
- stack: as late, with the fused head as one more modality.

The candidates are compared by their cross-entropy on validation rows, each row predicted by
parameters that were chosen without it (cross-fitting).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.arrays import Int64Array
from trainer.models.model import FUSED
from trainer.scoring.calibration import best_temperature, losses
from trainer.scoring.outputs import HeadOutputs

NUM_FOLDS = 5
RIDGES = (1e-5, 1e-4, 1e-3, 1e-2)
"""Candidates for the factor of |W|^2 in `refit`, added to the mean cross-entropy."""
WEIGHT_RIDGE = 1e-4
"""Factor of |s|^2 in `late` and `stack`, where w = softplus(s)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Readout:
    """A fitted readout, as plain data."""

    kind: str
    temperatures: dict[str, float] = field(default_factory=dict)
    """By which the unimodal logits are divided before the readout, by modality; 1 if absent."""
    weights: dict[str, float] = field(default_factory=dict)
    """Of log p by head, in `late` and `stack`."""
    temperature: float = 1.0
    """Divisor of the logits, in `fused` and `refit`."""
    mean: dict[str, Tensor] = field(default_factory=dict)
    scale: dict[str, Tensor] = field(default_factory=dict)
    """Mean and factor (D_k,) that standardise the features, in `refit`."""
    coefficients: dict[str, Tensor] = field(default_factory=dict)
    """(C, D_k), in `refit`."""
    bias: Tensor = field(default_factory=lambda: torch.zeros(0))
    """(C,), in `refit`."""

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Readout":
        """A readout from its `state`."""
        return cls(**state)

    @property
    def state(self) -> dict[str, Any]:
        """Plain data of a checkpoint."""
        return asdict(self)

    @property
    def uses_parts(self) -> bool:
        """Whether it reads each modality's best epoch, not the tested epoch's model."""
        return self.kind in ("late", "refit")

    def logits(self, outputs: HeadOutputs) -> Tensor:
        """Fused logits (n, C)."""
        if self.kind == "fused":
            return outputs.log_p[FUSED] / self.temperature
        if self.kind == "refit":
            parts = (
                F.linear(outputs.standardised(name, self.mean[name], self.scale[name]), weight)
                for name, weight in self.coefficients.items()
            )
            return sum(parts, start=self.bias) / self.temperature
        terms = (weight * outputs.visible(head) for head, weight in self.weights.items())
        return sum(terms, start=torch.zeros_like(outputs.log_p[FUSED]))


Fit = Callable[[Tensor], Readout]
"""Fits a readout to some of the validation rows, an index (n,)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A kind of readout, and the validation rows that it is fitted to and compared on."""

    outputs: HeadOutputs
    fit: Fit


def candidates(
    tested: HeadOutputs,
    assembled: HeadOutputs,
    labels: Tensor,
    train: HeadOutputs,
    train_labels: Tensor,
) -> dict[str, Candidate]:
    """All kinds of readouts of a run.

    Args:
        tested: Validation rows, of the model of the tested epoch.
        assembled: The same rows, of each modality's best epoch.
        train: Training rows, of each modality's best epoch.
    """
    refits = [fit_linear(train, train_labels, ridge) for ridge in RIDGES]

    def temperature(outputs: HeadOutputs, readouts: list[Readout]) -> Candidate:
        return Candidate(
            outputs, lambda index: fit_temperature(outputs.take(index), labels[index], readouts)
        )

    return {
        "fused": temperature(tested, [Readout(kind="fused")]),
        "late": weighted("late", assembled, labels),
        "refit": temperature(assembled, refits),
        "stack": weighted("stack", tested, labels),
    }


def weighted(kind: str, outputs: HeadOutputs, labels: Tensor) -> Candidate:
    """The candidate `late`, of the modalities, or `stack`, of the modalities and the fused head."""
    heads = [*outputs.features, *([FUSED] if kind == "stack" else [])]
    return Candidate(
        outputs, lambda index: fit_weights(kind, outputs.take(index), labels[index], heads)
    )


def choose(
    by_kind: Mapping[str, Candidate], labels: Tensor, folds: Int64Array
) -> tuple[Readout, dict[str, float]]:
    """The readout of the lowest cross-fitted validation loss, fitted to all rows, and all losses.

    Args:
        folds: (n,) fold of each validation row.
    """
    result = {
        kind: float(held_out_losses(candidate, labels, folds).mean())
        for kind, candidate in by_kind.items()
    }
    best = min(result, key=result.__getitem__)
    return by_kind[best].fit(torch.arange(len(folds))), result


def held_out_losses(candidate: Candidate, labels: Tensor, folds: Int64Array) -> Tensor:
    """Cross-entropy (n,) of each validation row, by a readout that was fitted to other folds."""
    result = torch.zeros(len(folds), dtype=torch.float64)
    for fold in np.unique(folds):
        held_out = torch.from_numpy(np.flatnonzero(folds == fold))
        others = torch.from_numpy(np.flatnonzero(folds != fold))
        # a single row cannot be held out
        readout = candidate.fit(others if len(others) else held_out)
        logits = readout.logits(candidate.outputs.take(held_out))
        result[held_out] = F.cross_entropy(logits, labels[held_out], reduction="none")
    return result


def fit_temperature(outputs: HeadOutputs, labels: Tensor, readouts: list[Readout]) -> Readout:
    """The readout and temperature of lowest loss."""
    fits = []
    for readout in readouts:
        mean = losses(readout.logits(outputs).numpy(), labels.numpy()).mean(axis=0)
        fits.append((*best_temperature(mean), readout))
    temperature, _, readout = min(fits, key=lambda fit: fit[1])
    return replace(readout, temperature=temperature)


def fit_weights(kind: str, outputs: HeadOutputs, labels: Tensor, heads: list[str]) -> Readout:
    """Weights of log p that minimise the cross-entropy."""
    log_p = torch.stack([outputs.visible(head) for head in heads])  # (H, n, C)
    s = torch.full((len(heads),), float(np.log(np.expm1(1.0))), dtype=torch.float64)

    def loss() -> Tensor:
        logits = torch.einsum("h,hnc->nc", F.softplus(s), log_p)
        return F.cross_entropy(logits, labels) + WEIGHT_RIDGE * s.square().sum()

    _minimise([s], loss)
    return Readout(kind=kind, weights=dict(zip(heads, F.softplus(s).tolist(), strict=True)))


def fit_linear(outputs: HeadOutputs, labels: Tensor, ridge: float) -> Readout:
    """Multinomial logistic regression on the features of training rows."""
    # divided by the root of the total size, so that one ridge suits any number of features
    size = sum(x.shape[1] for x in outputs.features.values()) ** 0.5
    mean, scale, parts = {}, {}, []
    for name, values in outputs.features.items():
        own = values[outputs.present[name]]
        if not len(own):  # no training row has the modality: its coefficients stay 0
            own = torch.zeros_like(values[:1])
        sd = own.std(dim=0, correction=0)
        mean[name] = own.mean(dim=0)
        scale[name] = 1 / torch.where(sd > 0, sd, 1.0) / size
        parts.append(outputs.standardised(name, mean[name], scale[name]))
    x = torch.cat(parts, dim=1)
    num_classes = outputs.log_p[FUSED].shape[1]
    weight, bias = x.new_zeros(num_classes, x.shape[1]), x.new_zeros(num_classes)

    def loss() -> Tensor:
        penalty = ridge * weight.square().sum()
        return F.cross_entropy(F.linear(x, weight, bias), labels) + penalty

    _minimise([weight, bias], loss)
    sizes = [part.shape[1] for part in parts]
    coefficients = dict(zip(mean, torch.split(weight, sizes, dim=1), strict=True))
    return Readout(kind="refit", mean=mean, scale=scale, coefficients=coefficients, bias=bias)


def _minimise(parameters: list[Tensor], loss: Callable[[], Tensor]) -> None:
    """Minimise a convex loss over float64 parameters, in place."""
    optimizer = torch.optim.LBFGS(
        [parameter.requires_grad_() for parameter in parameters],
        max_iter=500,
        tolerance_grad=1e-8,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return float(value.detach())

    optimizer.step(closure)
    for parameter in parameters:
        parameter.requires_grad_(False)
