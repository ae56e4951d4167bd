"""Assignment: the modality that each row is used to train.

Each row has a cost per modality, and trains the modality of lowest cost. With policy `kl` the cost
is the ability: a low ability is a difficult sample, so a row trains its most difficult modality.

Natural shares need only the memory of a slice of the scores. Target shares
(pipeline/plans/target_shares.py) need the float64 costs of all rows at once.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from pipeline.arrays import FloatArray, Int8Array, Int64Array
from pipeline.counter_rng import Purpose, hashes, key_of, uniform
from pipeline.extensions import is_import_path
from pipeline.plans.config import PlanConfig
from pipeline.plans.normalize import implied_abilities
from pipeline.plans.own_policy import check_row_by_row, own_costs
from pipeline.plans.target_shares import assign_to_target, cheapest, target_of
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import column


@dataclass(frozen=True, kw_only=True, slots=True)
class AssignmentRule:
    """Assigns any slice of the scores, with the same result for a row in every slice."""

    modalities: tuple[str, ...]
    policy: str
    seed: int
    epoch: int
    units: tuple[float, ...] = ()
    """The unit of each modality's ability; empty if all are bits."""
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

        Ability in the modality's unit (kl), a hash in [0, 1) (random), or what a user's function
        returns.
        """
        if is_import_path(self.policy):
            return own_costs(self.policy, block, self.modalities)
        abilities: list[FloatArray] = [column(block, f"kl_{name}") for name in self.modalities]
        if self.policy == "random":
            keys = [
                key_of(self.seed, self.epoch, Purpose.RANDOM_POLICY, k)
                for k in range(len(abilities))
            ]
            return [
                np.where(np.isnan(ability), np.nan, uniform(hashes(key, column(block, "row"))))
                for key, ability in zip(keys, abilities, strict=True)
            ]
        if self.units:
            return [
                ability.astype(np.float64) / unit
                for ability, unit in zip(abilities, self.units, strict=True)
            ]
        return abilities


def assignment_rule(scores: Scores, config: PlanConfig, seed: int, epoch: int) -> AssignmentRule:
    """The rule that `config` makes of these scores.

    Raises:
        ConfigError: shares do not fit the modalities, or the policy of a user cannot be used.
        DataError: metadata is missing, or too few rows have a modality for its share.
    """
    names = tuple(scores.modalities)
    if is_import_path(config.policy):
        check_row_by_row(config.policy, scores.table, names)
    relative = config.policy == "kl" and config.relative == "validation"
    natural = AssignmentRule(
        modalities=names,
        policy=config.policy,
        seed=seed,
        epoch=epoch,
        units=implied_abilities(scores) if relative else (),
    )
    target = target_of(config, names, len(scores))
    if target is None:
        return natural
    costs, start = np.empty((len(names), len(scores))), 0
    for block in scores.blocks():
        costs[:, start : start + block.num_rows] = natural.costs(block)
        start += block.num_rows
    if target == tuple(np.bincount(cheapest(costs), minlength=len(names))):
        return natural
    keys = hashes(key_of(seed, epoch, Purpose.TIES), scores.rows)
    return replace(natural, solved=(scores.rows, assign_to_target(target, names, costs, keys)))


def assign(scores: Scores, config: PlanConfig, seed: int, epoch: int) -> Int8Array:
    """(N,) int8: index in `scores.modalities` of the modality that each row trains.

    Raises ConfigError, DataError.
    """
    rule = assignment_rule(scores, config, seed, epoch)
    return np.concatenate([rule.assign(block) for block in scores.blocks()])
