"""The floating-point operations of a run: counted by taking one step of each kind on the CPU, then multiplied by what the steps' log says was taken."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline.arrays import Int64Array
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import Step
from pipeline.storage.schemas import ALL
from trainer.config import RunConfig
from trainer.data.inputs import Inputs
from trainer.data.plan_loader import Batch
from trainer.models.checkpoint import architecture
from trainer.models.model import model_for
from trainer.process_group import World
from trainer.run_directory import Run
from trainer.strategies import strategy_of
from trainer.strategies.base import build_optimizer

Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Rate:
    """Of a step: what it takes whatever its rows, and what each row adds."""

    fixed: int
    row: int


class Meter:
    """Counts matrix products, convolutions and attention, a multiplication and an addition as two; made for all runs of one method."""

    def __init__(self, config: RunConfig, features: FeatureSet) -> None:
        self.config, self.features = config, features
        self.inputs = Inputs(architecture(config.model, features), config.seed, torch.device("cpu"))
        self.step = cache(self._step)
        self.forward = cache(self._forward)

    def train(self, run: Run) -> int:
        """Forward and backward over all steps of a run; exact where what an encoder takes does not depend on which other modalities a row has."""
        total = 0
        for epoch in range(len(run.epochs())):
            for modality, num_rows, encoded in self._taken(run, epoch):
                rate = self.step(modality)
                total += rate.fixed + rate.row * num_rows
                for name, num in encoded.items():
                    if num < num_rows:
                        spared = 2 * (rate.row - self.step(modality, name).row)
                        total -= spared * (num_rows - num)
        return total

    def _taken(self, run: Run, epoch: int) -> Iterator[tuple[str, int, dict[str, int]]]:
        """Of each step its modality, its rows, and how many of them each encoder that runs in such a step runs on."""
        names = self.features.modalities
        if self.config.model.mask == "skip" and strategy_of(self.config).masks:
            for each in run.steps(epoch).to_pylist():
                modality = each["modality"]
                running = [name for name in names if modality in (ALL, name)]
                encoded = {name: each[f"num_rows_{name}"] for name in running}
                yield modality, each["num_rows"], encoded
        else:
            for step in run.open_plan(epoch).steps():
                has = self.features.has[step.rows].sum(axis=0).tolist()
                yield step.modality, len(step.rows), dict(zip(names, has, strict=True))

    def evaluate(self, run: Run) -> int:
        """Forward over the train split each time that it was scored, the validation split each epoch, the test split once.

        Cross-fitting reads the encoders once more, and so do Shapley values; what is no forward pass of theirs, and diagnostics, do not count.
        """
        train, plan = self.config.train, self.config.plan
        passes = 1 + (train.scores == "cross_fitted") + (plan.copies == "resample")
        times = {
            "train": passes * len((run.path / "scores").list()),
            "validation": len(run.epochs()),
            "test": 1,
        }
        whole, total = self.forward().row, 0
        for split, num in times.items():
            has = self.features.has[self.features.rows_of(split)]
            total += num * whole * len(has)
            for name, lacking in zip(
                self.features.modalities, (~has).sum(axis=0).tolist(), strict=True
            ):
                if lacking:
                    total -= num * 2 * (whole - self.forward(name).row) * lacking
        return total

    def _step(self, modality: str, lacking: str | None = None) -> Rate:
        """The rate of a step in training; every second row lacks a modality where one is named."""
        config = self.config
        model = model_for(config.model, self.features, config.seed).train()
        optimizer = build_optimizer(config.optimizer, model)
        step = strategy_of(config)(model, model, self.inputs, optimizer, config, World())

        def take(rows: Int64Array, raw: Tensors, has: Tensors) -> None:
            batch = Batch(
                step=Step(step=0, modality=modality, rows=rows),
                num_steps=1,
                rows=torch.from_numpy(rows),
                labels=torch.zeros(len(rows), dtype=torch.long),
                inputs=raw,
                has=has,
                keep=None,
                num_valid={name: int(value.sum()) for name, value in has.items()},
            )
            step(batch, 0)

        return self._rate(take, lacking)

    def _forward(self, lacking: str | None = None) -> Rate:
        """The rate of a prediction; every second row lacks a modality where one is named."""
        model = model_for(self.config.model, self.features, self.config.seed).eval()

        @torch.no_grad()
        def predict(rows: Int64Array, raw: Tensors, has: Tensors) -> None:
            model.predict(self.inputs(raw, rows, training=False), has)

        return self._rate(predict, lacking)

    def _rate(
        self, call: Callable[[Int64Array, Tensors, Tensors], None], lacking: str | None
    ) -> Rate:
        """From what a call takes of 2 and of 4 rows."""
        features, found = self.features, []
        for num_rows in (2, 4):
            raw, has = {}, {}
            for name in features.modalities:
                values = np.zeros((num_rows, *features.shape(name)), features.dtype(name))
                raw[name] = torch.from_numpy(values)
                has[name] = (torch.arange(num_rows) % 2 == 0) | (name != lacking)
            with FlopCounterMode(display=False) as counter:
                call(np.arange(num_rows), raw, has)
            found.append(int(counter.get_total_flops()))
        row = (found[1] - found[0]) // 2
        return Rate(found[0] - 2 * row, row)


def cost_of(run: Run, meter: Meter, since: int) -> dict[str, Any]:
    """What a finished run took: steps, seconds, FLOPs; and from epoch `since` on an epoch's median seconds and mean number of rows drawn per sample."""
    epochs = run.epochs()
    seconds = sum(
        epochs[f"{stage}_seconds"].to_numpy() for stage in ("score", "plan", "load", "step")
    )
    rows = epochs["num_rows"].to_numpy()
    since = since if since < len(rows) else 0
    return {
        "num_steps": int(np.sum(epochs["num_steps"].to_numpy())),
        "seconds": float(np.sum(seconds)),
        "epoch_seconds": float(np.median(seconds[since:])),
        "expansion": float(np.mean(rows[since:])) / len(meter.features.rows_of("train")),
        "flops": meter.train(run) + meter.evaluate(run),
    }
