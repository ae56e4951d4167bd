"""Shares of the modalities, met exactly and at the least total cost: a price per modality, found by ascent on the dual.

Minimise sum a[i, m(i)] over assignments in which modality k has lo[k] rows (or at least lo[k], for a floor). Its dual,
D(p) = sum_i min_k (a[i, k] + p[k]) - sum_k lo[k] p[k], is L-natural-concave over integers, so steps of +-2^b along subsets of the modalities,
b falling to 0, end at an exact maximum (Murota, Discrete Convex Analysis, 2003), and what is left to find moves any price by less than
num_modalities * 2^b. Rows whose first choice leads by more are settled and leave the search, which soon fits in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil, floor

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Hashes, Ints
from pipeline.counter_rng import MASK
from pipeline.errors import ConfigError, DataError
from pipeline.plans.config import PlanConfig

Block = tuple[npt.NDArray[np.int64], Hashes]
"""(K, n) costs and (n,) hashes of some rows."""
Blocks = Callable[[], Iterator[Block]]

MISSING = 2**60
"""The cost of a modality that the sample lacks."""
COST_BITS = 44
"""Costs lie within +-2**COST_BITS."""
SAMPLE_ROWS = 2**16
SAMPLE_BITS = 7
"""How many of the highest bits of the prices a sample finds well enough to start from."""
IN_MEMORY_ROWS = 2**20
CELLS = 2**19
"""How many (row, subset of modalities) cells are worked on at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """How many rows each modality gets: exactly `lo` of them, or at least where `floor`."""

    lo: tuple[int, ...]
    floor: bool

    def met(self, counts: npt.NDArray[np.integer]) -> bool:
        """Whether these counts do."""
        return bool((counts >= self.lo).all()) if self.floor else counts.tolist() == list(self.lo)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """The price of each modality, and for each set of tied modalities (bit k = modality k) who gets its rows, up to which hash."""

    prices: tuple[int, ...]
    cuts: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def choose(self, block: Block) -> npt.NDArray[np.int8]:
        """(n,) int8: the modality of lowest cost plus price."""
        ties = tied(block[0], self.prices)
        choice = _last_of(len(self.prices))[ties]
        for tie, cuts in self.cuts.items():
            among = np.flatnonzero(ties == tie)
            place = np.searchsorted(
                np.array([upto for _, upto in cuts], np.uint64), block[1][among]
            )
            choice[among] = np.array([k for k, _ in cuts], np.int8)[place]
        return choice


