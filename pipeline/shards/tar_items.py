"""What an archive is made of: members, damage, and what holds no file."""

from typing import NamedTuple


class Member(NamedTuple):
    """A whole file of the archive: `size` bytes from `start` of the stream's window on, as long as that does not move; `num_bytes` with headers and padding."""

    name: str
    offset: int
    num_bytes: int
    start: int
    size: int


class TarDamage(NamedTuple):
    """A stretch of the archive that gives no member; `named` says that a valid header gave the name, else it is a guess or empty."""

    name: str
    offset: int
    num_bytes: int
    reason: str
    detail: str
    named: bool


class Framing(NamedTuple):
    """Bytes that hold no file: directories, and the blocks of zeros at the end."""

    num_bytes: int


Item = Member | TarDamage | Framing
