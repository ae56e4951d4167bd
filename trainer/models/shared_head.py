"""One head for all modalities, and the projection that keeps what it has learnt from the one safe from the next (MLA, arXiv 2311.10707)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError


class SharedHead(nn.Linear):
    """Linear from features to classes, with the matrix P (D, D) by which the gradient of its weight is multiplied."""

    projection: Tensor

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__(dim, num_classes)
        self.register_buffer("projection", torch.eye(dim))

    @torch.no_grad()
    def project(self, x: Tensor, damping: float) -> None:
        """Multiplies the gradient (C, D) of the weight by P, which then takes up the mean feature x (D,) of this step.

        P <- P - q q^T / (damping + x^T q), q = P x: recursive least squares (arXiv 2311.10707, section 3.2), so that P has seen all steps but this one.
        """
        assert self.weight.grad is not None
        self.weight.grad.copy_(self.weight.grad @ self.projection)
        q = self.projection @ x
        self.projection -= torch.outer(q, q) / (damping + x @ q)


def shared_heads(dims: Mapping[str, int], num_classes: int) -> dict[str, nn.Linear]:
    """The same head for all modalities, given the lengths of their features (raises ConfigError where these differ)."""
    if len(set(dims.values())) > 1:
        lengths = ", ".join(f"{name} {dim}" for name, dim in dims.items())
        raise ConfigError(
            f"field 'model.heads' is 'shared', but the encoders' features differ in length ({lengths})",
            "make them equal in model.encoders: a resnet18 gives 512, a cnn or text 8 * width, an mlp hidden",
        )
    head = SharedHead(next(iter(dims.values())), num_classes)
    return dict.fromkeys(dims, head)
