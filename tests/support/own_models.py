"""Encoders as a user writes them; tests import this file, and copies of it by other names."""

from math import prod

import torch
from torch import Tensor, nn


class Small(nn.Module):
    def __init__(self, shape: tuple[int, ...], size: int = 8) -> None:
        super().__init__()
        self.out_dim = size
        self.linear = nn.Linear(prod(shape), size)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(x.flatten(1))
        return torch.relu(output)


class WrongSize(Small):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.out_dim = 9


def nothing(shape: tuple[int, ...]) -> None:
    """Return no module."""


class Counted(Small):
    """Counts the rows that it encodes."""

    num_rows = 0

    def forward(self, x: Tensor) -> Tensor:
        """The feature of `Small`."""
        Counted.num_rows += len(x)
        return super().forward(x)
