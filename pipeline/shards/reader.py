"""Shards: tar bytes -> samples, with an account of every member and every byte.

A shard follows the WebDataset convention: members `<key>.<suffix>` of one sample lie together, the key ends at the first dot of
the base name, and `<key>.json` holds sample_id, label and split. A sample that lost a member is lost, not partial. One whose members
lie apart is put together by who reads the shard twice (`settled`); one that lies beside damage is whole if it has what others have.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from pipeline.shards.decompress import Readable, Stream
from pipeline.shards.discover import ShardFile
from pipeline.shards.limits import Limits
from pipeline.shards.member_suffixes import MEDIA, TEXT
from pipeline.shards.samples import (
    ByteAccounting,
    DamagedMember,
    RejectedSample,
    Sample,
    split_name,
)
from pipeline.shards.tar import read_members
from pipeline.shards.tar_items import Framing, Member, TarDamage
from pipeline.storage.store_path import StorePath

T = TypeVar("T")


class _Group:
    """The members of a sample that lie together: where each lies, and the data of those that were asked for."""

    __slots__ = (
        "data",
        "ignored",
        "key",
        "losses",
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
        self.losses: list[DamagedMember] = []
        self.ignored: list[DamagedMember] = []


def everything(suffix: str) -> bool:
    """Loads every member."""
    return True


def only_text(suffix: str) -> bool:
    """Loads what says which sample it is, and no media."""
    return suffix in TEXT


class ShardReader:
    """Iterates once over a tar, plain or packed by gzip or zstd, one sample in memory at a time, and tells of each whether it is whole or lost.

    `torn` says of the samples whose members lie apart in how many places, which a first reading finds: then `apart` says it.
    """

    def __init__(
        self,
        file: Readable,
        *,
        limits: Limits | None = None,
        load: Callable[[str], bool] = everything,
        known: frozenset[str] = frozenset(),
        torn: Mapping[str, int] | None = None,
        hashed: bool = True,
    ) -> None:
        self._limits = limits or Limits()
        self._stream = Stream(file, self._limits.shard_bytes)
        self._load, self._known = load, known
        self._fates: dict[str, tuple[bool, bool]] = {}
        self._hash = hashlib.sha256() if hashed else None
        self._asked = dict(torn or {})
        self._apart: dict[str, _Group] = {}
        self._bytes_apart = 0
        self._together: set[str] = set()
        self.regrouped: list[str] = []
        self._waiting: list[_Group] = []
        self._final = False
        self._runs: dict[str, frozenset[str]] = {}
        self._repeated: set[str] = set()
        self._grown: set[str] = set()
        self._hurt: set[str] = set()
        self._kept: set[str] = set()
        self._usual: frozenset[str] = frozenset()
        self._index = 0
        self._places: dict[str, int] = {}
        self.account = ByteAccounting()

    @property
    def digest(self) -> str:
        """SHA-256 of names, sizes and data of the members and of the damage: neither times, owners nor padding count."""
        assert self._hash is not None
        return self._hash.hexdigest()

    @property
    def apart(self) -> dict[str, int]:
        """The samples whose members lie apart and in how many places, 0 where not all of it can be told apart or is there; not those that only come again."""
        found = {}
        for key, num in self._places.items():
            if key in self._hurt or (key in self._repeated and key in self._grown):
                found[key] = 0
            elif key not in self._repeated:
                found[key] = num
        return found

    def samples(self) -> Iterator[Sample]:
        """The whole samples alone."""
        return (item for item in self if isinstance(item, Sample))

    def __iter__(self) -> Iterator[Sample | RejectedSample]:
        group: _Group | None = None
        loose: list[DamagedMember] = []
        damaged = False
        for item in read_members(self._stream, self._limits.member_bytes):
            if isinstance(item, Framing):
                self.account.bytes_framing += item.num_bytes
                continue
            self.account.members += 1
            key, suffix = split_name(item.name)
            if self._hash:
                self._observe(item)
            if isinstance(item, TarDamage) and not item.named:
                self.account.bytes_lost += item.num_bytes
                damaged = True
                self._hurt.add(key)
                if group:
                    group.suspect = True
                (group.near if group and key == group.key else loose).append(_loss(item, key))
                continue
            if not key:
                self.account.bytes_lost += item.num_bytes
                loose.append(
                    _loss(
                        item, "", "wrong_type", "a name without key and suffix belongs to no sample"
                    )
                )
                continue
            if group is None or key != group.key:
                if group:
                    yield from self._close(group)
                if loose:
                    yield from self._tell(loss for loss in loose if loss.key != key)
                group = _Group(
                    key, damaged, [loss for loss in loose if loss.key == key] if loose else ()
                )
                loose, damaged = [], False
            damaged |= isinstance(item, TarDamage)
            self._add(group, suffix, item)
        if group:
            yield from self._close(group)
        self._final = True
        for apart in [*self._apart.values()]:
            yield from self._judge(apart)
        yield from self._release()
        yield from self._tell(loose)
        self.account.bytes = self._stream.offset

    def _observe(self, item: Member | TarDamage) -> None:
        assert self._hash is not None
        if isinstance(item, TarDamage):
            self._hash.update(f"{item.name}\0{item.offset}\0{item.reason}\0".encode())
        else:
            self._hash.update(f"{item.name}\0{item.size}\0".encode())
            self._hash.update(memoryview(self._stream.data)[item.start : item.start + item.size])

    def _add(self, group: _Group, suffix: str, item: Member | TarDamage) -> None:
        reads, loads = self._fates.get(suffix) or self._fate(suffix)
        num_bytes = item.num_bytes
        if isinstance(item, TarDamage):
            group.losses.append(_loss(item, group.key))
        elif not reads:
            group.ignored.append(
                _loss(
                    item,
                    group.key,
                    "wrong_type",
                    f"{suffix.rpartition('.')[2]!r} is not among the suffixes that are read",
                )
            )
            group.num_bytes_ignored += num_bytes
            return
        elif suffix in group.members:
            group.losses.append(
                _loss(item, group.key, "duplicate", "the sample has this suffix twice")
            )
        elif group.num_bytes + num_bytes > self._limits.sample_bytes:
            group.losses.append(
                _loss(
                    item,
                    group.key,
                    "oversize",
                    f"with it the sample has more than {self._limits.sample_bytes} bytes",
                )
            )
        else:
            group.members[suffix] = item
            if loads:
                group.data[suffix] = self._stream.data[item.start : item.start + item.size]
        group.num_bytes += num_bytes

    def _fate(self, suffix: str) -> tuple[bool, bool]:
        """Whether members of this suffix are read, and whether their data was asked for."""
        last = suffix.rpartition(".")[2]
        self._fates[suffix] = (
            last in MEDIA or last in TEXT or suffix in self._known,
            self._load(suffix),
        )
        return self._fates[suffix]

    def _close(self, group: _Group) -> Iterable[Sample | RejectedSample]:
        """Ends a run of members of one key."""
        suffixes = frozenset(group.members)
        before = self._runs.get(group.key)
        if before is not None:
            self._places[group.key] = self._places.get(group.key, 1) + 1
            if before & suffixes:
                self._repeated.add(group.key)
            if not suffixes <= before:
                self._grown.add(group.key)
            suffixes |= before
        self._runs[group.key] = suffixes
        if group.key in self._asked:
            return self._close_torn(group)
        if before is not None or group.suspect or group.losses or self._waiting:
            return self._judge(group)
        if not suffixes <= self._usual:
            self._usual |= suffixes
        return (self._keep(group),)

    def _close_torn(self, run: _Group) -> Iterator[Sample | RejectedSample]:
        if self._asked[run.key] == 0:
            yield self._lose(
                run,
                "duplicate",
                "its members lie apart, and some of them came twice or are damaged",
            )
            return
        self._asked[run.key] -= 1
        whole = self._join(self._apart.pop(run.key, None), run)
        if self._asked[run.key]:
            self._apart[run.key] = whole
        else:
            self._bytes_apart -= whole.num_bytes
            del self._asked[run.key]
            self._together.add(run.key)
            yield from self._judge(whole)

    def _join(self, first: _Group | None, run: _Group) -> _Group:
        """Holds a run of a sample whose members lie apart, or gives its data up where too much would be held."""
        whole = first or _Group(run.key)
        self._bytes_apart += run.num_bytes
        whole.near += run.near
        whole.suspect |= run.suspect
        whole.num_bytes += run.num_bytes
        whole.num_bytes_ignored += run.num_bytes_ignored
        whole.losses += run.losses
        whole.ignored += run.ignored
        if self._bytes_apart > self._limits.sample_bytes:
            detail = f"its members lie apart, and to wait for them more than {self._limits.sample_bytes} bytes would have to be held"
            whole.losses += [
                _loss(member, run.key, "oversize", detail) for member in run.members.values()
            ]
        else:
            whole.members |= run.members
            whole.data |= run.data
        return whole

    def _judge(self, group: _Group) -> Iterator[Sample | RejectedSample]:
        unclear = group.suspect and not group.losses and not self._usual
        if (
            unclear
            and sum(other.num_bytes for other in self._waiting) + group.num_bytes
            <= self._limits.sample_bytes
        ):
            # it lies beside damage, and no sample yet tells what a whole one has: the next may
            self._waiting.append(group)
            return
        if not group.suspect and not group.losses and group.key not in self._kept:
            self._usual |= frozenset(group.members)
        yield from self._release()
        yield from self._decide(group)

    def _release(self) -> Iterator[Sample | RejectedSample]:
        waiting, self._waiting = self._waiting, []
        if self._final and waiting:
            self._usual = frozenset[str]().union(*(group.members for group in waiting))
        for group in waiting:
            yield from self._decide(group)

    def _decide(self, group: _Group) -> Iterator[Sample | RejectedSample]:
        lacking = self._lacking(group) if group.suspect else []
        if group.key in self._kept:
            yield self._lose(
                group, "duplicate", "its key came before, and keys are unique in a shard"
            )
        elif group.losses:
            yield self._lose(
                group, group.losses[0].reason, f"its sample lost {group.losses[0].member}"
            )
        elif lacking:
            yield self._lose(
                group,
                "missing_member",
                f"damage lies beside its sample, which lacks {', '.join(lacking)}",
            )
        else:
            yield from self._tell(group.near)
            yield self._keep(group)

    def _lacking(self, group: _Group) -> list[str]:
        """What a sample beside damage has not, by those that lie elsewhere; where there are none it must say what it is, and hold something."""
        named = {split_name(loss.member)[1] for loss in group.near}
        lacking = sorted((self._usual | named) - group.members.keys())
        if self._final and TEXT.isdisjoint(group.members) and TEXT.isdisjoint(lacking):
            lacking.append("json")
        if self._final and TEXT.issuperset(group.members):
            lacking.append("media")
        return lacking

    def _keep(self, group: _Group) -> Sample:
        self._kept.add(group.key)
        account = self.account
        if group.key in self._together:
            account.regrouped += 1
            self.regrouped.append(group.key)
        account.samples += 1
        account.kept += len(group.members)
        account.ignored += len(group.ignored)
        account.bytes_kept += group.num_bytes
        account.bytes_ignored += group.num_bytes_ignored
        self._index += 1
        return Sample(
            group.key, self._index - 1, frozenset(group.members), group.data, tuple(group.ignored)
        )

    def _lose(self, group: _Group, reason: str, detail: str) -> RejectedSample:
        collateral = [_loss(member, group.key, reason, detail) for member in group.members.values()]
        losses = sorted(
            [*group.near, *group.losses, *collateral, *group.ignored], key=lambda loss: loss.offset
        )
        self.account.bytes_lost += group.num_bytes + group.num_bytes_ignored
        self._index += 1
        return self._told(RejectedSample(key=group.key, reason=reason, losses=tuple(losses)))

    def _tell(self, losses: Iterable[DamagedMember]) -> Iterator[RejectedSample]:
        """Tells of damage and of members that belong to no sample that is known."""
        for loss in losses:
            yield self._told(RejectedSample(key=loss.key, reason=loss.reason, losses=(loss,)))

    def _told(self, lost: RejectedSample) -> RejectedSample:
        self.account.lost += len(lost.losses)
        self.account.samples_lost += 1
        return lost


def read_twice(
    path: StorePath, read: Callable[[ShardReader], T], **options: object
) -> tuple[T, ShardReader]:
    """What `read` makes of a shard, and the reader; it is read twice where samples lie apart (raises MissingError, StoreError)."""
    torn: dict[str, int] = {}
    while True:
        with ShardFile(path) as file:
            reader = ShardReader(file, torn=torn, **options)  # type: ignore[arg-type]
            result = read(reader)
        if torn or not reader.apart:
            return result, reader
        torn = reader.apart


def _loss(item: Member | TarDamage, key: str, reason: str = "", detail: str = "") -> DamagedMember:
    if isinstance(item, TarDamage):
        reason, detail = item.reason, item.detail
    return DamagedMember(
        key=key, member=item.name, offset=item.offset, reason=reason, detail=detail
    )
