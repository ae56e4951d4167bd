"""Training: encoders, fusion, losses, loading by plan, the loop, and Ray Train around it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.sampler.plan_batch_sampler import PlanBatchSampler

__all__ = ["PlanBatchSampler"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trainer.sampler.plan_batch_sampler import (
        PlanBatchSampler,  # on demand: the loop does without HTTP, also where httpx is not installed
    )

    return PlanBatchSampler
