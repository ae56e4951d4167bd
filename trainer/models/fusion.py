"""Fusion of any number of modalities into fused logits.

Inputs are the features, a list of (B, D_k) in the order of the modalities, and the logits of the
unimodal heads, a list of (B, C); the output is (B, C). A masked or missing modality has a feature
of zeros.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Additive(nn.Module, ABC):
    """A fusion whose logits are the sum of one part per modality."""

    @abstractmethod
    def parts(self, features: list[Tensor], logits: list[Tensor]) -> list[Tensor]:
        """Split the logits into K parts (B, C), one per modality.

        A shared bias is split evenly (OGM-GE, arXiv 2203.15332, equation 8).
        """


class Concat(Additive):
    """Linear([x_1, ..., x_K])"""

    def __init__(self, dims: list[int], num_classes: int, hidden: int) -> None:
        super().__init__()
        self.output = nn.Linear(sum(dims), num_classes)

    def forward(self, features: list[Tensor], logits: list[Tensor]) -> Tensor:
        fused: Tensor = self.output(torch.cat(features, dim=1))
        return fused

    def parts(self, features: list[Tensor], logits: list[Tensor]) -> list[Tensor]:
        weights = torch.split(self.output.weight, [x.shape[1] for x in features], dim=1)
        return [
            F.linear(x, weight, self.output.bias / len(features))
            for x, weight in zip(features, weights, strict=True)
        ]


class Sum(Additive):
    """sum_k Linear_k(x_k)"""

    def __init__(self, dims: list[int], num_classes: int, hidden: int) -> None:
        super().__init__()
        self.outputs = nn.ModuleList(nn.Linear(dim, num_classes) for dim in dims)

    def forward(self, features: list[Tensor], logits: list[Tensor]) -> Tensor:
        return torch.stack(self.parts(features, logits)).sum(0)

    def parts(self, features: list[Tensor], logits: list[Tensor]) -> list[Tensor]:
        return [output(x) for output, x in zip(self.outputs, features, strict=True)]


class Decision(Additive):
    """The mean of the unimodal heads' logits."""

    def __init__(self, dims: list[int], num_classes: int, hidden: int) -> None:
        super().__init__()

    def forward(self, features: list[Tensor], logits: list[Tensor]) -> Tensor:
        return torch.stack(logits).mean(0)

    def parts(self, features: list[Tensor], logits: list[Tensor]) -> list[Tensor]:
        return [x / len(logits) for x in logits]


class Entropy(nn.Module):
    """Sum of the unimodal logits, weighted per row by the certainty of each modality.

    w_k = exp(max e - e_k) / sum_j exp(max e - e_j), with the prediction's entropy
    e_k = -sum_c p_c ln p_c, over the modalities that the row has.
    MLA, arXiv 2311.10707, section 3.3.
    """

    def __init__(self, dims: list[int], num_classes: int, hidden: int) -> None:
        super().__init__()

    def forward(self, features: list[Tensor], logits: list[Tensor], visible: Tensor) -> Tensor:
        """`visible`: (K, B) bool, which modalities each row shows; if none, all are used."""
        stacked = torch.stack(logits)  # (K, B, C)
        logs = F.log_softmax(stacked.float(), dim=2)
        certainty = (logs.exp() * logs).sum(2)  # (K, B)
        absent = ~visible & visible.any(0)
        weights = torch.softmax(certainty.masked_fill(absent, -torch.inf), dim=0)
        return (weights[:, :, None] * stacked).sum(0)


class Film(nn.Module):
    """The first modality, modulated by each other one; FiLM, arXiv 1709.07871.

    h = (1 + gamma_k(x_k)) h + beta_k(x_k), then Linear(h).
    """

    def __init__(self, dims: list[int], num_classes: int, hidden: int) -> None:
        super().__init__()
        self.modulations = nn.ModuleList(nn.Linear(dim, 2 * dims[0]) for dim in dims[1:])
        self.output = nn.Linear(dims[0], num_classes)

    def forward(self, features: list[Tensor], logits: list[Tensor]) -> Tensor:
        h, *others = features
        for modulation, x in zip(self.modulations, others, strict=True):
            gamma, beta = modulation(x).chunk(2, dim=1)
            h = (1 + gamma) * h + beta
        fused: Tensor = self.output(h)
        return fused


class Gated(nn.Module):
    """Linear(sum_k h_k sigmoid(mean of the other h_j)), where h_k = Linear_k(x_k)."""

    def __init__(self, dims: list[int], num_classes: int, hidden: int) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(nn.Linear(dim, hidden) for dim in dims)
        self.output = nn.Linear(hidden, num_classes)

    def forward(self, features: list[Tensor], logits: list[Tensor]) -> Tensor:
        # (K, B, hidden)
        h = torch.stack([project(x) for project, x in zip(self.inputs, features, strict=True)])
        others = (h.sum(0) - h) / max(len(features) - 1, 1)
        fused: Tensor = self.output((h * torch.sigmoid(others)).sum(0))
        return fused


FUSIONS: dict[str, Callable[[list[int], int, int], nn.Module]] = {
    "concat": Concat,
    "sum": Sum,
    "decision": Decision,
    "film": Film,
    "gated": Gated,
    "entropy": Entropy,
}
