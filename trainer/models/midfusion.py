"""Mid-fusion: networks whose modalities meet between the stages of their encoders.

The encoders may be of any shapes and lengths: at a meeting each tells the mean of what its stage shows, over positions and frames, and where
they have different numbers of stages the last ones are aligned. A masked or missing modality tells zeros, and hears nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.encoders import Stages, finish
from trainer.models.fusion import Decision

Told = dict[int, Tensor]
"""Means or gates (B, C_k) of those modalities that run and have a stage here, by their place in the order."""


class MidFusion(nn.Module, ABC):
    """A fusion that hears the encoders while they run; `points` holds, per meeting, the channels of each modality that has a stage there."""

    gates = False
    """Whether what the encoders hear changes their features, so that a modality's feature tells of the others."""

    def __init__(self, channels: Sequence[Sequence[int]]) -> None:
        super().__init__()
        depth = max(map(len, channels))
        first = [depth - len(own) for own in channels]
        self.points = [
            {k: own[point - first[k]] for k, own in enumerate(channels) if point >= first[k]}
            for point in range(depth)
        ]

    def meet(
        self, encoders: Sequence[Stages | None], num_rows: int
    ) -> tuple[list[Tensor | None], Tensor | None]:
        """Runs encoders, None where one does not run, in step: K features (B, D_k), and what the meetings left for the fused head."""
        gates: Told = {}
        state: Tensor | None = None
        for point, channels in enumerate(self.points):
            told = {
                k: encoder.send(gates.get(k))
                for k in channels
                if (encoder := encoders[k]) is not None
            }
            gates, state = self.at(point, told, state, num_rows)
        return [
            None if encoder is None else finish(encoder, gates.get(k))
            for k, encoder in enumerate(encoders)
        ], state

    @abstractmethod
    def at(
        self, point: int, told: Told, state: Tensor | None, num_rows: int
    ) -> tuple[Told, Tensor | None]:
        """One meeting of B rows: the gates of those that take any, and the state for the next."""

    @abstractmethod
    def forward(self, state: Tensor | None, logits: list[Tensor]) -> Tensor:
        """The fused logits (B, C), from what the meetings left and from the unimodal heads' logits."""


class Exchange(nn.Module):
    """S_k = the mean of modality k, Z = ReLU(W [S_1, ..., S_K] + b), gates 2 sigmoid(W_k Z + b_k) (arXiv 1911.08670, section 3.2)."""

    def __init__(self, channels: Mapping[int, int]) -> None:
        super().__init__()
        self.channels = dict(channels)
        total = sum(channels.values())
        width = max(1, total // 4)
        self.squeeze = nn.Linear(total, width)
        self.excite = nn.ModuleDict({str(k): nn.Linear(width, num) for k, num in channels.items()})

    def forward(self, told: Told) -> Told:
        some = next(iter(told.values()))
        squeezed = torch.cat(
            [
                told[k] if k in told else some.new_zeros(len(some), num)
                for k, num in self.channels.items()
            ],
            dim=1,
        )
        z = F.relu(self.squeeze(squeezed))
        return {k: 2 * torch.sigmoid(self.excite[str(k)](z)) for k in told}


class Mmtm(MidFusion):
    """The channels of each modality gated by the means of all after the last three stages, then the mean of the heads' logits (arXiv 1911.08670).

    Three modules after the last stages and the mean of the logits are those of the paper's public code, whose gates lack the paper's 2
    and whose Z has twice the paper's width, a quarter of all channels. Stages that only one modality has are left alone.
    """

    gates = True

    def __init__(self, channels: Sequence[Sequence[int]], num_classes: int, hidden: int) -> None:
        super().__init__(channels)
        meeting = [point for point, own in enumerate(self.points) if len(own) > 1][-3:]
        self.exchanges = nn.ModuleDict(
            {str(point): Exchange(self.points[point]) for point in meeting}
        )
        self.head = Decision([], num_classes, hidden)

    def at(
        self, point: int, told: Told, state: Tensor | None, num_rows: int
    ) -> tuple[Told, Tensor | None]:
        return (
            self.exchanges[str(point)](told) if told and str(point) in self.exchanges else {}
        ), None

    def forward(self, state: Tensor | None, logits: list[Tensor]) -> Tensor:
        return cast(Tensor, self.head([], logits))


class CentralNet(MidFusion):
    """A central network beside the encoders, h' = layer(sum_k alpha_k P_k S_k + alpha h), and its classifier (arXiv 1808.07275, section 3).

    The paper sums hidden layers of equal shapes; here shapes differ, so S_k is the mean that modality k tells and P_k a projection without bias to the
    central width. A layer is linear, LayerNorm, which looks at one row alone, and ReLU. Every alpha is learnt, from 1; the first sum has no h.
    """

    def __init__(self, channels: Sequence[Sequence[int]], num_classes: int, hidden: int) -> None:
        super().__init__(channels)
        self.projections = nn.ModuleList(
            nn.ModuleDict({str(k): nn.Linear(num, hidden, bias=False) for k, num in own.items()})
            for own in self.points
        )
        self.alphas = nn.ModuleList(
            nn.ParameterDict({str(k): nn.Parameter(torch.ones(())) for k in own})
            for own in self.points
        )
        self.central = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in self.points[1:])
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.ReLU())
            for _ in self.points
        )
        self.output = nn.Linear(hidden, num_classes)

    def at(
        self, point: int, told: Told, state: Tensor | None, num_rows: int
    ) -> tuple[Told, Tensor | None]:
        total = (
            self.output.weight.new_zeros(num_rows, self.output.in_features)
            if state is None
            else self.central[point - 1] * state
        )
        projections, alphas = (
            cast(nn.ModuleDict, self.projections[point]),
            cast(nn.ParameterDict, self.alphas[point]),
        )
        for k, mean in told.items():
            total = total + alphas[str(k)] * projections[str(k)](mean)
        return {}, self.layers[point](total)

    def forward(self, state: Tensor | None, logits: list[Tensor]) -> Tensor:
        return cast(Tensor, self.output(state))


MIDFUSIONS: dict[str, Callable[[Sequence[Sequence[int]], int, int], MidFusion]] = {
    "mmtm": Mmtm,
    "centralnet": CentralNet,
}
