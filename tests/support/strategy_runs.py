"""Configurations of runs by strategy, and a model that can be stepped by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import Step
from pipeline.storage.schemas import ALL
from tests.support.stores import run_config
from trainer.comparison.methods import with_method
from trainer.config import RunConfig
from trainer.data.inputs import Inputs
from trainer.data.plan_loader import Batch, PlanLoader
from trainer.models import checkpoint as checkpoints
from trainer.models.model import model_for
from trainer.process_group import World
from trainer.strategies import STRATEGIES
from trainer.strategies.base import Stepper, build_optimizer

NAMES = ("sound", "sight", "touch")
SGD = {"kind": "sgd", "lr": 0.05, "momentum": 0.0, "weight_decay": 0.0}
EQUAL = {"encoders": {"touch": {"kind": "mlp", "hidden": 32}}}


def asked(store: Path, method: str, name: str = "run", **changes: Any) -> RunConfig:
    base: dict[str, Any] = {
        "name": name,
        "model": EQUAL,
        "train": {"epochs": 3, "warmup_epochs": 1},
    }
    return with_method(run_config(store, **{**base, **changes}), method, 0)


class Harness:
    """A strategy's step by itself, on batches of one's own."""

    def __init__(self, store: Path, method: str, **changes: Any) -> None:
        self.config = asked(store, method, optimizer=SGD, **changes)
        self.features = FeatureSet.open(self.config.features_place)
        self.model = model_for(self.config.model, self.features, seed=0)
        inputs = Inputs(
            checkpoints.architecture(self.config.model, self.features), 0, torch.device("cpu")
        )
        optimizer = build_optimizer(self.config.optimizer, self.model)
        kind = STRATEGIES[self.config.train.strategy]
        kind.check(self.config, self.model)
        self.step: Stepper = kind(self.model, self.model, inputs, optimizer, self.config, World())

    def batch(
        self,
        rows: np.ndarray[Any, Any],
        modality: str = ALL,
        assigned: list[int] | None = None,
        num_steps: int = 4,
        number: int = 0,
    ) -> Batch:
        plan: Any = range(num_steps)  # of which a loader of single steps wants the length alone
        loader = PlanLoader(
            self.features, plan, start=0, world=World(), skip_masked=True, prefetch=1
        )
        step = Step(
            step=number,
            modality=modality,
            rows=rows,
            assigned=None if assigned is None else np.array(assigned, np.int8),
        )
        return loader.load(step)
