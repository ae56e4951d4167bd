"""Configuration of the optimizer, and its learning rate at every step."""

import math
from typing import Literal

from pydantic import Field

from pipeline.config import StrictModel

RISE = 0.3
FIRST_RATE = 1 / 25
LAST_RATE = FIRST_RATE / 1e4
"""Share of the run in which the rate of `one_cycle` rises, and its first and last rates as shares
of the highest: the defaults of torch.optim.lr_scheduler.OneCycleLR."""


class OptimizerConfig(StrictModel):
    """The optimizer and its learning rate schedule."""

    kind: Literal["adam", "adamw", "sgd"] = "adam"
    """Optimizer of torch.optim."""
    lr: float = Field(default=1e-3, gt=0)
    """Highest learning rate. Lower it if training diverges."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """L2 penalty (adam, sgd) or decoupled weight decay (adamw)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the moment estimates of adam and adamw."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of sgd."""
    schedule: Literal["step", "cosine", "one_cycle"] = "step"
    """Learning rate over the run: step, multiplied by `decay` every `decay_every` epochs; cosine,
    from `lr` to 0 by half a cosine; one_cycle, up from lr / 25 in the first 30 %, then down to
    almost 0. The last two end with the run, also if train.budget ends it."""
    lr_warmup_epochs: float = Field(default=0, ge=0)
    """Epochs in which the learning rate is also multiplied by a factor that rises linearly from 0
    to 1. It is independent of train.warmup_epochs, the joint epochs."""
    decay_every: int = Field(default=30, ge=1)
    """Epochs between two decays of schedule step."""
    decay: float = Field(default=0.1, gt=0, le=1)
    """Factor of each decay of schedule step; 1 keeps the learning rate constant."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Maximum L2 norm of the gradient; null: no clipping. Set it if training diverges."""

    def learning_rate(
        self, epoch: int, step: int, num_steps: int, span: tuple[float, float]
    ) -> float:
        """Learning rate of a step.

        The schedulers of torch need the number of steps of the run, but plans are made epoch by
        epoch. So the rate is a function of the progress: exact for any plan, and after a resume.

        Args:
            step: Number of the step among the `num_steps` of its epoch.
            span: Progress of the run, from 0 to 1, at the start and at the end of the epoch.
        """
        progress = span[0] + (span[1] - span[0]) * step / num_steps
        if self.schedule == "step":
            factor = self.decay ** (epoch // self.decay_every)
        elif self.schedule == "cosine":
            factor = _cosine(1, 0, progress)
        elif progress < RISE:
            factor = _cosine(FIRST_RATE, 1, progress / RISE)
        else:
            factor = _cosine(1, LAST_RATE, (progress - RISE) / (1 - RISE))
        if self.lr_warmup_epochs:
            factor *= min(1, (epoch + (step + 1) / num_steps) / self.lr_warmup_epochs)
        return float(self.lr * factor)


def _cosine(start: float, end: float, share: float) -> float:
    """From `start` at 0 to `end` at 1 by half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
