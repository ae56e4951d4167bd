"""Mutations of bytes and of text, at random and at the edges of formats, and a kind of file to mutate."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

EDGES = [
    0,
    1,
    2,
    3,
    7,
    8,
    64,
    127,
    128,
    255,
    2**15,
    2**16 - 1,
    2**30,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
]
TEXT = [
    *(
        "&a [*a, *a]",
        "*a",
        "<<: *a",
        "!!python/object/apply:os.system ['touch /tmp/harm']",
        "!!python/name:os.system",
        "!!binary x",
        "!!timestamp x",
    ),
    *(
        "!!int ''",
        "!!bool x",
        "!!float x",
        "!!set {a}",
        "? [a, b]\n: c",
        "? {a: b}\n: c",
        "? !!omap [a]\n: b",
        ".nan",
        ".inf",
        "-.inf",
        "1e999",
        "9" * 5000,
    ),
    *(
        "-1",
        "0",
        "0x" + "f" * 300,
        "2001-99-99",
        "12:30:45:99",
        "[" * 2000,
        "{a: " * 2000,
        "- " * 2000,
        "\x00",
        "\ufeff",
        "\u2028",
        "\ud7ff",
        "null",
        "~",
        "''",
    ),
    *(
        "true",
        "[]",
        "{}",
        "|",
        ">",
        "'",
        '"',
        "%YAML 9.9",
        "---",
        "...",
        "\t",
        "#",
        "!",
        "&",
        "*",
        "name: x",
        "seed: 1",
        "'\\ud800'",
        '"\\ud800"',
    ),
]


@dataclass(frozen=True, slots=True)
class Kind:
    """A file of a kind unharmed, and a judge, which says whether bytes were taken, and raises where neither an error of ours nor that content came of them."""

    original: bytes
    judge: Callable[[bytes], bool]
    mutations: Callable[[bytes, int, int], Iterator[bytes]]


def mutations(data: bytes, seed: int, num: int) -> Iterator[bytes]:
    """Mutations of an Arrow or other binary file: flipped bytes, numbers of any size, runs of zeros, cuts, pieces moved; every second one near an end."""
    rng = random.Random(seed)
    for _ in range(num):
        harmed = bytearray(data)
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            if not harmed:
                break
            near = rng.choice([len(harmed), len(harmed), 1500])
            at = rng.randrange(min(near, len(harmed)))
            at = len(harmed) - 1 - at if rng.random() < 0.5 else at
            _harm(harmed, at, rng)
        yield bytes(harmed)


def _harm(data: bytearray, at: int, rng: random.Random) -> None:
    how, aligned = rng.randrange(8), at // 4 * 4
    if how == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif how == 1:
        data[at] = rng.randrange(256)
    elif how in (2, 3):
        width = rng.choice([2, 4, 8])
        data[aligned : aligned + width] = (rng.choice(EDGES) % 2 ** (8 * width)).to_bytes(
            width, "little"
        )
    elif how == 4:
        run = rng.choice([4, 8, 64, 512])
        data[at : at + run] = bytes(min(run, len(data) - at))
    elif how == 5:
        del data[at:]
    elif how == 6:
        del data[at : at + rng.choice([1, 4, 8, 64])]
    else:
        start, size = rng.randrange(len(data)), rng.choice([4, 8, 64])
        data[at : at + size] = data[start : start + size]


def text_mutations(data: bytes, seed: int, num: int) -> Iterator[bytes]:
    """Mutations of a YAML or JSON file: its values replaced by odd ones, lines repeated, moved and indented, and bytes flipped."""
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
                place = rng.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:place] + odd + lines[at][place:]
            else:
                lines[at] = next(mutations(lines[at], rng.randrange(2**32), 1))
        yield b"\n".join(lines)
