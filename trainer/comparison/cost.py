"""The floating-point operations of a run: counted by taking one step of each kind on the CPU, then multiplied by what the steps' log says was taken."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

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


@dataclass(frozen=True, slots=True)
class Rate:
    """Of a step: what it takes whatever its rows, and what each row adds."""

    fixed: int
    row: int


class Meter:
    """Counts matrix products, convolutions and attention, a multiplication and an addition as two; made for all runs of one method."""

    def __init__(self, config: RunConfig, features: FeatureSet) -> None:
        self.config, self.features = config, features
        self.step = cache(self._step)
        self.forward = cache(self._forward)

    def train(self, run: Run) -> int:
        """Forward and backward over all steps of a run; exact where what an encoder takes does not depend on which other modalities a row has."""
        total = 0
        for epoch in range(len(run.epochs())):
            for modality, num_rows, encoded in self._taken(run, epoch):
                rate = self.step(modality)
                total += (
                    rate.fixed
                    + rate.row * num_rows
                    - sum(
                        self._spared(modality, name, num_rows - num)
                        for name, num in encoded.items()
                    )
                )
        return total

    def _taken(self, run: Run, epoch: int) -> Iterator[tuple[str, int, dict[str, int]]]:
        """Of each step its modality, its rows, and how many of them each encoder that runs in such a step runs on."""
        names, log = self.features.modalities, run.steps(epoch).to_pylist()
        if self.config.model.mask == "skip" and strategy_of(self.config).masks:
            for each in log:
                yield (
                    each["modality"],
                    each["num_rows"],
                    {
                        name: each[f"num_rows_{name}"]
                        for name in names
                        if each["modality"] in (ALL, name)
                    },
                )
            return
        for step in run.open_plan(epoch).steps():
            yield (
                step.modality,
                len(step.rows),
                dict(zip(names, self.features.has[step.rows].sum(axis=0).tolist(), strict=True)),
            )

    def evaluate(self, run: Run) -> int:
        """Forward over the train split each time that it was scored, the validation split each epoch, the test split once.

        Cross-fitting reads the encoders once more, and so do Shapley values; what is no forward pass of theirs, and diagnostics, do not count.
        """
        passes = (
            1
            + (self.config.train.scores == "cross_fitted")
            + (self.config.plan.copies == "resample")
        )
        times = {
            "train": passes * len((run.place / "scores").list()),
            "validation": len(run.epochs()),
            "test": 1,
        }
        total = 0
        for split, num in times.items():
            rows = self.features.rows_of(split)
            lacking = (~self.features.has[rows]).sum(axis=0)
            spared = sum(
                2 * (self.forward().row - self.forward(name).row) * int(n)
                for name, n in zip(self.features.modalities, lacking, strict=True)
                if n
            )
            total += num * (self.forward().row * len(rows) - spared)
        return total

    def _spared(self, modality: str, name: str, num_rows: int) -> int:
        return (
            2 * num_rows * (self.step(modality).row - self.step(modality, name).row)
            if num_rows
            else 0
        )

    def _step(self, modality: str, lacking: str | None = None) -> Rate:
        """The rate of a step in training; every second row lacks a modality where one is named."""
        return _rate([self._take(modality, num, lacking) for num in (2, 4)])

    def _take(self, modality: str, num_rows: int, lacking: str | None) -> int:
        config, features, world = self.config, self.features, World()
        model = model_for(config.model, features, config.seed).train()
        step = strategy_of(config)(
            model, model, self._inputs(), build_optimizer(config.optimizer, model), config, world
        )
        raw, has = self._rows(num_rows, lacking)
        rows = np.arange(num_rows)
        batch = Batch(
            step=Step(step=0, modality=modality, rows=rows),
            num_steps=1,
            rows=torch.from_numpy(rows),
            labels=torch.zeros(num_rows, dtype=torch.long),
            inputs=raw,
            has=has,
            keep=None,
            num_valid={name: int(value.sum()) for name, value in has.items()},
        )
        with FlopCounterMode(display=False) as counter:
            step(batch, 0)
        return int(counter.get_total_flops())

    def _forward(self, lacking: str | None = None) -> Rate:
        """The rate of a prediction; every second row lacks a modality where one is named."""
        model, found = model_for(self.config.model, self.features, self.config.seed).eval(), []
        for num_rows in (2, 4):
            raw, has = self._rows(num_rows, lacking)
            inputs = self._inputs()(raw, np.arange(num_rows), training=False)
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                model.predict(inputs, has)
            found.append(int(counter.get_total_flops()))
        return _rate(found)

    def _inputs(self) -> Inputs:
        return Inputs(
            architecture(self.config.model, self.features), self.config.seed, torch.device("cpu")
        )

    def _rows(
        self, num_rows: int, lacking: str | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        features = self.features
        raw = {
            name: torch.from_numpy(
                np.zeros((num_rows, *features.shape(name)), features.dtype(name))
            )
            for name in features.modalities
        }
        return raw, {
            name: (torch.arange(num_rows) % 2 == 0) | (name != lacking)
            for name in features.modalities
        }


def _rate(found: list[int]) -> Rate:
    """From the counts of 2 and of 4 rows."""
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
