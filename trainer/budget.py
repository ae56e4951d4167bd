"""The budget of a run: the share that each epoch spends, and how much of the next epoch fits."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.arrays import Int64Array
from pipeline.counter_rng import Purpose, hashes, key_of
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan
from trainer.config import RunConfig
from trainer.cost import Meter

Row = Mapping[str, Any]
TOLERANCE = 0.005
"""Share of the budget that may be left, instead of a last epoch of a few rows."""


class Budget:
    """Measures the progress of a run: the share of its epochs, or of its FLOPs or seconds.

    `history` below are the rows of epochs.arrow so far.
    """

    def __init__(self, config: RunConfig, features: FeatureSet) -> None:
        self._config, self._limits = config, config.train.budget
        self._meter = Meter(config, features)

    def share(self, history: Sequence[Row]) -> float:
        """The share of the training rows that the next epoch trains; 0 if the run is finished.

        It is below 1 in the last epoch of a budget, which is taken to cost as much as the epoch
        before in proportion to its rows.
        """
        progress = history[-1]["progress"] if history else 0.0
        if len(history) == self._config.train.epochs or progress >= 1:
            return 0.0
        if not self._limits.is_set or not history:
            return 1.0
        before = history[-2]["progress"] if len(history) > 1 else 0.0
        fixed = self._validation()
        share = (1 - progress - fixed) / (progress - before - fixed)
        return min(1.0, max(0.0, share))

    def progress(
        self, history: Sequence[Row], plan: BatchPlan, *, scored: Int64Array, seconds: float
    ) -> float:
        """The progress after an epoch.

        Args:
            history: Without the epoch.
            scored: (n,) rows that were scored for it.
            seconds: Duration of the epoch.
        """
        before = history[-1]["progress"] if history else 0.0
        if self._limits.flops:
            steps = self._meter.train(plan) + self._meter.score(scored)
            after = before + steps / self._limits.flops + self._validation()
            return 1.0 if after > 1 - TOLERANCE else float(after)
        if self._limits.seconds:
            return min(1.0, float(before + seconds / self._limits.seconds))
        return (len(history) + 1) / self._config.train.epochs

    def span(
        self, history: Sequence[Row], plan: BatchPlan, *, scored: Int64Array, share: float
    ) -> tuple[float, float]:
        """The progress at the start and at the end of the next epoch.

        With a limit of seconds, the epoch is taken to last as long as the one before.

        Args:
            share: The share of the training rows that it trains.
        """
        start, before = ([*(row["progress"] for row in history[:-3:-1]), 0.0, 0.0])[:2]
        if share < 1:
            return start, 1.0
        if self._limits.seconds:
            step = start - before if history else 1 / self._config.train.epochs
            return start, min(1.0, start + step)
        return start, self.progress(history, plan, scored=scored, seconds=0.0)

    def _validation(self) -> float:
        if not self._limits.flops:
            return 0.0
        rows = self._meter.features.rows_of("validation")
        return self._meter.predict(rows) / self._limits.flops


def rows_of_epoch(config: RunConfig, features: FeatureSet, epoch: int, share: float) -> Int64Array:
    """A random share of the training rows, ascending; at least one row."""
    rows = features.rows_of("train")
    if share >= 1:
        return rows
    order = np.argsort(hashes(key_of(config.seed, epoch, Purpose.BUDGET), rows), kind="stable")
    return np.sort(rows[order[: max(1, round(share * len(rows)))]])
