"""Target shares: the assignment of least total cost in which each modality has its number of rows.

Rows start at the modality of lowest cost plus price, and move along the cheapest path from a modality that has too many
to one that has too few until none does (successive shortest paths; Ahuja, Magnanti, Orlin, Network Flows, 1993), all
rows of equal margin at once. For two modalities the price is the quantile of the margin. For more, prices are
found by scaling: first for costs cut to their leading bits, then bit by bit. A bit moves two prices apart by less than the
number of modalities K, in its units, so rows whose first choice leads by more than K keep it and leave the search.

Costs are integers in float64, so sums are exact; the memory is 8 bytes a row and modality, several times over.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
import numpy.typing as npt

from pipeline.arrays import FloatArray, Int64Array, UInt64Array
from pipeline.errors import ConfigError, DataError
from pipeline.plans.config import PlanConfig

Choice = npt.NDArray[np.int8]
COST_BITS = 44
"""Costs lie within +-2**COST_BITS."""
LIMIT = 2.0 ** (COST_BITS + 2)
"""No finite difference of two costs is larger."""
SAMPLE_ROWS = 2**17
SAMPLE_BITS = 8
"""How many of the leading bits of the prices a sample of the rows finds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """How many rows each modality gets: exactly `counts` of them, or at least so many where `floor`."""

    counts: tuple[int, ...]
    floor: bool = False

    def met(self, counts: Int64Array) -> bool:
        """Whether these counts do."""
        return bool((counts >= self.counts).all() and (self.floor or (counts <= self.counts).all()))


