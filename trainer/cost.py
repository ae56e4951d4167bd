"""Floating-point operations of a run: counted for one step of each kind, times the planned steps.

Counting runs on the CPU; the numbers of steps and rows come from the plans.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline.arrays import Float64Array, Int64Array
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan, Step
from pipeline.scores.table import Scores
from pipeline.storage.schemas import ALL
from trainer.config import RunConfig
from trainer.data.inputs import Inputs
from trainer.data.plan_loader import Batch
from trainer.models.checkpoint import architecture
from trainer.models.model import FUSED, model_for
from trainer.models.model_config import ModelConfig
from trainer.process_group import World
from trainer.run_directory import Run
from trainer.scoring.epoch_scores import due_rows
from trainer.strategies import strategy_of
from trainer.strategies.base import build_optimizer

Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Rate:
    """FLOPs of a step: fixed + row * number of rows."""

    fixed: int
    row: int


class Meter:
    """Counts the FLOPs of the runs of one method.

    Matrix products, convolutions and attention count; a multiply-add is two operations.
    """

    def __init__(self, config: RunConfig, features: FeatureSet) -> None:
        self.config, self.features = config, features
        described = architecture(config.model, features)
        # built from it without pretrained weights
        self.model = ModelConfig.model_validate(described["model"])
        self.inputs = Inputs(described, config.seed, torch.device("cpu"))
        self.step = cache(self._step)
        self.forward = cache(self._forward)

    def train(self, plan: BatchPlan) -> int:
        """FLOPs of all steps of a plan, forward and backward.

        Exact if the cost of an encoder for a row does not depend on the row's other modalities.
        """
        names, total = self.features.modalities, 0
        skip = self.config.model.mask == "skip" and strategy_of(self.config).masks
        for step in plan.steps():
            encoded = self.features.has[step.rows]
            if skip and step.assigned is not None:
                encoded = encoded & step.trained(names)
            rate, num_rows = self.step(step.modality), len(step.rows)
            total += rate.fixed + rate.row * num_rows
            for name, num in zip(names, encoded.sum(axis=0).tolist(), strict=True):
                runs = not skip or step.modality in (ALL, name)
                if runs and num < num_rows:
                    saved = 2 * (rate.row - self.step(step.modality, name).row)
                    total -= saved * (num_rows - num)
        return total

    def score(self, rows: Int64Array) -> int:
        """FLOPs of scoring rows.

        Shapley values need a second pass over the encoders; what else they compute is not counted.
        """
        return (1 + (self.config.plan.copies == "resample")) * self.predict(rows)

    def predict(self, rows: Int64Array) -> int:
        """FLOPs of a forward pass over rows."""
        has = self.features.has[rows]
        per_row = self.forward().row
        total = per_row * len(has)
        for name, missing in zip(
            self.features.modalities, (~has).sum(axis=0).tolist(), strict=True
        ):
            if missing:
                total -= 2 * (per_row - self.forward(name).row) * missing
        return total

    def training(self, run: Run) -> int:
        """FLOPs of a run's training: steps, scores and validation, but neither assembly nor test.

        Diagnostics are not counted. Races are: each epoch that a won race replaced counts as the
        joint epoch before the race.
        """
        planned = run.planned()
        steps = sum(self.train(run.open_plan(epoch)) for epoch in planned)
        scores = 0
        for path in (run.path / "scores").list():
            table = Scores.open(path, hashed=False)
            scores += self.score(due_rows(self.config, run, table.metadata["epoch"], table.rows))
        validation = self.predict(self.features.rows_of("validation"))
        races = 0
        for race in run.races():
            result = race.path / "result.json"
            if result.exists() and (found := result.read_json())["won"]:
                joint = self.train(run.open_plan(found["epoch"] - 1)) + validation
                races += len(race.planned()) * joint
            else:
                races += self.training(race)
        return steps + scores + len(planned) * validation + races

    def _step(self, modality: str, lacking: str | None = None) -> Rate:
        """The rate of a training step, in which every second row lacks the modality `lacking`."""
        config = self.config
        model = model_for(self.model, self.features, config.seed, pretrained=False).train()
        optimizer = build_optimizer(config.optimizer, model)
        step = strategy_of(config)(model, self.inputs, optimizer, config, World())

        def take(rows: Int64Array, raw: Tensors, has: Tensors) -> None:
            batch = Batch(
                step=Step(step=0, modality=modality, rows=rows),
                num_steps=1,
                rows=torch.from_numpy(rows),
                labels=torch.zeros(len(rows), dtype=torch.long),
                inputs=raw,
                present=has,
                unmasked=None,
                num_valid=(num_valid := {name: int(value.sum()) for name, value in has.items()}),
                divisors={FUSED: len(rows), **num_valid},
                starts_update=True,
                ends_update=True,
            )
            step(batch, 0)

        return self._rate(take, lacking)

    def _forward(self, lacking: str | None = None) -> Rate:
        """The rate of a prediction, in which every second row lacks the modality `lacking`."""
        seed = self.config.seed
        model = model_for(self.model, self.features, seed, pretrained=False).eval()

        @torch.no_grad()
        def predict(rows: Int64Array, raw: Tensors, has: Tensors) -> None:
            model.predict(self.inputs(raw, rows, training=False), has)

        return self._rate(predict, lacking)

    def _rate(
        self, call: Callable[[Int64Array, Tensors, Tensors], None], lacking: str | None
    ) -> Rate:
        """The rate of a call, from its FLOPs for 2 and for 4 rows."""
        features, flops = self.features, []
        for num_rows in (2, 4):
            raw, has = {}, {}
            for name in features.modalities:
                values = np.zeros((num_rows, *features.shape(name)), features.dtype(name))
                raw[name] = torch.from_numpy(values)
                has[name] = (torch.arange(num_rows) % 2 == 0) | (name != lacking)
            with FlopCounterMode(display=False) as counter:
                call(np.arange(num_rows), raw, has)
            flops.append(int(counter.get_total_flops()))
        row = (flops[1] - flops[0]) // 2
        return Rate(flops[0] - 2 * row, row)


def cost_of(run: Run, meter: Meter, since: int) -> dict[str, Any]:
    """Cost of a finished run: num_steps, seconds, flops, epoch_seconds and expansion.

    seconds and flops include races. From epoch `since` on, epoch_seconds is the median per epoch,
    and expansion the mean number of times that a sample is used per epoch.
    """
    epochs, seconds = run.epochs(), _seconds(run)
    raced = sum(float(np.sum(_seconds(race)[race.planned()])) for race in run.races())
    rows = epochs["num_rows"].to_numpy()
    since = since if since < len(rows) else 0
    return {
        "num_steps": int(np.sum(epochs["num_steps"].to_numpy())),
        "seconds": float(np.sum(seconds)) + raced,
        "epoch_seconds": float(np.median(seconds[since:])),
        "expansion": float(np.mean(rows[since:])) / len(meter.features.rows_of("train")),
        "flops": meter.training(run),
    }


def _seconds(run: Run) -> Float64Array:
    """Wall time of each epoch without validation."""
    epochs = run.epochs()
    stages = ("score", "plan", "load", "step")
    total: Float64Array = np.sum(
        [epochs[f"{stage}_seconds"].to_numpy() for stage in stages], axis=0
    )
    return total
