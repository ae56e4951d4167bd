"""Random mutations of bytes, and the cases of `benchmarks/fuzz.py`."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.shards.decompress import BLOCK

SIZES = (0, 1, 7, 8, 100, 511, 512, 513, 1024, 4096)
NUMBERS = (1, 2, *(2**bits - less for bits in (0, 7, 8, 15, 16, 31, 32, 63, 64) for less in (0, 1)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Bytes with a judge, which returns the outcome or raises if a guarantee is broken."""

    name: str
    data: bytes
    judge: Callable[[bytes], str]


Cases = Callable[[int, int], Case]
"""Returns the case for a seed and a number."""


def harmed(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Apply one random mutation.

    Bits, bytes or numbers are changed; pieces are zeroed, inserted, removed, moved or copied; the
    end is cut off; or the file is joined with another one.
    """
    out, at, size = bytearray(data), rng.randrange(len(data) + 1), rng.choice(SIZES)
    if rng.random() < 0.3:
        at -= at % BLOCK
    how = rng.randrange(11)
    if how == 0:
        for _ in range(rng.choice((1, 2, 8, 64))):
            flip(out, rng)
    elif how == 1:
        out[at : at + size] = rng.randbytes(min(size, len(out) - at))
    elif how == 2:
        out[at : at + size] = bytes(min(size, len(out) - at))
    elif how == 3:
        out[at:at] = rng.choice((rng.randbytes(size), bytes(size), b"ustar" * (size // 5)))
    elif how == 4:
        del out[at : at + size]
    elif how == 5:
        del out[at:]
    elif how in (6, 7):
        start = rng.randrange(len(out) + 1)
        piece = bytes(out[start : start + size])
        if how == 6:
            del out[start : start + size]
        out[at:at] = piece
    elif how == 8:
        start = rng.randrange(len(other) + 1)
        out[at:] = other[start - start % BLOCK if rng.random() < 0.5 else start :]
    elif how == 9:
        width = rng.choice((1, 2, 3, 4, 8))
        number = rng.choice((rng.choice(NUMBERS), rng.getrandbits(64))) % 256**width
        out[at : at + width] = number.to_bytes(width, rng.choice(("big", "little")))
    else:
        out += rng.choice((data, other))
    return bytes(out)


def flip(data: bytearray, rng: random.Random) -> None:
    """Flip one random bit."""
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
