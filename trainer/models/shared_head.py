"""A head shared by all modalities, with MLA's gradient projection (arXiv 2311.10707)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError


class SharedHead(nn.Linear):
    """Linear layer whose weight gradient is multiplied by a projection P (D, D)."""

    projection: Tensor

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__(dim, num_classes)
        self.register_buffer("projection", torch.eye(dim))

    @torch.no_grad()
    def project(self, x: Tensor, damping: float) -> None:
        """Project the weight's gradient (C, D), then update P with this step's mean feature x (D,).

        P <- P - q q^T / (damping + x^T q), q = P x: recursive least squares, section 3.2. The
        gradient is projected with the P of earlier steps.
        """
        assert self.weight.grad is not None
        self.weight.grad.copy_(self.weight.grad @ self.projection)
        q = self.projection @ x
        self.projection -= torch.outer(q, q) / (damping + x @ q)


def shared_heads(dims: Mapping[str, int], num_classes: int) -> dict[str, nn.Linear]:
    """Use one head for all modalities. Raises ConfigError if their features differ in length."""
    if len(set(dims.values())) > 1:
        lengths = ", ".join(f"{name} {dim}" for name, dim in dims.items())
        raise ConfigError(
            f"model.heads is 'shared', but the encoders' features differ in length ({lengths})",
            "make them equal in model.encoders: a resnet18 has 512, a cnn or text encoder "
            "8 * width, an mlp hidden",
        )
    head = SharedHead(next(iter(dims.values())), num_classes)
    return dict.fromkeys(dims, head)
