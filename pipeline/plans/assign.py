"""Assignment: the modality that each row is used to train.

Each row has a cost per modality, and trains the modality of lowest cost. With policy `kl` the cost
is the ability: a low ability is a difficult sample, so a row trains its most difficult modality.

A temperature T adds noise: with T times a Gumbel draw subtracted, modality k is the cheapest with
probability proportional to exp(-cost_k / T) (Gumbel 1954; Maddison et al. 2014, arXiv 1411.0030).
Natural shares need only the memory of a slice of the scores. Target shares
(pipeline/plans/target_shares.py) need the float64 costs of all rows at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from pipeline.arrays import BoolArray, FloatArray, Int8Array, Int64Array, UInt64Array
from pipeline.counter_rng import Purpose, gumbel, hashes, key_of, uniform
from pipeline.errors import DataError, MismatchError
from pipeline.plans.config import PlanConfig
from pipeline.plans.normalize import CostScale, above_chance, cost_scales
from pipeline.plans.target_shares import (
    Target,
    assign_to_target,
    cheapest,
    largest_remainder,
    target_of,
)
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import column


@dataclass(frozen=True, kw_only=True, slots=True)
class AssignmentRule:
    """Assigns any slice of the scores, with the same result for a row in every slice."""

    modalities: tuple[str, ...]
    policy: str
    seed: int
    epoch: int
    source: str = "kl"
    """FloatArray are read from the columns <source>_<m>."""
    scales: tuple[CostScale, ...] = ()
    temperature: float = 0.0
    solved: tuple[Int64Array, Int8Array] | None = None
    """All rows (N,), ascending, and their assignment, if target shares change the natural one."""

    def assign(self, block: pa.Table) -> Int8Array:
        """(n,) int8: index of each row's modality; of tied modalities, the last."""
        if self.solved is None:
            return cheapest(self.costs(block))
        rows, assignment = self.solved
        return assignment[np.searchsorted(rows, column(block, "row"))]

    def costs(self, block: pa.Table) -> list[FloatArray]:
        """The cost (n,) of each modality by the policy, NaN if the sample lacks it.

        Ability (kl), its negative (easy), probability of the label (loss) or a hash in [0, 1)
        (random); all but the last are then normalised and given noise, if so configured.
        """
        if self.policy == "random":
            draws = [uniform(hashed) for hashed in self._hashes(block, Purpose.RANDOM_POLICY)]
            return [
                np.where(self._lacking(block, name), np.nan, draw)
                for name, draw in zip(self.modalities, draws, strict=True)
            ]
        costs = [self._read(block, name) for name in self.modalities]
        if self.scales:
            costs = [scale(cost) for scale, cost in zip(self.scales, costs, strict=True)]
        if self.policy == "easy":
            costs = [-cost for cost in costs]
        if self.temperature:
            costs = [
                cost - self.temperature * gumbel(hashed)
                for cost, hashed in zip(
                    costs, self._hashes(block, Purpose.TEMPERATURE), strict=True
                )
            ]
        return costs

    def _read(self, block: pa.Table, name: str) -> FloatArray:
        values: FloatArray = column(block, f"{self.source}_{name}")
        if self.source == "kl":
            return values
        lacking = self._lacking(block, name)
        bad = np.flatnonzero(~np.isfinite(values) & ~lacking)
        if len(bad):
            row = column(block, "row")[bad[0]]
            raise DataError(
                f"scores, row {row}: {self.source}_{name} is {values[bad[0]]}, "
                f"but kl_{name} is a number",
                "score the sample again",
            )
        return np.where(lacking, np.nan, values)

    def _lacking(self, block: pa.Table, name: str) -> BoolArray:
        lacking: BoolArray = np.isnan(column(block, f"kl_{name}"))
        return lacking

    def _hashes(self, block: pa.Table, purpose: Purpose) -> Iterator[UInt64Array]:
        """Yield the hashes (n,) of the rows, independent for each modality."""
        for k in range(len(self.modalities)):
            yield hashes(key_of(self.seed, self.epoch, purpose, k), column(block, "row"))


def assignment_rule(scores: Scores, config: PlanConfig, seed: int, epoch: int) -> AssignmentRule:
    """The rule that `config` makes of these scores.

    Raises:
        ConfigError: shares do not fit the modalities.
        DataError: a column is missing, or too few rows have a modality for its share.
        MismatchError: the scores were smoothed with another weight.
    """
    names = tuple(scores.modalities)
    source = _source(scores, config)
    natural = AssignmentRule(
        modalities=names,
        policy=config.policy,
        seed=seed,
        epoch=epoch,
        source=source,
        scales=cost_scales(scores, config, source),
        temperature=config.temperature,
    )
    target = target_of(
        config, names, len(scores), above_chance(scores) if config.shares == "validation" else ()
    )
    if target is None and not config.class_quotas:
        return natural
    costs, start = np.empty((len(names), len(scores))), 0
    for block in scores.blocks():
        costs[:, start : start + len(block)] = natural.costs(block)
        start += len(block)
    counts = np.bincount(cheapest(costs), minlength=len(names))
    if target and target.satisfied_by(counts) and not config.class_quotas:
        return natural
    keys = hashes(key_of(seed, epoch, Purpose.TIES), scores.rows)
    if config.class_quotas:
        shares = (counts / len(scores)).tolist()
        assignment = np.empty(len(scores), np.int8)
        for label in np.unique(scores.labels):
            own = np.flatnonzero(scores.labels == label)
            quota = Target(counts=largest_remainder(shares, len(own)))
            assignment[own] = assign_to_target(quota, names, costs[:, own], keys[own])
        return replace(natural, solved=(scores.rows, assignment))
    assert target
    return replace(natural, solved=(scores.rows, assign_to_target(target, names, costs, keys)))


def _source(scores: Scores, config: PlanConfig) -> str:
    """The prefix of the columns that a policy reads.

    Raises DataError if one is missing, MismatchError if they were smoothed with another weight.
    """
    if config.policy == "loss":
        source, reader, cure = "p_label", "policy 'loss'", "score again, or choose another policy"
    elif config.smoothing and config.policy != "random":
        source, reader, cure = (
            "smooth",
            f"smoothing {config.smoothing}",
            "use scores of a run that was trained with it, or set smoothing to 0",
        )
        recorded = scores.metadata.get("smoothing", config.smoothing)
        if recorded != config.smoothing:
            raise MismatchError(
                f"{scores.what}: smoothed with weight {recorded}, "
                f"but field 'smoothing' is {config.smoothing}",
                f"set smoothing to {recorded}, or to 0",
            )
    else:
        return "kl"
    for name in scores.modalities:
        if f"{source}_{name}" not in scores.table.column_names:
            raise DataError(
                f"{scores.what}: column '{source}_{name}' is missing; {reader} reads it", cure
            )
    return source


def assign(scores: Scores, config: PlanConfig, seed: int, epoch: int) -> Int8Array:
    """(N,) int8: index in `scores.modalities` of the modality that each row trains.

    Raises ConfigError, DataError, MismatchError.
    """
    rule = assignment_rule(scores, config, seed, epoch)
    return np.concatenate([rule.assign(block) for block in scores.blocks()])
