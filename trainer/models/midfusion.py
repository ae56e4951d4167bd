"""Mid-fusion: networks that exchange information between the stages of their encoders.

Encoders may have any shapes and depths: a fusion point uses the stage outputs averaged over
positions and frames. Encoders of different depths are aligned at their last stages. A masked or
missing modality contributes zeros and receives no gate.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.encoder import Stages, finish
from trainer.models.fusion import Decision

ByModality = dict[int, Tensor]
"""Means or gates (B, C_k) by modality index, for modalities that run and have a stage here."""


class MidFusion(nn.Module, ABC):
    """A fusion that runs the encoders and combines them after each stage.

    `points`: per fusion point, the channels of each modality that has a stage there.
    """

    gates = False
    """Whether encoders receive gates, so that a modality's feature depends on the others."""

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
        """Run the encoders in step; None stands for a masked one.

        Returns:
            K features (B, D_k), None for a masked modality, and the final state.
        """
        gates: ByModality = {}
        state: Tensor | None = None
        for point, channels in enumerate(self.points):
            means = {
                k: encoder.send(gates.get(k))
                for k in channels
                if (encoder := encoders[k]) is not None
            }
            gates, state = self.at(point, means, state, num_rows)
        return [
            None if encoder is None else finish(encoder, gates.get(k))
            for k, encoder in enumerate(encoders)
        ], state

    @abstractmethod
    def at(
        self, point: int, means: ByModality, state: Tensor | None, num_rows: int
    ) -> tuple[ByModality, Tensor | None]:
        """Process one fusion point; returns the gates and the state for the next point."""

    @abstractmethod
    def forward(self, state: Tensor | None, logits: list[Tensor]) -> Tensor:
        """Compute fused logits (B, C) from the final state and the unimodal heads' logits."""


class Exchange(nn.Module):
    """An MMTM module: Z = ReLU(W [S_1, ..., S_K] + b), gates 2 sigmoid(W_k Z + b_k).

    S_k is the mean of modality k's stage output (arXiv 1911.08670, section 3.2).
    """

    def __init__(self, channels: Mapping[int, int]) -> None:
        super().__init__()
        self.channels = dict(channels)
        total = sum(channels.values())
        width = max(1, total // 4)
        self.squeeze = nn.Linear(total, width)
        self.excite = nn.ModuleDict({str(k): nn.Linear(width, num) for k, num in channels.items()})

    def forward(self, means: ByModality) -> ByModality:
        some = next(iter(means.values()))
        squeezed = torch.cat(
            [
                means[k] if k in means else some.new_zeros(len(some), num)
                for k, num in self.channels.items()
            ],
            dim=1,
        )
        z = F.relu(self.squeeze(squeezed))
        return {k: 2 * torch.sigmoid(self.excite[str(k)](z)) for k in means}


class Mmtm(MidFusion):
    """MMTM: modalities gate each other's channels, then the mean of the heads' logits.

    Gates follow the last three stages (arXiv 1911.08670). The number of modules and the mean of
    the logits are those of the paper's public code. That code lacks the gates' factor 2 and makes Z
    twice as wide; both are as in the paper here. Stages that only one modality has are not gated.
    """

    gates = True

    def __init__(self, channels: Sequence[Sequence[int]], num_classes: int, hidden: int) -> None:
        super().__init__(channels)
        fused_points = [point for point, own in enumerate(self.points) if len(own) > 1][-3:]
        self.exchanges = nn.ModuleDict(
            {str(point): Exchange(self.points[point]) for point in fused_points}
        )
        self.head = Decision([], num_classes, hidden)

    def at(
        self, point: int, means: ByModality, state: Tensor | None, num_rows: int
    ) -> tuple[ByModality, Tensor | None]:
        return (
            self.exchanges[str(point)](means) if means and str(point) in self.exchanges else {}
        ), None

    def forward(self, state: Tensor | None, logits: list[Tensor]) -> Tensor:
        return cast(Tensor, self.head([], logits))


class CentralNet(MidFusion):
    """CentralNet: h' = layer(sum_k alpha_k P_k S_k + alpha h), then a classifier.

    arXiv 1808.07275, section 3. The paper sums hidden layers of equal shapes. Here shapes differ,
    so S_k is the mean of a stage's output and P_k a projection without bias to the central width.
    A layer is linear, LayerNorm and ReLU. Each alpha is learnt, starting at 1; the first sum has
    no h.
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
        self, point: int, means: ByModality, state: Tensor | None, num_rows: int
    ) -> tuple[ByModality, Tensor | None]:
        total = (
            self.output.weight.new_zeros(num_rows, self.output.in_features)
            if state is None
            else self.central[point - 1] * state
        )
        projections, alphas = (
            cast(nn.ModuleDict, self.projections[point]),
            cast(nn.ParameterDict, self.alphas[point]),
        )
        for k, mean in means.items():
            total = total + alphas[str(k)] * projections[str(k)](mean)
        return {}, self.layers[point](total)

    def forward(self, state: Tensor | None, logits: list[Tensor]) -> Tensor:
        return cast(Tensor, self.output(state))


MIDFUSIONS: dict[str, type[Mmtm | CentralNet]] = {
    "mmtm": Mmtm,
    "centralnet": CentralNet,
}
