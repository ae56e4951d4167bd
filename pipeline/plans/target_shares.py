"""Target shares: the assignment of least total cost with a given number of rows per modality.

This is a transportation problem, solved by successive shortest paths (Ahuja, Magnanti, Orlin,
Network Flows, 1993). Each modality has a price. Rows start at the modality of lowest cost plus
price. Then rows move along the cheapest path from a modality with too many rows to one with too
few, all rows of equal margin at a time, until the counts match.

Good prices at the start save most of the moves. With two modalities, the price is a quantile of the
cost difference. With more, prices come from cost scaling: solve for the leading bits of the costs,
then add one bit at a time. In units of the current bit, a bit changes the difference of two prices
by less than the number of modalities K, so a row whose best modality leads by more than K keeps it
and is left out of the remaining iterations.

Costs are integers in float64, so that sums are exact and the result is the same on every machine.
Memory is a few times 8 bytes per row and modality.
"""

from collections.abc import Iterable, Sequence
from math import floor

import numpy as np

from pipeline.arrays import Float64Array, FloatArray, Int8Array, Int64Array, UInt64Array
from pipeline.errors import ConfigError, DataError
from pipeline.plans.config import PlanConfig

COST_BITS = 44
"""Costs are scaled to integers from -2**COST_BITS to 2**COST_BITS."""
LIMIT = 2.0 ** (COST_BITS + 2)
"""Larger than any finite difference of two costs."""
SAMPLE_ROWS = 2**17
"""With at least twice as many rows, the first prices are computed from a sample of this size."""
SAMPLE_BITS = 8
"""Number of leading bits of the costs for which the sample is used."""


def target_of(config: PlanConfig, names: Sequence[str], num_rows: int) -> tuple[int, ...] | None:
    """The number of rows of each modality that a configuration requires, None for natural shares.

    Raises ConfigError if `shares` does not fit the modalities.
    """
    if config.shares == "natural":
        return None
    shares = dict.fromkeys(names, 1 / len(names)) if config.shares == "equal" else config.shares
    if set(shares) != set(names):
        raise ConfigError(
            f"field 'shares' has the modalities {sorted(shares)}, "
            f"but the scores have {sorted(names)}",
            "set a share for each modality of the scores",
        )
    total = sum(shares.values())
    if abs(total - 1) > 1e-6:
        raise ConfigError(f"field 'shares' sums to {total:.6g}: {shares}", "make it sum to 1")
    return largest_remainder([shares[name] / total for name in names], num_rows)


def cheapest(costs: Sequence[FloatArray] | Float64Array) -> Int8Array:
    """(n,) int8: the modality of lowest cost, of several the last. NaN is a missing modality."""
    best, assignment = costs[0], np.zeros(len(costs[0]), np.int8)
    for k, cost in enumerate(costs[1:], 1):
        np.putmask(assignment, (cost <= best) | np.isnan(best), k)
        if k + 1 < len(costs):
            best = np.fmin(best, cost)
    return assignment


def assign_to_target(
    target: Sequence[int], names: Sequence[str], costs: Float64Array, keys: UInt64Array
) -> Int8Array:
    """Assign rows to modalities, `target` rows (K,) to each, at the least total cost: (n,) int8.

    Args:
        costs: (K, n), in any unit, NaN if the row lacks the modality. Overwritten.
        keys: (n,) hashes that decide between rows of equal margin.
    Raises:
        DataError: too few rows have a modality.
    """
    # scale by a power of two and round: the costs become integers of at most COST_BITS bits
    largest = max(np.nanmax(costs, initial=0.0), -np.nanmin(costs, initial=0.0))
    np.rint(np.ldexp(costs, COST_BITS - int(np.frexp(largest)[1]), out=costs), out=costs)
    costs[np.isnan(costs)] = np.inf
    counts, (num, num_rows) = np.array(target), costs.shape
    prices, first, step = np.zeros(num), COST_BITS, num_rows // SAMPLE_ROWS
    if num == 2:
        margin = costs[0] - costs[1]
        high = np.partition(margin, counts[0])[counts[0]] if counts[0] < num_rows else LIMIT
        prices[0], first = -np.clip(high, -LIMIT, LIMIT), 0
    elif step > 1:
        sampled_costs, sampled_keys = costs[:, ::step], keys[::step]
        requested = np.array(largest_remainder((counts / num_rows).tolist(), len(sampled_keys)))
        first -= SAMPLE_BITS
        _, prices, _ = _scale(
            requested, sampled_costs, sampled_keys, prices, range(COST_BITS, first, -1)
        )
    assignment, _, short = _scale(counts, costs, keys, prices, range(first, -1, -1))
    if short:
        present = np.isfinite(costs)
        for group in [*([k] for k in short), short]:
            requested, available = counts[group].sum(), int(present[group].any(axis=0).sum())
            if requested > available:
                break
        who = " and ".join(repr(names[k]) for k in group)
        raise DataError(
            f"modality {who}: the plan needs {requested} of {num_rows} rows "
            f"(a share of {requested / num_rows:.4f}), but only {available} have it",
            f"set shares to at most {floor(1e4 * available / num_rows) / 1e4}",
        )
    return assignment


