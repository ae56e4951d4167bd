"""Choice of each method's settings by validation, on seeds that the comparison does not use."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from math import inf, isfinite
from operator import getitem
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline.config import parse
from pipeline.errors import ConfigError
from pipeline.storage.schemas import METRICS
from trainer.comparison.methods import slug, with_method
from trainer.config import NOT_IN_DIGEST, RunConfig
from trainer.config_values import merge, nested
from trainer.run_directory import Run

Values = dict[str, Any]
"""Values of fields of the configuration, by path, such as optimizer.lr."""
FIXED = NOT_IN_DIGEST | {"seed", "method", "features"}
"""Sections of the configuration whose values cannot be chosen by validation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """The values to choose from, and the seeds to choose with.

    Raises ConfigError for a field without values, with repeated values, or in FIXED.
    """

    fields: Mapping[str, Sequence[Any]]
    """Values by path; several fields are a grid."""
    seeds: Sequence[int]

    def __post_init__(self) -> None:
        for path, values in self.fields.items():
            if path.split(".")[0] in FIXED:
                raise ConfigError(f"tuned field: {path!r}", "tune a field that changes training")
            if not values or len(set(map(str, values))) < len(values):
                raise ConfigError(
                    f"values of {path!r}: {', '.join(map(str, values)) or 'none'}",
                    "name each value once, at least one",
                )
        if not self.seeds:
            raise ConfigError("the number of tuning seeds is 0", "use at least one tuning seed")

    @property
    def grid(self) -> list[Values]:
        """Every combination of values, the last field varying fastest."""
        return [
            dict(zip(self.fields, values, strict=True)) for values in product(*self.fields.values())
        ]

    def trial(self, config: RunConfig, method: str, k: int, seed: int) -> RunConfig:
        """The configuration of one run, named <name>-tune-<method>-<k>-seed<seed>.

        Args:
            k: Index into the grid.
        Raises:
            ConfigError: a field does not exist, or a value does not fit it.
        """
        name = f"{config.name}-tune-{slug(method)}-{k}-seed{seed}"
        return with_values(with_method(config, method, seed), {"name": name, **self.grid[k]})

    def trials(self, config: RunConfig, method: str) -> list[RunConfig]:
        """All trials of a method."""
        return [
            self.trial(config, method, k, seed)
            for k in range(len(self.grid))
            for seed in self.seeds
        ]


def tuning_of(fields: Mapping[str, Sequence[Any]], seeds: range, num_seeds: int) -> Tuning | None:
    """The tuning on the seeds that follow those of a comparison; None without fields."""
    if not fields:
        return None
    return Tuning(fields=fields, seeds=range(seeds.stop, seeds.stop + num_seeds))


def with_values(config: RunConfig, values: Values) -> RunConfig:
    """A configuration with other values of some fields. Raises ConfigError."""
    changed = merge(config.model_dump(mode="json"), nested(values))
    return parse(RunConfig, changed, f"run {config.name}")


def tune(
    config: RunConfig, method: str, tuning: Tuning, train_run: Callable[[RunConfig], Run]
) -> dict[str, Any]:
    """Train every trial of a method, reusing existing runs, and choose the best.

    The best has the lowest mean loss over seeds, or the highest accuracy or macro F1, as
    `train.select.metric` of the configuration says; the first one of several.

    Returns:
        `chosen`, the values of the best, and `trials`: their `values`, and the validation metric of
        the tested epochs, `each` and `mean`, None if training diverged.
    """
    metric = config.train.select.metric
    trials: list[dict[str, Any]] = []
    for k in range(len(tuning.grid)):
        configs = [tuning.trial(config, method, k, seed) for seed in tuning.seeds]
        each = [_validation(train_run(trial), METRICS[metric]) for trial in configs]
        known = [value for value in each if value is not None]
        trials.append(
            {
                "values": {path: _value(configs[0], path) for path in tuning.fields},
                "each": each,
                "mean": float(np.mean(known)) if len(known) == len(each) else None,
            }
        )
    sign = 1 if metric == "loss" else -1
    best = min(trials, key=lambda t: inf if t["mean"] is None else sign * t["mean"])
    return {"chosen": best["values"], "trials": trials}


def _value(config: RunConfig, path: str) -> Any:
    return reduce(getitem, path.split("."), config.model_dump(mode="json"))


def _validation(run: Run, column: str) -> float | None:
    """The metric of a run's tested epoch on the validation split; None if training diverged."""
    epochs, tested = run.epochs(), run.metadata["result"]["best_epoch"]
    value = float(epochs.filter(pc.equal(epochs["epoch"], tested))[column][0].as_py())
    return value if isfinite(value) else None