def bounds_of(
    config: PlanConfig, names: Sequence[str], num_rows: int, above_chance: Sequence[float] = ()
) -> Bounds | None:
    """The counts that a configuration asks for, None for natural shares (raises ConfigError).

    `above_chance`: what each modality's validation accuracy exceeds chance by, for shares in proportion to it; they are equal where none does.
    """
    if config.shares in ("natural", "validation") and config.min_share * len(names) > 1 + 1e-9:
        raise ConfigError(
            f"field 'min_share' is {config.min_share}, but {len(names)} modalities can have at most {1 / len(names):.4f} each",
            "lower it",
        )
    if config.shares == "validation":
        return Bounds(
            lo=_largest_remainder(
                _raised(above_chance if any(above_chance) else [1] * len(names), config.min_share),
                num_rows,
            ),
            floor=False,
        )
    if config.shares == "natural":
        lo = min(ceil(config.min_share * num_rows - 1e-9), num_rows // len(names))
        return Bounds(lo=(lo,) * len(names), floor=True) if lo > 0 else None
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
    return Bounds(
        lo=_largest_remainder([shares[name] / total for name in names], num_rows), floor=False
    )


def find_prices(blocks: Blocks, bounds: Bounds, names: Sequence[str], num_rows: int) -> Prices:
    """Prices and cuts under which the assignment meets the bounds at the least total cost (raises DataError where missing modalities forbid it)."""
    search = _Search(blocks, bounds, len(names), num_rows)
    search.check_attainable(names)
    first = COST_BITS
    if num_rows > 4 * SAMPLE_ROWS:
        first -= SAMPLE_BITS
        search.prices = search.sample().approximate(first)
    for bit in range(first, -1, -1):
        while search.ascend(1 << bit):
            pass
        if not search.best_move(1)[0]:
            break
        search.settle(4 * len(names) << bit)
    return Prices(prices=tuple(search.prices), cuts=search.cuts())


def tied(costs: Ints, prices: Sequence[int]) -> Ints:
    """(n,) int64: the set of modalities whose cost plus price is lowest, bit k for modality k."""
    priced = costs + np.array(prices)[:, None]
    lowest = priced.min(axis=0)
    ties = np.zeros(costs.shape[1], np.int64)
    for k, values in enumerate(priced):
        ties |= (values == lowest).astype(np.int64) << k
    return ties


class _Search:
    """The ascent: prices so far, the rows not yet settled, and the counts that these still have to make up."""

    def __init__(self, blocks: Blocks, bounds: Bounds, num_modalities: int, num_rows: int) -> None:
        self._source = blocks
        self._bounds = bounds
        self._lo = np.array(bounds.lo, np.int64)
        self._num = num_modalities
        self._num_rows = num_rows
        self._full = (1 << num_modalities) - 1
        self.prices = [0] * num_modalities

    def sample(self) -> "_Search":
        """The same search on about SAMPLE_ROWS rows."""
        below = np.uint64(MASK // self._num_rows * SAMPLE_ROWS)
        parts = [(costs[:, keys < below], keys[keys < below]) for costs, keys in self._blocks()]
        kept = (
            np.concatenate([costs for costs, _ in parts], axis=1),
            np.concatenate([keys for _, keys in parts]),
        )
        num_rows = len(kept[1])
        if self._bounds.floor:
            lo = tuple(lo * num_rows // self._num_rows for lo in self._bounds.lo)
        else:
            lo = _largest_remainder([lo / self._num_rows for lo in self._bounds.lo], num_rows)
        return _Search(
            lambda: iter([kept]), Bounds(lo=lo, floor=self._bounds.floor), self._num, num_rows
        )

    def approximate(self, last_bit: int) -> list[int]:
        """Prices near the best; the number of moves is bounded, for a sample's targets may be out of reach where the whole's are not."""
        for bit in range(COST_BITS, last_bit, -1):
            for _ in range(4 * self._num):
                if not self.ascend(1 << bit):
                    break
        return self.prices

    def check_attainable(self, names: Sequence[str]) -> None:
        """Raises DataError where fewer rows have a set of modalities than the set is to get, or more rows have nothing else."""
        having = np.zeros(1 << self._num, np.int64)
        for costs, _ in self._blocks():
            has = ((costs != MISSING) << np.arange(self._num)[:, None]).sum(axis=0)
            having += np.bincount(has, minlength=1 << self._num)
        masks = np.arange(1 << self._num)
        for subset in sorted(range(1, self._full), key=int.bit_count):
            wanted, most = (
                int(self._lo[_members(subset)].sum()),
                int(having[masks & subset != 0].sum()),
            )
            if wanted > most:
                who = " and ".join(repr(names[k]) for k in _members(subset))
                raise DataError(
                    f"modality {who}: {wanted} of {self._num_rows} rows asked for (a share of {wanted / self._num_rows:.4f}), but only {most} have it",
                    f"ask for at most {floor(1e4 * most / self._num_rows) / 1e4} of shares or min_share",
                )

    def ascend(self, step: int) -> bool:
        """Makes the best move of +-step, False where none gains."""
        gain, members, change = self.best_move(step)
        for k in members:
            self.prices[k] += change
        return gain > 0

    def best_move(self, step: int) -> tuple[int, list[int], int]:
        """What the dual gains by the best move of a subset's prices by +-step (0 where none gains), the subset and the change."""
        gains = [0] * (self._full + 1)
        for costs, _ in self._blocks():
            for subset, gain in enumerate(_gains(costs, self.prices, step)):
                gains[subset] += gain
        best: tuple[int, list[int], int] = (0, [], 0)
        for subset in range(1, self._full + 1):
            members = _members(subset)
            wanted = step * int(self._lo[members].sum())
            up = gains[subset] - wanted
            if up > best[0] and not (
                self._bounds.floor and any(self.prices[k] + step > 0 for k in members)
            ):
                best = (up, members, step)
            down = gains[self._full ^ subset] - self._num_rows * step + wanted
            if down > best[0]:
                best = (down, members, -step)
        return best

    def settle(self, reach: int) -> None:
        """Drops the rows whose first choice leads by more than prices can still move, once the others fit in memory."""
        near: list[Block] = []
        settled, num_near = np.zeros(self._num, np.int64), 0
        for costs, keys in self._blocks():
            priced = costs + np.array(self.prices)[:, None]
            lowest = np.partition(priced, 1, axis=0)[:2]
            close = lowest[1] - lowest[0] <= reach
            settled += np.bincount(priced[:, ~close].argmin(axis=0), minlength=self._num)
            num_near += int(close.sum())
            if num_near > IN_MEMORY_ROWS:
                return
            near.append((costs[:, close], keys[close]))
        if not near:
            return
        kept = (
            np.concatenate([costs for costs, _ in near], axis=1),
            np.concatenate([keys for _, keys in near]),
        )
        self._source = lambda: iter([kept])
        self._lo = self._lo - settled
        self._num_rows = num_near

    def cuts(self) -> dict[int, list[tuple[int, int]]]:
        """Per set of tied modalities, the modalities that get its rows, each with the last hash that is its own."""
        sizes = np.zeros(self._full + 1, np.int64)
        for costs, _ in self._blocks():
            sizes += np.bincount(tied(costs, self.prices), minlength=self._full + 1)
        capped = [not self._bounds.floor or price < 0 for price in self.prices]
        quotas = _share_out(
            {tie: int(size) for tie, size in enumerate(sizes) if size}, self._lo.tolist(), capped
        )
        return {
            tie: self._cut(tie, quota)
            for tie, quota in quotas.items()
            if np.count_nonzero(quota) > 1 or not quota[tie.bit_length() - 1]
        }

    def _cut(self, tie: int, quota: list[int]) -> list[tuple[int, int]]:
        cuts, rank = [], 0
        receivers = [k for k, num in enumerate(quota) if num]
        for k in receivers[:-1]:
            rank += quota[k]
            cuts.append((k, self._hash_at(tie, rank - 1)))
        return [*cuts, (receivers[-1], MASK)]

    def _hash_at(self, tie: int, rank: int) -> int:
        """The hash of this rank among the tied rows, 16 bits a pass."""
        found = 0
        for shift in (48, 32, 16, 0):
            histogram = np.zeros(2**16, np.int64)
            for costs, keys in self._blocks():
                digits = keys[tied(costs, self.prices) == tie] >> np.uint64(shift)
                histogram += np.bincount(
                    (digits[digits >> np.uint64(16) == found] & np.uint64(0xFFFF)).astype(np.int64),
                    minlength=2**16,
                )
            ends = np.cumsum(histogram)
            digit = int(np.searchsorted(ends, rank, side="right"))
            rank -= int(ends[digit - 1]) if digit else 0
            found = found << 16 | digit
        return found

    def _blocks(self) -> Iterator[Block]:
        size = max(1, CELLS >> self._num)
        for costs, keys in self._source():
            for start in range(0, len(keys), size):
                yield costs[:, start : start + size], keys[start : start + size]


def _gains(costs: Ints, prices: Sequence[int], step: int) -> list[int]:
    """For each subset of the modalities: by how much the sum of the lowest priced costs grows when its prices rise by step."""
    full = (1 << len(costs)) - 1
    lowest = np.full((full + 1, costs.shape[1]), 4 * MISSING)
    for subset in range(1, full + 1):
        k = subset.bit_length() - 1
        np.minimum(lowest[subset ^ (1 << k)], costs[k] + prices[k], out=lowest[subset])
    return [
        int(np.clip(lowest[full ^ subset] - lowest[subset], 0, step).sum())
        for subset in range(full + 1)
    ]


def _share_out(sizes: dict[int, int], lo: list[int], capped: list[bool]) -> dict[int, list[int]]:
    """How many rows of each tied set each modality gets: all to the last, then moved along shortest paths until lo (and, where capped, no more) is met."""
    quotas = {
        tie: [size if k == tie.bit_length() - 1 else 0 for k in range(len(lo))]
        for tie, size in sizes.items()
    }
    while True:
        excess = [sum(quota[k] for quota in quotas.values()) - lo[k] for k in range(len(lo))]
        over = [k for k in range(len(lo)) if excess[k] > 0 and capped[k]]
        under = [k for k in range(len(lo)) if excess[k] < 0]
        if not over and not under:
            return quotas
        sources = over or [k for k in range(len(lo)) if excess[k] > 0]
        sinks = under + [k for k in range(len(lo)) if over and not capped[k] and k not in under]
        path = _path(quotas, sources, sinks)
        ends = [
            abs(excess[k]) for k in (path[0][1], path[-1][2]) if k in over + under or k in sources
        ]
        amount = min(*(quotas[tie][a] for tie, a, _ in path), *ends)
        for tie, a, b in path:
            quotas[tie][a] -= amount
            quotas[tie][b] += amount


def _path(
    quotas: dict[int, list[int]], sources: list[int], sinks: list[int]
) -> list[tuple[int, int, int]]:
    """The shortest way from a source to a sink, as moves (tied set, from, to)."""
    ways: dict[int, list[tuple[int, int, int]]] = {k: [] for k in sources}
    queue = list(sources)
    for a in queue:
        if a in sinks:
            return ways[a]
        for tie, quota in quotas.items():
            for b in _members(tie) if quota[a] else []:
                if b not in ways:
                    ways[b] = [*ways[a], (tie, a, b)]
                    queue.append(b)
    raise AssertionError(f"prices are not optimal: no way from {sources} to {sinks} in {quotas}")


def _members(subset: int) -> list[int]:
    return [k for k in range(subset.bit_length()) if subset >> k & 1]


def _last_of(num_modalities: int) -> npt.NDArray[np.int8]:
    return np.array(
        [0, *(subset.bit_length() - 1 for subset in range(1, 1 << num_modalities))], np.int8
    )


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
