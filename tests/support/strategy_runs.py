"""Configurations of runs by strategy, and a helper to run single steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import Step
from tests.support.stores import run_config
from trainer.comparison.methods import with_method
from trainer.config import RunConfig
from trainer.data.inputs import Inputs
from trainer.data.plan_loader import Batch, PlanLoader
from trainer.models import checkpoint as checkpoints
from trainer.models.model import model_for
from trainer.process_group import World
from trainer.strategies import strategy_of
from trainer.strategies.base import TrainStep, build_optimizer

NAMES = ("sound", "sight", "touch")
SGD = {"kind": "sgd", "lr": 0.05, "momentum": 0.0, "weight_decay": 0.0}
EQUAL = {"encoders": {"touch": {"kind": "mlp", "hidden": 32}}}


def asked(store: Path, method: str, name: str = "run", **changes: Any) -> RunConfig:
    base: dict[str, Any] = {"model": EQUAL, "train": {"epochs": 3, "warmup_epochs": 1}}
    return with_method(run_config(store, **{"name": name, **base, **changes}), method, 0)


class Harness:
    """A strategy's step, run on given batches."""

    def __init__(self, config: RunConfig, *, skip_masked: bool = True) -> None:
        self.features = FeatureSet.open(config.features_path)
        self.model = model_for(config.model, self.features, seed=0)
        self.optimizer = build_optimizer(config.optimizer, self.model)
        facts = checkpoints.architecture(config.model, self.features)
        inputs = Inputs(facts, 0, torch.device("cpu"))
        kind = strategy_of(config)
        kind.check(config, self.model)
        self.step: TrainStep = kind(self.model, inputs, self.optimizer, config, World())
        self._skip_masked = skip_masked and config.model.mask == "skip"

    def load(self, step: Step, group: Sequence[Step] = ()) -> Batch:
        group = group or [step]
        plan: Any = range(4)  # for single steps a loader only needs the plan's length
        loader = PlanLoader(
            self.features,
            plan,
            start=0,
            world=World(),
            skip_masked=self._skip_masked,
            prefetch=1,
            accumulate=len(group),
        )
        return loader.load(group)[group.index(step)]
