"""Members that are read together: what may become a sample."""

from collections.abc import Sequence

from pipeline.shards.samples import DamagedMember
from pipeline.shards.tar_items import Member, TarDamage


class SampleGroup:
    """A run: consecutive members of one key; or several runs joined.

    `near` is damage whose guessed name has this key, `suspect` that damage adjoins the run.
    """

    __slots__ = (
        "damaged",
        "data",
        "ignored",
        "key",
        "members",
        "near",
        "num_bytes",
        "num_bytes_ignored",
        "suspect",
    )

    def __init__(self, key: str, suspect: bool = False, near: Sequence[DamagedMember] = ()) -> None:
        self.key, self.suspect, self.near = key, suspect, [*near]
        self.num_bytes = self.num_bytes_ignored = 0
        self.members: dict[str, Member] = {}
        self.data: dict[str, bytes] = {}
        self.damaged: list[DamagedMember] = []
        self.ignored: list[DamagedMember] = []


def as_damaged(
    item: Member | TarDamage, key: str, reason: str = "", detail: str = ""
) -> DamagedMember:
    """A member or damage as an entry of a report; damage has its own reason and detail."""
    if isinstance(item, TarDamage):
        reason, detail = item.reason, item.detail
    return DamagedMember(
        key=key, member=item.name, offset=item.offset, reason=reason, detail=detail
    )
