"""Random mutations of binary and text files, weighted to where formats have their headers."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.support.fuzzing import harmed

ODD_VALUES = """
&a [*a, *a]|*a|<<: *a|!!python/object/apply:os.system ['touch /tmp/harm']|!!python/name:os.system
!!binary x|!!timestamp x|!!int ''|!!bool x|!!float x|!!set {a}|? {a: b}|? !!omap [a]|.nan|.inf
-.inf|1e999|-1|0|2001-99-99|12:30:45:99|null|~|''|true|[]|{}|>|'|"|%YAML 9.9|---|...|#|!|&|*
name: x|seed: 1|'\\ud800'|"\\ud800"
"""
TEXT = [odd for line in ODD_VALUES.strip().split("\n") for odd in line.split("|")]
TEXT += ["|", "\t", "\x00", "\ufeff", "\u2028", "\ud7ff", "? [a, b]\n: c", "[" * 200, "9" * 5000]
TEXT += ["0x" + "f" * 300]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file to mutate.

    `judge` returns whether the bytes were accepted, and raises if opening them gave neither a
    RemixError nor the content of `original`.
    """

    original: bytes
    judge: Callable[[bytes], bool]
    mutations: Callable[[bytes, int, int], Iterator[bytes]]


def mutations(data: bytes, seed: int, num: int) -> Iterator[bytes]:
    """Mutations of a binary file; many near its start or end, where Arrow has its headers."""
    rng = random.Random(seed)
    for _ in range(num):
        mutated = data
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            near = rng.choice([0, 0, 1500])
            head, tail = (mutated[:-near], mutated[-near:]) if near else (b"", mutated)
            if rng.random() < 0.5:
                mutated = head + harmed(tail, rng, data)
            else:
                mutated = harmed(mutated[: len(tail)], rng, data) + mutated[len(tail) :]
        yield mutated


def text_mutations(data: bytes, seed: int, num: int) -> Iterator[bytes]:
    """Mutations of a YAML or JSON file: odd values, repeated or indented lines, flipped bytes."""
    rng = random.Random(seed)
    for _ in range(num):
        lines = data.split(b"\n")
        for _ in range(rng.choice([1, 1, 2, 3])):
            at, odd = rng.randrange(len(lines)), rng.choice(TEXT).encode(errors="surrogatepass")
            how = rng.randrange(7)
            if how in (0, 1):
                lines[at] = lines[at].partition(b":")[0] + b": " + odd
            elif how == 2:
                lines[at] = odd
            elif how == 3:
                lines.insert(at, lines[rng.randrange(len(lines))])
            elif how == 4:
                lines[at] = b"  " * rng.randrange(4) + lines[at].strip()
            elif how == 5:
                column = rng.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:column] + odd + lines[at][column:]
            else:
                lines[at] = next(mutations(lines[at], rng.randrange(2**32), 1))
        yield b"\n".join(lines)
