"""Deterministic splits and orders from hashes of (seed, purpose, name)."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence


def hashed(seed: int, purpose: str, name: str) -> int:
    """64-bit hash of a name under a seed, independent of the hashes for other purposes."""
    return int.from_bytes(
        hashlib.blake2b(f"{seed}\0{purpose}\0{name}".encode(), digest_size=8).digest(), "big"
    )


def carve(
    names: Sequence[str], labels: Sequence[str], share: float, seed: int, purpose: str
) -> set[str]:
    """Select about share * N of N names, stratified by label; one of each label always remains."""
    by_label: dict[str, list[str]] = defaultdict(list)
    for name, label in zip(names, labels, strict=True):
        by_label[label].append(name)
    carved: set[str] = set()
    # The rounding error of each label is carried over to the next.
    remainder = 0.0
    for _, members in sorted(by_label.items()):
        remainder += share * len(members)
        num = max(0, min(round(remainder), len(members) - 1))
        remainder -= num
        carved.update(sorted(members, key=lambda name: (hashed(seed, purpose, name), name))[:num])
    return carved


def carve_groups(groups: Sequence[str], share: float, seed: int, purpose: str) -> set[str]:
    """Select complete groups with about share * N of N rows; `groups` has the group of each row.

    Groups are visited in hashed order and selected if that brings the number of rows closer to the
    target.
    """
    sizes = Counter(groups)
    target = share * len(groups)
    carved: set[str] = set()
    num = 0
    for group in sorted(sizes, key=lambda name: (hashed(seed, purpose, name), name)):
        if abs(num + sizes[group] - target) < abs(num - target):
            carved.add(group)
            num += sizes[group]
    return carved