def target_of(
    config: PlanConfig, names: Sequence[str], num_rows: int, above_chance: Sequence[float] = ()
) -> Target | None:
    """The counts that a configuration asks for, None for natural shares (raises ConfigError).

    `above_chance`: what each modality's validation accuracy exceeds chance by, for shares in
    proportion to it; they are equal where none does.
    """
    if config.shares in ("natural", "validation") and config.min_share * len(names) > 1 + 1e-9:
        raise ConfigError(
            f"field 'min_share' is {config.min_share}, but {len(names)} modalities can have at most {1 / len(names):.4f} each",
            "lower it",
        )
    if config.shares == "validation":
        weights = above_chance if any(above_chance) else [1] * len(names)
        return Target(counts=_largest_remainder(_raised(weights, config.min_share), num_rows))
    if config.shares == "natural":
        low = min(ceil(config.min_share * num_rows - 1e-9), num_rows // len(names))
        return Target(counts=(low,) * len(names), floor=True) if low > 0 else None
    if config.min_share:
        raise ConfigError(
            f"field 'min_share' is {config.min_share}, a floor under shares natural and validation, but shares are {config.shares!r}",
            "give one of the two",
        )
    shares = dict.fromkeys(names, 1 / len(names)) if config.shares == "equal" else config.shares
    if set(shares) != set(names):
        raise ConfigError(
            f"field 'shares' names {sorted(shares)}, but the scores have {sorted(names)}",
            "give a share for each of them and no other",
        )
    total = sum(shares.values())
    if abs(total - 1) > 1e-6:
        raise ConfigError(f"field 'shares' sums to {total:.6g}: {shares}", "make it sum to 1")
    return Target(counts=_largest_remainder([shares[name] / total for name in names], num_rows))


def meet(target: Target, names: Sequence[str], costs: FloatArray, keys: UInt64Array) -> Choice:
    """(n,) int8: the modality of each row under the target, at the least total cost (raises DataError where missing modalities forbid it).

    `costs` are (K, n), of any unit, NaN where the row lacks the modality; they are rounded in place.
    `keys` (n,) tell rows of equal margin apart.
    """
    largest = max(np.nanmax(costs, initial=0.0), -np.nanmin(costs, initial=0.0))
    np.rint(np.ldexp(costs, COST_BITS - int(np.frexp(largest)[1]), out=costs), out=costs)
    costs[np.isnan(costs)] = np.inf
    if not target.floor:
        return _meet_exactly(np.array(target.counts), names, costs, keys)
    # Those below the floor get exactly it, as many as they turn out to be; the others stand together.
    scarce: list[int] = []
    while True:
        others = [k for k in range(len(names)) if k not in scarce]
        choice = np.array(others, np.int8)[lowest(costs[others])]
        if scarce:
            counts = np.array([target.counts[k] for k in scarce])
            merged = np.concatenate([costs[scarce], costs[others].min(axis=0, keepdims=True)])
            part = _meet_exactly(
                np.append(counts, len(keys) - counts.sum()),
                [names[k] for k in scarce],
                merged,
                keys,
            )
            choice = np.where(part < len(scarce), np.array([*scarce, -1], np.int8)[part], choice)
        found = np.bincount(choice, minlength=len(names))
        below = [k for k in others if found[k] < target.counts[k]]
        if not below:
            return choice
        scarce += below


def lowest(costs: Sequence[npt.NDArray[np.floating]] | FloatArray) -> Choice:
    """(n,) int8: the last of the modalities of lowest cost; NaN where the row lacks the modality."""
    best, choice = costs[0], np.zeros(len(costs[0]), np.int8)
    for k, cost in enumerate(costs[1:], 1):
        np.putmask(choice, (cost <= best) | np.isnan(best), k)
        if k + 1 < len(costs):
            best = np.fmin(best, cost)
    return choice


def _meet_exactly(
    counts: Int64Array, names: Sequence[str], costs: FloatArray, keys: UInt64Array
) -> Choice:
    num, num_rows = costs.shape
    prices, first, step = np.zeros(num), COST_BITS, num_rows // SAMPLE_ROWS
    if num == 2:
        margin = costs[0] - costs[1]
        high = np.partition(margin, counts[0])[counts[0]] if counts[0] < num_rows else LIMIT
        prices[0], first = -np.clip(high, -LIMIT, LIMIT), 0
    elif step > 1:
        some, few = costs[:, ::step], keys[::step]
        wanted = np.array(_largest_remainder((counts / num_rows).tolist(), len(few)))
        first -= SAMPLE_BITS
        _, prices, _ = _scale(wanted, some, few, prices, range(COST_BITS, first, -1))
    choice, _, short = _scale(counts, costs, keys, prices, range(first, -1, -1))
    if short:
        having = np.isfinite(costs)
        for group in [*([k] for k in short), short]:
            wanted, most = counts[group].sum(), int(having[group].any(axis=0).sum())
            if wanted > most:
                break
        who = " and ".join(repr(names[k]) for k in group)
        raise DataError(
            f"modality {who}: {wanted} of {num_rows} rows asked for (a share of {wanted / num_rows:.4f}), but only {most} have it",
            f"ask for at most {floor(1e4 * most / num_rows) / 1e4} of shares or min_share",
        )
    return choice


def _scale(
    counts: Int64Array,
    costs: FloatArray,
    keys: UInt64Array,
    prices: FloatArray,
    bits: Iterable[int],
) -> tuple[Choice, FloatArray, list[int]]:
    """The assignment for costs without their last `bits`, one after the other, and the prices for the bit after those.

    Instead, of the first bit, the modalities that cannot get as many rows as they should.
    """
    choice, rows = np.empty(len(keys), np.int8), np.arange(len(keys))
    for bit in bits:
        priced = np.floor(costs * 2.0**-bit)
        priced += prices[:, None]
        part = lowest(priced)
        short = _move(counts, priced, part, keys)
        if short:
            return choice, prices, short
        choice[rows] = part
        if not bit:
            break
        change = _distances(np.zeros(len(counts)), _margins(priced, part))[0]
        priced -= change[:, None]
        near = (priced <= priced.min(axis=0) + len(counts)).sum(axis=0) > 1
        counts = counts - np.bincount(part[~near], minlength=len(counts))
        costs, keys, rows, prices = costs[:, near], keys[near], rows[near], 2 * (prices - change)
    return choice, prices, []


def _move(counts: Int64Array, costs: FloatArray, choice: Choice, keys: UInt64Array) -> list[int]:
    """Moves rows along cheapest paths until each modality has its count; those that cannot have it where there is no path."""
    excess = np.bincount(choice, minlength=len(counts)) - counts
    while excess.any():
        margins = _margins(costs, choice)
        distances, before = _distances(np.where(excess > 0, 0.0, np.inf), margins)
        open_to = np.where(excess < 0, distances, np.inf)
        last = at = int(open_to.argmin())
        if np.isinf(open_to[last]):
            return np.flatnonzero(np.isinf(distances)).tolist()
        moves = []
        while before[at] >= 0:
            giver, taker, at = before[at], at, int(before[at])
            rows = np.flatnonzero(choice == giver)
            tied = costs[taker, rows] - costs[giver, rows] == margins[giver, taker]
            moves.append((rows[tied], taker))
        num = min(excess[at], -excess[last], *(len(rows) for rows, _ in moves))
        for rows, taker in moves:
            choice[rows[np.argpartition(keys[rows], num - 1)[:num]]] = taker
        excess[at] -= num
        excess[last] += num
    return []


def _margins(costs: FloatArray, choice: Choice) -> FloatArray:
    """(K, K): the least cost of moving a row from one modality to another, infinite where none can."""
    margins = np.full((len(costs), len(costs)), np.inf)
    for k in range(len(costs)):
        rows = np.flatnonzero(choice == k)
        if len(rows):
            margins[k] = (costs[:, rows] - costs[k, rows]).min(axis=1)
    return margins


def _distances(start: FloatArray, margins: FloatArray) -> tuple[FloatArray, Int64Array]:
    """The length of the shortest path to each modality, and the modality before it on that path, -1 at its start (Bellman-Ford)."""
    distances, before = start, np.full(len(start), -1)
    for _ in range(len(start) - 1):
        through = distances[:, None] + margins
        nearer = through.min(axis=0) < distances
        before[nearer] = through.argmin(axis=0)[nearer]
        distances = np.minimum(distances, through.min(axis=0))
    return distances, before


def _raised(weights: Sequence[float], floor: float) -> list[float]:
    """Shares in proportion to the weights, except that those below the floor have it, at the others' cost."""
    raised: set[int] = set()
    while True:
        total = sum(weight for k, weight in enumerate(weights) if k not in raised)
        left = 1 - floor * len(raised)
        shares = [
            floor if k in raised else weight / total * left for k, weight in enumerate(weights)
        ]
        below = {k for k, share in enumerate(shares) if k not in raised and share < floor}
        if not below or len(raised | below) == len(weights):
            return shares if not below else [1 / len(weights)] * len(weights)
        raised |= below


def _largest_remainder(shares: Sequence[float], num_rows: int) -> tuple[int, ...]:
    exact = [share * num_rows for share in shares]
    counts = [floor(value + 1e-9) for value in exact]
    order = sorted(range(len(exact)), key=lambda k: (counts[k] - exact[k], k))
    for k in order[: num_rows - sum(counts)]:
        counts[k] += 1
    return tuple(counts)
