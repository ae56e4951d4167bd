"""Scores to the modality that each row trains, for any slice of the scores.

A row goes to the modality of lowest cost, where a temperature adds noise to each cost: with T times a Gumbel draw taken off, modality k is the
lowest with probability proportional to exp(-cost_k / T) (Gumbel 1954; Maddison et al. 2014, arXiv 1411.0030). Natural shares need the memory of
a slice. Others are met in memory (pipeline/plans/target_shares.py): all costs are held as float64, and the modality of each row is kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.arrays import Int64Array, UInt64Array
from pipeline.counter_rng import Purpose, gumbel, hashes, key_of, uniform
from pipeline.errors import DataError, MismatchError
from pipeline.plans.config import PlanConfig
from pipeline.plans.normalize import CostScale, above_chance, cost_scales
from pipeline.plans.target_shares import Choice, lowest, meet, target_of
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import column

Costs = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """What makes any slice of the scores into modalities."""

    modalities: tuple[str, ...]
    policy: str
    seed: int
    epoch: int
    source: str = "kl"
    """What is read of each modality: its column <source>_<m>."""
    measures: tuple[CostScale, ...] = ()
    temperature: float = 0.0
    met: tuple[Int64Array, Choice] | None = None
    """Where the target shares are not the natural ones: the rows (N,), ascending, and the modality of each."""

    def choose(self, block: pa.Table) -> Choice:
        """(n,) int8: the index of each row's modality; a tie goes to the last of the tied modalities."""
        if self.met is None:
            return lowest(self.costs(block))
        rows, choice = self.met
        return choice[np.searchsorted(rows, column(block, "row"))]

    def costs(self, block: pa.Table) -> list[Costs]:
        """Per modality (n,): ability, its opposite, probability of the label or a hash in [0, 1), measured and softened; NaN where the sample lacks it."""
        if self.policy == "random":
            draws = [uniform(each) for each in self._drawn(block, Purpose.RANDOM_POLICY)]
            return [
                np.where(self._lacking(block, name), np.nan, each)
                for name, each in zip(self.modalities, draws, strict=True)
            ]
        costs = [self._read(block, name) for name in self.modalities]
        if self.measures:
            costs = [measure(cost) for measure, cost in zip(self.measures, costs, strict=True)]
        if self.policy == "easy":
            costs = [-cost for cost in costs]
        if self.temperature:
            costs = [
                cost - self.temperature * gumbel(each)
                for cost, each in zip(costs, self._drawn(block, Purpose.TEMPERATURE), strict=True)
            ]
        return costs

    def _read(self, block: pa.Table, name: str) -> Costs:
        values: Costs = column(block, f"{self.source}_{name}")
        if self.source == "kl":
            return values
        lacking = self._lacking(block, name)
        bad = np.flatnonzero(~np.isfinite(values) & ~lacking)
        if len(bad):
            row = column(block, "row")[bad[0]]
            raise DataError(
                f"scores: row {row}: {self.source}_{name} is {values[bad[0]]} but kl_{name} is a number",
                "score that sample again",
            )
        return np.where(lacking, np.nan, values)

    def _lacking(self, block: pa.Table, name: str) -> npt.NDArray[np.bool_]:
        lacking: npt.NDArray[np.bool_] = np.isnan(column(block, f"kl_{name}"))
        return lacking

    def _drawn(self, block: pa.Table, purpose: Purpose) -> Iterator[UInt64Array]:
        """Per modality (n,) hashes of the rows."""
        for k in range(len(self.modalities)):
            yield hashes(key_of(self.seed, self.epoch, purpose, k), column(block, "row"))


def find_assignment(scores: Scores, config: PlanConfig, seed: int, epoch: int) -> Assignment:
    """What `config` asks of these scores (raises ConfigError, DataError where shares cannot be met)."""
    names = tuple(scores.modalities)
    source = _source(scores, config)
    natural = Assignment(
        modalities=names,
        policy=config.policy,
        seed=seed,
        epoch=epoch,
        source=source,
        measures=cost_scales(scores, config, source),
        temperature=config.temperature,
    )
    target = target_of(
        config, names, len(scores), above_chance(scores) if config.shares == "validation" else ()
    )
    if target is None:
        return natural
    costs, start = np.empty((len(names), len(scores))), 0
    for block in scores.blocks():
        costs[:, start : start + len(block)] = natural.costs(block)
        start += len(block)
    if target.met(np.bincount(lowest(costs), minlength=len(names))):
        return natural
    keys = hashes(key_of(seed, epoch, Purpose.TIES), scores.rows)
    return replace(natural, met=(scores.rows, meet(target, names, costs, keys)))


def _source(scores: Scores, config: PlanConfig) -> str:
    """Which columns a policy reads (raises DataError where they are not there, MismatchError where they were smoothed otherwise)."""
    if config.policy == "loss":
        source, asked, cure = "p_label", "policy 'loss'", "score again, or choose another policy"
    elif config.smoothing and config.policy != "random":
        source, asked, cure = (
            "smooth",
            f"smoothing {config.smoothing}",
            "give scores of a run that was trained with it, or set smoothing to 0",
        )
        if scores.metadata.get("smoothing", config.smoothing) != config.smoothing:
            told = scores.metadata["smoothing"]
            raise MismatchError(
                f"{scores.what} were smoothed by {told}, but field 'smoothing' is {config.smoothing}",
                "set it to that, or to 0",
            )
    else:
        return "kl"
    for name in scores.modalities:
        if f"{source}_{name}" not in scores.table.column_names:
            raise DataError(
                f"{scores.what}: column '{source}_{name}' is missing, which {asked} needs", cure
            )
    return source


def assign(scores: Scores, config: PlanConfig, seed: int, epoch: int) -> Choice:
    """(N,) int8: the index among `scores.modalities` of the modality that each row trains (raises ConfigError, DataError)."""
    assignment = find_assignment(scores, config, seed, epoch)
    return np.concatenate([assignment.choose(block) for block in scores.blocks()])
