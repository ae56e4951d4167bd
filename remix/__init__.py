"""Data Remixing for multimodal training (arXiv 2506.11550).

    import remix

    remix.decode(["shards/"], "store/features/clips")
    run = remix.train("run.yaml")
    plan = remix.BatchPlan.open(run.plan(11))

Importing `remix` loads neither torch nor Ray; functions load them when called.
"""

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.features.feature_set import FeatureSet
    from pipeline.plans.plan import BatchPlan
    from pipeline.scores.logits import scores_from_logits
    from pipeline.scores.table import Scores
    from remix.api import compare, decode, load_model, plan, serve, train
    from trainer.sampler.plan_batch_sampler import PlanBatchSampler
    from trainer.strategies.base import TrainStep

__version__ = version("data-remixing")
__all__ = [
    "BatchPlan",
    "FeatureSet",
    "PlanBatchSampler",
    "Scores",
    "TrainStep",
    "__version__",
    "compare",
    "decode",
    "load_model",
    "plan",
    "scores_from_logits",
    "serve",
    "train",
]
_MODULES = {
    "BatchPlan": "pipeline.plans.plan",
    "FeatureSet": "pipeline.features.feature_set",
    "PlanBatchSampler": "trainer.sampler.plan_batch_sampler",
    "Scores": "pipeline.scores.table",
    "TrainStep": "trainer.strategies.base",
    "scores_from_logits": "pipeline.scores.logits",
    **dict.fromkeys(("compare", "decode", "load_model", "plan", "serve", "train"), "remix.api"),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__


def _check_not_shadowed() -> None:
    """Check that no other module hides a package of Remix. Raises ImportError."""
    ours = Path(__file__).parents[1]
    for name in ("pipeline", "trainer", "service"):
        try:
            spec = find_spec(name)
        except ValueError:  # a module without a spec was put into sys.modules
            spec = None
        origin = spec.origin if spec else None
        if origin is None or not Path(origin).parent.samefile(ours / name):
            raise ImportError(
                f"`import {name}` loads {origin or 'no file'}, not the package {ours / name} of "
                f"Remix. Rename that file, or start Python from another folder.",
                name=name,
                path=origin,
            )


_check_not_shadowed()
