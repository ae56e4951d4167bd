"""Fusion: the features of any number of modalities to the fused logits.

One rule for all: a masked or missing modality is a feature of zeros. Every fusion takes the features, a list of (B, D_k) in
the order of the modalities, and the logits of their unimodal heads, a list of (B, C), and gives (B, C).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Concat(nn.Module):
    """Linear([x_1, ..., x_K])"""

    def __init__(self, dims: list[int], num_classes: int, hidden: int) -> None:
        super().__init__()
        self.output = nn.Linear(sum(dims), num_classes)

    def forward(self, features: list[Tensor], logits: list[Tensor]) -> Tensor:
        fused: Tensor = self.output(torch.cat(features, dim=1))
        return fused


class Sum(nn.Module):
    """sum_k Linear_k(x_k)"""

    def __init__(self, dims: list[int], num_classes: int, hidden: int) -> None:
        super().__init__()
        self.outputs = nn.ModuleList(nn.Linear(dim, num_classes) for dim in dims)

    def forward(self, features: list[Tensor], logits: list[Tensor]) -> Tensor:
        return torch.stack([output(x) for output, x in zip(self.outputs, features, strict=True)]).sum(0)


class Decision(nn.Module):
    """The mean of the unimodal heads' logits."""

    def __init__(self, dims: list[int], num_classes: int, hidden: int) -> None:
        super().__init__()

    def forward(self, features: list[Tensor], logits: list[Tensor]) -> Tensor:
        return torch.stack(logits).mean(0)


class Film(nn.Module):
    """The first modality, modulated by each further one, h = (1 + gamma_k(x_k)) h + beta_k(x_k), then Linear(h)."""

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
    """h_k = Linear_k(x_k), each times the sigmoid of the mean of the others; then Linear of their sum."""

    def __init__(self, dims: list[int], num_classes: int, hidden: int) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(nn.Linear(dim, hidden) for dim in dims)
        self.output = nn.Linear(hidden, num_classes)

    def forward(self, features: list[Tensor], logits: list[Tensor]) -> Tensor:
        h = torch.stack([project(x) for project, x in zip(self.inputs, features, strict=True)])  # (K, B, hidden)
        others = (h.sum(0) - h) / max(len(features) - 1, 1)
        fused: Tensor = self.output((h * torch.sigmoid(others)).sum(0))
        return fused


FUSIONS: dict[str, Callable[[list[int], int, int], nn.Module]] = {"concat": Concat, "sum": Sum, "decision": Decision, "film": Film, "gated": Gated}
