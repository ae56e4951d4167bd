"""Groups the members of a shard into samples and accounts for every member and byte.

A shard follows the WebDataset convention: members `<key>.<suffix>` of one sample are contiguous,
and the key ends at the first dot of the base name, or at the last. A sample that lost a member is
rejected, never returned without it. Samples whose members are not contiguous need two passes: see
`read_twice`. A sample next to damage is complete if it has the suffixes that the intact samples
have. Files of a system or a repository, and groups without a member that is read, are no samples:
they are `strays`, and count as ignored.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from pipeline.shards.decompress import Readable, Stream
from pipeline.shards.discover import ShardFile
from pipeline.shards.limits import Limits
from pipeline.shards.member_suffixes import MEDIA, TEXT
from pipeline.shards.sample_group import SampleGroup, as_damaged
from pipeline.shards.samples import (
    ByteAccounting,
    DamagedMember,
    RejectedSample,
    Sample,
    is_junk,
    split_name,
)
from pipeline.shards.tar import read_members
from pipeline.shards.tar_items import Framing, Member, TarDamage
from pipeline.storage.store_path import StorePath

T = TypeVar("T")


def everything(suffix: str) -> bool:
    """A `load` argument: load every member."""
    return True


class ShardReader:
    """Iterates once over a shard in the memory of one sample; yields Sample and RejectedSample.

    Args:
        file: the tar, plain or compressed by gzip or zstd.
        limits: limits of members, samples and the shard.
        load: whether to load the members of a suffix.
        known: suffixes that are read although they are not in MEDIA.
        non_contiguous: how many runs each non-contiguous sample has, from a first pass.
        hashed: compute `digest`.
        key_end: where a member's name is split, "first_dot" or "last_dot".
    """

    def __init__(
        self,
        file: Readable,
        *,
        limits: Limits | None = None,
        load: Callable[[str], bool] = everything,
        known: frozenset[str] = frozenset(),
        non_contiguous: Mapping[str, int] | None = None,
        hashed: bool = True,
        key_end: str = "first_dot",
    ) -> None:
        self._limits = limits or Limits()
        self._stream = Stream(file, self._limits.shard_bytes)
        self._load, self._known, self._key_end = load, known, key_end
        self._handling: dict[str, tuple[bool, bool]] = {}
        self._hash = hashlib.sha256() if hashed else None
        # second pass: runs still to come, runs joined so far, their bytes, keys of joined samples
        self._runs_left = dict(non_contiguous or {})
        self._partial: dict[str, SampleGroup] = {}
        self._partial_bytes = 0
        self._joined: set[str] = set()
        self.regrouped: list[str] = []
        self.strays: list[DamagedMember] = []
        # groups next to damage that came before any intact sample
        self._waiting: list[SampleGroup] = []
        self._at_end = False
        # per key: suffixes so far; keys with a later run that repeats or adds a suffix; number of
        # runs if there are several; keys guessed from damage
        self._suffixes_of: dict[str, frozenset[str]] = {}
        self._repeated: set[str] = set()
        self._extended: set[str] = set()
        self._num_runs: dict[str, int] = {}
        self._damaged_keys: set[str] = set()
        self._kept_keys: set[str] = set()
        # suffixes that intact samples have
        self._expected: frozenset[str] = frozenset()
        self._index = 0
        self.accounting = ByteAccounting()

    @property
    def digest(self) -> str:
        """SHA-256 of names, sizes and data of the members and of the damage.

        Independent of compression, times, owners and padding.
        """
        assert self._hash is not None
        return self._hash.hexdigest()

    @property
    def is_non_contiguous(self) -> bool:
        """Whether members of an earlier sample have followed so far."""
        return bool(self._extended)

    @property
    def non_contiguous(self) -> dict[str, int]:
        """Non-contiguous samples and their number of runs; 0 if not recoverable.

        Excludes keys whose later runs only repeat suffixes: those are duplicates.
        """
        runs = {}
        for key, num in self._num_runs.items():
            if key in self._damaged_keys or (key in self._repeated and key in self._extended):
                runs[key] = 0
            elif key not in self._repeated:
                runs[key] = num
        return runs

    def samples(self) -> Iterator[Sample]:
        """Iterate over the complete samples only."""
        return (item for item in self if isinstance(item, Sample))

    def __iter__(self) -> Iterator[Sample | RejectedSample]:
        group: SampleGroup | None = None
        loose: list[DamagedMember] = []  # since the group began, of no certain key
        damage_before = False
        for item in read_members(self._stream, self._limits.member_bytes):
            if isinstance(item, Framing):
                self.accounting.bytes_framing += item.num_bytes
                continue
            self.accounting.members += 1
            key, suffix = split_name(item.name, self._key_end)
            if self._hash:
                self._update_hash(item)
            if isinstance(item, Member) and is_junk(item.name):
                self._stray(as_damaged(item, "", "wrong_type", "the file belongs to no sample"))
                self.accounting.bytes_ignored += item.num_bytes
                continue
            if isinstance(item, TarDamage) and not item.named:
                self.accounting.bytes_lost += item.num_bytes
                damage_before = True
                self._damaged_keys.add(key)
                if group:
                    group.suspect = True
                (group.near if group and key == group.key else loose).append(as_damaged(item, key))
                continue
            if not key:
                self.accounting.bytes_lost += item.num_bytes
                detail = "a name without key and suffix belongs to no sample"
                loose.append(as_damaged(item, "", "wrong_type", detail))
                continue
            if group is None or key != group.key:
                if group:
                    yield from self._close(group)
                if loose:
                    yield from self._reject_each(member for member in loose if member.key != key)
                near = [member for member in loose if member.key == key] if loose else ()
                group = SampleGroup(key, damage_before, near)
                loose, damage_before = [], False
            damage_before |= isinstance(item, TarDamage)
            self._add(group, suffix, item)
        if group:
            yield from self._close(group)
        self._at_end = True
        for partial in [*self._partial.values()]:
            yield from self._judge(partial)
        yield from self._release()
        yield from self._reject_each(loose)
        self.accounting.bytes = self._stream.offset

    def _update_hash(self, item: Member | TarDamage) -> None:
        assert self._hash is not None
        if isinstance(item, TarDamage):
            self._hash.update(f"{item.name}\0{item.offset}\0{item.reason}\0".encode())
        else:
            self._hash.update(f"{item.name}\0{item.size}\0".encode())
            self._hash.update(memoryview(self._stream.data)[item.start : item.start + item.size])

    def _add(self, group: SampleGroup, suffix: str, item: Member | TarDamage) -> None:
        is_read, is_loaded = self._handling.get(suffix) or self._handle(suffix)
        num_bytes = item.num_bytes
        if isinstance(item, TarDamage):
            group.damaged.append(as_damaged(item, group.key))
        elif not is_read:
            detail = f"{suffix.rpartition('.')[2]!r} is not among the suffixes that are read"
            group.ignored.append(as_damaged(item, group.key, "wrong_type", detail))
            group.num_bytes_ignored += num_bytes
            return
        elif suffix in group.members:
            detail = "the sample has this suffix twice"
            group.damaged.append(as_damaged(item, group.key, "duplicate", detail))
        elif group.num_bytes + num_bytes > self._limits.sample_bytes:
            detail = f"with it the sample has more than {self._limits.sample_bytes} bytes"
            group.damaged.append(as_damaged(item, group.key, "oversize", detail))
        else:
            group.members[suffix] = item
            if is_loaded:
                group.data[suffix] = self._stream.data[item.start : item.start + item.size]
        group.num_bytes += num_bytes

    def _handle(self, suffix: str) -> tuple[bool, bool]:
        """Whether members of this suffix are read, and whether their data is loaded."""
        last = suffix.rpartition(".")[2]
        is_read = last in MEDIA or last in TEXT or suffix in self._known
        self._handling[suffix] = (is_read, self._load(suffix))
        return self._handling[suffix]

    def _close(self, group: SampleGroup) -> Iterable[Sample | RejectedSample]:
        """End a run."""
        suffixes = frozenset(group.members)
        before = self._suffixes_of.get(group.key)
        if before is not None:
            self._num_runs[group.key] = self._num_runs.get(group.key, 1) + 1
            if before & suffixes:
                self._repeated.add(group.key)
            if not suffixes <= before:
                self._extended.add(group.key)
            suffixes |= before
        self._suffixes_of[group.key] = suffixes
        if group.key in self._runs_left:
            return self._close_non_contiguous(group)
        if self._is_stray(group):
            return ()
        if before is not None or group.suspect or group.damaged or self._waiting:
            return self._judge(group)
        if not suffixes <= self._expected:
            self._expected |= suffixes
        return (self._keep(group),)

    def _is_stray(self, group: SampleGroup) -> bool:
        """Whether nothing of a group is read, and nothing is damaged; its members are ignored."""
        if group.members or group.suspect or group.damaged or group.near:
            return False
        self.accounting.bytes_ignored += group.num_bytes_ignored
        for member in group.ignored:
            self._stray(member)
        self._index += 1
        return True

    def _close_non_contiguous(self, run: SampleGroup) -> Iterator[Sample | RejectedSample]:
        if self._runs_left[run.key] == 0:
            detail = "its members are not contiguous, and some are duplicates or damaged"
            yield self._reject(run, "duplicate", detail)
            return
        self._runs_left[run.key] -= 1
        joined = self._join(self._partial.pop(run.key, None), run)
        if self._runs_left[run.key]:
            self._partial[run.key] = joined
        else:
            self._partial_bytes -= joined.num_bytes
            del self._runs_left[run.key]
            if not self._is_stray(joined):
                self._joined.add(run.key)
                yield from self._judge(joined)

    def _join(self, first: SampleGroup | None, run: SampleGroup) -> SampleGroup:
        """Add a run to the earlier ones; above the memory limit its data is dropped."""
        joined = first or SampleGroup(run.key)
        self._partial_bytes += run.num_bytes
        joined.near += run.near
        joined.suspect |= run.suspect
        joined.num_bytes += run.num_bytes
        joined.num_bytes_ignored += run.num_bytes_ignored
        joined.damaged += run.damaged
        joined.ignored += run.ignored
        if self._partial_bytes > self._limits.sample_bytes:
            detail = (
                "its members are not contiguous, and the incomplete samples before its end have "
                f"more than {self._limits.sample_bytes} bytes"
            )
            members = run.members.values()
            joined.damaged += [as_damaged(each, run.key, "oversize", detail) for each in members]
        else:
            joined.members |= run.members
            joined.data |= run.data
        return joined

    def _judge(self, group: SampleGroup) -> Iterator[Sample | RejectedSample]:
        """Decide about a group, or make it wait for the first intact sample."""
        # next to damage, and no intact sample has shown yet which suffixes a complete one has
        undecidable = group.suspect and not group.damaged and not self._expected
        waiting_bytes = sum(other.num_bytes for other in self._waiting) if undecidable else 0
        if undecidable and waiting_bytes + group.num_bytes <= self._limits.sample_bytes:
            self._waiting.append(group)
            return
        if not group.suspect and not group.damaged and group.key not in self._kept_keys:
            self._expected |= frozenset(group.members)
        yield from self._release()
        yield from self._decide(group)

    def _release(self) -> Iterator[Sample | RejectedSample]:
        """Decide about the waiting groups, in order."""
        waiting, self._waiting = self._waiting, []
        if self._at_end and waiting:
            # no intact sample: together they show the suffixes
            self._expected = frozenset[str]().union(*(group.members for group in waiting))
        for group in waiting:
            yield from self._decide(group)

    def _decide(self, group: SampleGroup) -> Iterator[Sample | RejectedSample]:
        lacking = self._lacking(group) if group.suspect else []
        if group.key in self._kept_keys:
            detail = "an earlier sample has its key, and keys are unique in a shard"
            yield self._reject(group, "duplicate", detail)
        elif group.damaged:
            first = group.damaged[0]
            yield self._reject(group, first.reason, f"its sample lost {first.member}")
        elif lacking:
            detail = f"its sample is next to damage and lacks {', '.join(lacking)}"
            yield self._reject(group, "missing_member", detail)
        else:
            yield from self._reject_each(group.near)
            yield self._keep(group)

    def _lacking(self, group: SampleGroup) -> list[str]:
        """Suffixes this sample should have, judging by intact samples and by damage with its key.

        Without any intact sample, it must have metadata and at least one medium.
        """
        guessed = {split_name(member.member, self._key_end)[1] for member in group.near}
        lacking = sorted((self._expected | guessed) - group.members.keys())
        if self._at_end and TEXT.isdisjoint(group.members) and TEXT.isdisjoint(lacking):
            lacking.append("json")
        if self._at_end and TEXT.issuperset(group.members):
            lacking.append("media")
        return lacking

    def _keep(self, group: SampleGroup) -> Sample:
        self._kept_keys.add(group.key)
        accounting = self.accounting
        if group.key in self._joined:
            accounting.regrouped += 1
            self.regrouped.append(group.key)
        accounting.samples += 1
        accounting.kept += len(group.members)
        accounting.ignored += len(group.ignored)
        accounting.bytes_kept += group.num_bytes
        accounting.bytes_ignored += group.num_bytes_ignored
        self._index += 1
        return Sample(
            key=group.key,
            index=self._index - 1,
            suffixes=frozenset(group.members),
            members=group.data,
            ignored=tuple(group.ignored),
            num_bytes=group.num_bytes,
        )

    def ignore(self, sample: Sample) -> None:
        """Count the members of something that is no sample, the last item, as ignored."""
        accounting, num = self.accounting, len(sample.suffixes)
        accounting.samples -= 1
        accounting.kept, accounting.ignored = accounting.kept - num, accounting.ignored + num
        accounting.bytes_kept -= sample.num_bytes
        accounting.bytes_ignored += sample.num_bytes

    def _stray(self, member: DamagedMember) -> None:
        self.accounting.ignored += 1
        self.strays.append(member)

    def _reject(self, group: SampleGroup, reason: str, detail: str) -> RejectedSample:
        """Reject a sample; `reason` and `detail` apply to its intact members."""
        intact = [as_damaged(each, group.key, reason, detail) for each in group.members.values()]
        members = [*group.near, *group.damaged, *intact, *group.ignored]
        members.sort(key=lambda member: member.offset)
        self.accounting.bytes_lost += group.num_bytes + group.num_bytes_ignored
        self._index += 1
        return self._count(RejectedSample(key=group.key, reason=reason, damaged=tuple(members)))

    def _reject_each(self, members: Iterable[DamagedMember]) -> Iterator[RejectedSample]:
        """Report damage, and members that belong to no sample."""
        for member in members:
            yield self._count(
                RejectedSample(key=member.key, reason=member.reason, damaged=(member,))
            )

    def _count(self, rejected: RejectedSample) -> RejectedSample:
        self.accounting.lost += len(rejected.damaged)
        self.accounting.samples_lost += 1
        return rejected


def read_twice(
    path: StorePath, read: Callable[[ShardReader], T], **options: object
) -> tuple[T, ShardReader]:
    """Apply `read` to a shard, and again with `non_contiguous` if its samples are not contiguous.

    Returns the last result of `read` and its reader. Raises MissingError, StoreError.
    """
    non_contiguous: dict[str, int] = {}
    while True:
        with ShardFile(path) as file:
            reader = ShardReader(file, non_contiguous=non_contiguous, **options)  # type: ignore[arg-type]
            result = read(reader)
        if non_contiguous or not reader.non_contiguous:
            return result, reader
        non_contiguous = reader.non_contiguous