def _scale(
    counts: Int64Array,
    costs: Float64Array,
    keys: UInt64Array,
    prices: Float64Array,
    bits: Iterable[int],
) -> tuple[Int8Array, Float64Array, list[int]]:
    """Solve for costs without their last `bits`, one after the other (cost scaling).

    Returns:
        The assignment (n,), the prices for the next bit, and the modalities that cannot have their
        number of rows; if there are any, the others are meaningless.
    """
    assignment, rows = np.empty(len(keys), np.int8), np.arange(len(keys))
    for bit in bits:
        priced = np.floor(costs * 2.0**-bit)
        priced += prices[:, None]
        part = cheapest(priced)
        short = _move(counts, priced, part, keys)
        if short:
            return assignment, prices, short
        assignment[rows] = part
        if not bit:
            break
        # Shortest distances as price changes leave no row with a modality cheaper than its own, so
        # the next bit starts close to its solution.
        change = _distances(np.zeros(len(counts)), _margins(priced, part))[0]
        priced -= change[:, None]
        # Only rows with two modalities within K of the lowest cost can still move, see above.
        near = (priced <= priced.min(axis=0) + len(counts)).sum(axis=0) > 1
        counts = counts - np.bincount(part[~near], minlength=len(counts))
        costs, keys, rows, prices = costs[:, near], keys[near], rows[near], 2 * (prices - change)
    return assignment, prices, []


def _move(
    counts: Int64Array, costs: Float64Array, assignment: Int8Array, keys: UInt64Array
) -> list[int]:
    """Move rows along cheapest paths until every modality has its count; changes `assignment`.

    Returns the modalities that no path reaches: they cannot have their count.
    """
    excess = np.bincount(assignment, minlength=len(counts)) - counts
    while excess.any():
        margins = _margins(costs, assignment)
        distances, before = _distances(np.where(excess > 0, 0.0, np.inf), margins)
        open_to = np.where(excess < 0, distances, np.inf)
        last = at = int(open_to.argmin())
        if np.isinf(open_to[last]):
            return np.flatnonzero(np.isinf(distances)).tolist()
        moves = []
        while before[at] >= 0:
            giver, taker, at = before[at], at, int(before[at])
            rows = np.flatnonzero(assignment == giver)
            tied = costs[taker, rows] - costs[giver, rows] == margins[giver, taker]
            moves.append((rows[tied], taker))
        num = min(excess[at], -excess[last], *(len(rows) for rows, _ in moves))
        for rows, taker in moves:
            assignment[rows[np.argpartition(keys[rows], num - 1)[:num]]] = taker
        excess[at] -= num
        excess[last] += num
    return []


def _margins(costs: Float64Array, assignment: Int8Array) -> Float64Array:
    """(K, K): least cost of moving a row from one modality to another, infinite if impossible."""
    margins = np.full((len(costs), len(costs)), np.inf)
    for k in range(len(costs)):
        rows = np.flatnonzero(assignment == k)
        if len(rows):
            margins[k] = (costs[:, rows] - costs[k, rows]).min(axis=1)
    return margins


def _distances(start: Float64Array, margins: Float64Array) -> tuple[Float64Array, Int64Array]:
    """Shortest path to each modality (Bellman-Ford): its length, and the modality before the last.

    -1 marks the start of a path.
    """
    distances, before = start, np.full(len(start), -1)
    for _ in range(len(start) - 1):
        through = distances[:, None] + margins
        nearer = through.min(axis=0) < distances
        before[nearer] = through.argmin(axis=0)[nearer]
        distances = np.minimum(distances, through.min(axis=0))
    return distances, before


def largest_remainder(shares: Sequence[float], num_rows: int) -> tuple[int, ...]:
    """Row counts that are closest to the shares and sum to `num_rows`."""
    exact = [share * num_rows for share in shares]
    counts = [floor(value + 1e-9) for value in exact]
    order = sorted(range(len(exact)), key=lambda k: (counts[k] - exact[k], k))
    for k in order[: num_rows - sum(counts)]:
        counts[k] += 1
    return tuple(counts)
