"""Who goes to which split, and in what order: by hashes of (seed, purpose, name), so that it depends on nothing else."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence


def hashed(seed: int, purpose: str, name: str) -> int:
    """A 64-bit number that stands for a name under a seed."""
    return int.from_bytes(
        hashlib.blake2b(f"{seed}\0{purpose}\0{name}".encode(), digest_size=8).digest(), "big"
    )


def carve(
    names: Sequence[str], labels: Sequence[str], share: float, seed: int, purpose: str
) -> set[str]:
    """round(share * N) of the names, of every label its part, and never the last name of a label."""
    by_label: dict[str, list[str]] = defaultdict(list)
    for name, label in zip(names, labels, strict=True):
        by_label[label].append(name)
    carved: set[str] = set()
    owed = 0.0
    for _, members in sorted(by_label.items()):
        owed += share * len(members)
        num = max(0, min(round(owed), len(members) - 1))
        owed -= num
        carved.update(sorted(members, key=lambda name: (hashed(seed, purpose, name), name))[:num])
    return carved


def carve_groups(groups: Sequence[str], share: float, seed: int, purpose: str) -> set[str]:
    """The groups, in hashed order, each of which brings the number of their rows nearer to share * N; `groups` names the group of each row."""
    sizes = Counter(groups)
    target = share * len(groups)
    carved: set[str] = set()
    num = 0
    for group in sorted(sizes, key=lambda name: (hashed(seed, purpose, name), name)):
        if abs(num + sizes[group] - target) < abs(num - target):
            carved.add(group)
            num += sizes[group]
    return carved
