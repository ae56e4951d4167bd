"""Scores to the modality that each row trains: a few numbers found beforehand, and a pure function of any slice of the scores.

A row goes to the modality of lowest cost. Shares are met by a price per modality (pipeline/shares.py) that is added to its costs, so
what moves first are the rows nearest to the margin; rows that stand exactly on it are told apart by a hash.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.config import PlanConfig
from pipeline.errors import ConfigError, DataError
from pipeline.order import Purpose, hashes, key_of, uniform
from pipeline.scores import Scores, column
from pipeline.shares import COST_BITS, MISSING, Block, Prices, bounds_of, find_prices

Costs = npt.NDArray[np.floating]
Choice = npt.NDArray[np.int8]
MAX_PRICED_MODALITIES = 12
PRICED_ROWS = 2**16
"""Rows whose costs are made integers at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """The few numbers that make any slice of the scores into modalities."""

    modalities: tuple[str, ...]
    policy: str
    seed: int
    epoch: int
    exponent: int = 0
    prices: Prices | None = None

    def choose(self, block: pa.Table) -> Choice:
        """(n,) int8: the index of each row's modality; a tie goes to the last of the tied modalities."""
        costs = self.costs(block)
        if self.prices is None:
            return _lowest(costs)
        return self.prices.choose(self.integers(block, costs))

    def costs(self, block: pa.Table) -> list[Costs]:
        """Per modality (n,): ability, probability of the label or a hash in [0, 1); NaN where the sample lacks the modality."""
        kl = [column(block, f"kl_{name}") for name in self.modalities]
        if self.policy == "kl":
            return kl
        rows = column(block, "row")
        if self.policy == "random":
            keys = [key_of(self.seed, self.epoch, Purpose.RANDOM_POLICY, k) for k in range(len(kl))]
            values = [uniform(hashes(key, rows)) for key in keys]
        else:
            values = [column(block, f"p_label_{name}") for name in self.modalities]
            for name, bits, value in zip(self.modalities, kl, values, strict=True):
                bad = np.flatnonzero(~np.isfinite(value) & ~np.isnan(bits))
                if len(bad):
                    raise DataError(f"scores: row {rows[bad[0]]}: p_label_{name} is {value[bad[0]]} but kl_{name} is a number", "score that sample again")
        return [np.where(np.isnan(bits), np.nan, value) for bits, value in zip(kl, values, strict=True)]

    def integers(self, block: pa.Table, costs: list[Costs]) -> Block:
        """(K, n) int64 costs, so that sums and ties are exact, MISSING where the sample lacks the modality, and the (n,) hashes that tell tied rows apart."""
        values = np.ldexp(np.stack(costs).astype(np.float64), self.exponent)
        integers = np.where(np.isnan(values), MISSING, np.rint(np.nan_to_num(values))).astype(np.int64)
        return integers, hashes(key_of(self.seed, self.epoch, Purpose.TIES), column(block, "row"))


def find_assignment(scores: Scores, config: PlanConfig, seed: int, epoch: int) -> Assignment:
    """What `config` asks of these scores; passes over them a slice at a time (raises ConfigError, DataError where shares cannot be met)."""
    names = tuple(scores.modalities)
    if config.policy == "loss":
        for name in names:
            if f"p_label_{name}" not in scores.table.column_names:
                raise DataError(f"{scores.what}: column 'p_label_{name}' is missing, which policy 'loss' needs", "score again, or choose another policy")
    natural = Assignment(modalities=names, policy=config.policy, seed=seed, epoch=epoch)
    bounds = bounds_of(config, names, len(scores))
    if bounds is None:
        return natural
    if len(names) > MAX_PRICED_MODALITIES:
        raise ConfigError(
            f"shares of {len(names)} modalities were asked for; at most {MAX_PRICED_MODALITIES} can be priced", "leave shares natural and min_share 0"
        )
    counts, largest = np.zeros(len(names), np.int64), 0.0
    for block in scores.blocks():
        costs = natural.costs(block)
        counts += np.bincount(_lowest(costs), minlength=len(names))
        largest = max(largest, *(float(np.nanmax(np.abs(cost), initial=0.0)) for cost in costs))
    if bounds.met(counts):
        return natural
    exponent = COST_BITS - int(np.frexp(largest)[1])
    scaled = Assignment(modalities=names, policy=config.policy, seed=seed, epoch=epoch, exponent=exponent)

    def blocks() -> Iterator[Block]:
        for block in scores.blocks(PRICED_ROWS):
            yield scaled.integers(block, scaled.costs(block))

    prices = find_prices(blocks, bounds, names, len(scores))
    return Assignment(modalities=names, policy=config.policy, seed=seed, epoch=epoch, exponent=exponent, prices=prices)


def assign(scores: Scores, config: PlanConfig, seed: int, epoch: int) -> Choice:
    """(N,) int8: the index among `scores.modalities` of the modality that each row trains (raises ConfigError, DataError)."""
    assignment = find_assignment(scores, config, seed, epoch)
    return np.concatenate([assignment.choose(block) for block in scores.blocks()])


def _lowest(costs: list[Costs]) -> Choice:
    best, choice = costs[0], np.zeros(len(costs[0]), np.int8)
    for k, cost in enumerate(costs[1:], 1):
        np.putmask(choice, (cost <= best) | np.isnan(best), k)
        if k + 1 < len(costs):
            best = np.fmin(best, cost)
    return choice
