"""The items of an archive: members, damage and framing."""

from typing import NamedTuple


class Member(NamedTuple):
    """An intact file of the archive.

    Its data is `stream.data[start : start + size]` until the next item is read. `offset` is the
    position of its header in the archive, `num_bytes` its size with all headers and padding.
    """

    name: str
    offset: int
    num_bytes: int
    start: int
    size: int


class TarDamage(NamedTuple):
    """A range of the archive that yields no member; `reason` is one of errors.REASONS.

    If `named`, the name comes from a valid header; else it is a guess or empty.
    """

    name: str
    offset: int
    num_bytes: int
    reason: str
    detail: str
    named: bool


class Framing(NamedTuple):
    """Intact bytes that contain no file: directories and the zero blocks at the end."""

    num_bytes: int


Item = Member | TarDamage | Framing
