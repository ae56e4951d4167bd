"""Shards: tar bytes -> samples, with an account of every member.

A shard follows the WebDataset convention: members `<key>.<suffix>` of one sample lie together, the key ends at the first dot of
the base name, and `<key>.json` holds sample_id, label and split. A sample that lost a member is a loss, not a partial sample.
"""

import contextlib
import glob
import hashlib
import io
import json
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.errors import InputError, MissingError, SampleError, StoreError
from pipeline.store import Place
from pipeline.tar import MAX_MEMBER_BYTES, Damage, Member, read_members

_BUFFER_BYTES = 2**20
_SPLIT_OF_NAME = re.compile(r"(train|validation|val|test)[-_]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One whole sample: the number of its place in the shard, all its suffixes, and the members that were asked for by suffix."""

    key: str
    index: int
    suffixes: frozenset[str]
    members: dict[str, bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """One member that is not part of any sample read; `reason` is one of errors.REASONS."""

    key: str
    member: str
    offset: int
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a sample says of itself; `split` is None where neither it nor the shard's name tells."""

    sample_id: str
    label: str
    split: str | None


@dataclass(kw_only=True, slots=True)
class _Group:
    key: str
    index: int
    suspect: bool
    members: dict[str, Member] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)


def everything(suffix: str) -> bool:
    """Loads every member."""
    return True


def only_text(suffix: str) -> bool:
    """Loads what says which sample it is, and no media."""
    return suffix in ("json", "cls")


class ShardReader:
    """Iterates once over the whole samples of a seekable tar, one in memory at a time; afterwards `losses` names everything else."""

    def __init__(self, file: BinaryIO, *, load: Callable[[str], bool] = everything, max_member_bytes: int = MAX_MEMBER_BYTES, hashed: bool = True) -> None:
        self._hash = hashlib.sha256()
        self._members = read_members(file, lambda name: load(split_name(name)[1]), max_bytes=max_member_bytes, observe=self._hash.update if hashed else None)
        self._seen: set[str] = set()
        self._usual: frozenset[str] = frozenset()
        self.losses: list[Loss] = []
        self.num_members = 0
        self.num_kept = 0

    @property
    def digest(self) -> str:
        """SHA-256 of names, sizes and data of the members read and of the losses so far: neither times, owners nor padding count."""
        whole = self._hash.copy()
        whole.update(repr([(loss.member, loss.offset, loss.reason) for loss in self.losses]).encode())
        return whole.hexdigest()

    @property
    def account(self) -> dict[str, int]:
        """Members seen = kept + lost."""
        return {"members": self.num_members, "kept": self.num_kept, "lost": len(self.losses)}

    def rejected(self) -> list[tuple[str, str, str]]:
        """The losses as one (key, reason, error) a sample."""
        ordered = sorted(self.losses, key=lambda loss: (loss.key, loss.offset))
        groups = [list(group) for _, group in groupby(ordered, key=lambda loss: loss.key or str(loss.offset))]
        groups.sort(key=lambda group: group[0].offset)
        return [
            (group[0].key, group[0].reason, "; ".join(f"{loss.member or 'shard'} at byte {loss.offset}: {loss.detail}" for loss in group)) for group in groups
        ]

    def __iter__(self) -> Iterator[Sample]:
        group: _Group | None = None
        damaged, index = False, 0
        for item in self._members:
            self.num_members += 1
            key, suffix = split_name(item.name)
            if isinstance(item, Damage) and not item.named:
                self.losses.append(Loss(key=key, member=item.name, offset=item.offset, reason=item.reason, detail=item.detail))
                damaged = True
                if group:
                    group.suspect = True
                continue
            if not key:
                reason, detail = (
                    (item.reason, item.detail) if isinstance(item, Damage) else ("wrong_type", "a name without key and suffix belongs to no sample")
                )
                self.losses.append(Loss(key="", member=item.name, offset=item.offset, reason=reason, detail=detail))
                continue
            if group is None or key != group.key:
                if group:
                    yield from self._close(group)
                group = _Group(key=key, index=index, suspect=damaged)
                damaged, index = False, index + 1
            self._add(group, suffix, item)
        if group:
            yield from self._close(group)

    def _add(self, group: _Group, suffix: str, item: Member | Damage) -> None:
        if isinstance(item, Damage):
            group.losses.append(Loss(key=group.key, member=item.name, offset=item.offset, reason=item.reason, detail=item.detail))
        elif suffix in group.members:
            group.losses.append(Loss(key=group.key, member=item.name, offset=item.offset, reason="duplicate", detail="the sample has this suffix twice"))
        else:
            group.members[suffix] = item

    def _close(self, group: _Group) -> Iterator[Sample]:
        suffixes = frozenset(group.members)
        if group.key in self._seen:
            self._lose(group, "duplicate", "its key came before: members of a sample lie together, and keys are unique in a shard")
        elif group.losses:
            self._lose(group, group.losses[0].reason, f"its sample lost {group.losses[0].member}")
        elif group.suspect and not (self._usual and self._usual <= suffixes):
            # A damaged stretch beside it may have held more of it, and only earlier samples tell what a whole one has.
            lacking = ", ".join(sorted(self._usual - suffixes)) or "an intact sample before it to compare with"
            self._lose(group, "missing_member", f"damage lies beside its sample, which lacks {lacking}")
        else:
            self._usual |= suffixes
            self.num_kept += len(group.members)
            members = {suffix: member.data for suffix, member in group.members.items() if member.data is not None}
            yield Sample(key=group.key, index=group.index, suffixes=suffixes, members=members)
        self._seen.add(group.key)

    def _lose(self, group: _Group, reason: str, detail: str) -> None:
        collateral = [Loss(key=group.key, member=m.name, offset=m.offset, reason=reason, detail=detail) for m in group.members.values()]
        self.losses += group.losses + collateral


def split_name(name: str) -> tuple[str, str]:
    """A member's name as (key, suffix), split at the first dot of the base name; ("", "") where it has no key or no suffix."""
    folder, base = posixpath.split(name.removeprefix("./"))
    stem, _, suffix = base.partition(".")
    return (posixpath.join(folder, stem), suffix.lower()) if stem and suffix else ("", "")


def facts_of(sample: Sample, shard: str) -> Facts:
    """What the sample's .json (or .cls and the shard's name) says of it (raises SampleError)."""
    value = _json_of(sample)
    label = value.get("label")
    if label is None and "cls" in sample.members:
        label = sample.members["cls"].decode("utf-8", "replace").strip()
    if label is None or label == "":
        raise SampleError("missing_member", f"{sample.key}.json with a label, or {sample.key}.cls, is not there")
    sample_id, split = value.get("sample_id", sample.key), value.get("split")
    for name, given in (("label", label), ("sample_id", sample_id)):
        if not isinstance(given, str | int) or isinstance(given, bool):
            raise SampleError("wrong_type", f"{sample.key}.json: {name} is {given!r}, neither text nor a whole number")
    if not isinstance(split, str | None):
        raise SampleError("wrong_type", f"{sample.key}.json: split is {split!r}, not text")
    if split is None and (match := _SPLIT_OF_NAME.match(posixpath.basename(shard))):
        split = {"val": "validation"}.get(match[1], match[1])
    return Facts(sample_id=str(sample_id), label=str(label), split=split)


def _json_of(sample: Sample) -> dict[str, object]:
    try:
        value = json.loads(sample.members.get("json", b"{}"))
    except (ValueError, RecursionError) as error:
        raise SampleError("undecodable", f"{sample.key}.json is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise SampleError("wrong_type", f"{sample.key}.json is not a JSON object")
    return value


@contextlib.contextmanager
def open_shard(place: Place) -> Iterator[BinaryIO]:
    """A shard for reading, buffered and seekable (raises MissingError, StoreError)."""
    try:
        with open(place.path, "rb", _BUFFER_BYTES) if place.local else io.BufferedReader(place.fs.open_input_file(place.path), _BUFFER_BYTES) as file:
            yield file
    except FileNotFoundError as error:
        raise MissingError(f"shard {place} does not exist", "give the shards that are there") from error
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"shard {place} cannot be read ({error})", "check that it is there and may be read") from error


def find_shards(patterns: Sequence[str | Place]) -> list[Place]:
    """The shards of files, folders (all *.tar in them) and globs, each once, in the order of their paths (raises InputError where a pattern has none)."""
    found: dict[str, Place] = {}
    for pattern in patterns:
        matches = _match(pattern)
        if not matches:
            raise InputError(f"no shards match {str(pattern)!r}", "give tar files, folders that hold *.tar, or quoted globs")
        found |= {str(place): place for place in matches}
    if not found:
        raise InputError("no shards match: none were given", "give tar files, folders that hold *.tar, or quoted globs")
    return [found[path] for path in sorted(found)]


def _match(pattern: str | Place) -> list[Place]:
    place = Place.at(pattern)
    kind = place.info().type
    if kind == pafs.FileType.File:
        return [place]
    if kind == pafs.FileType.Directory:
        return [entry for entry in place.list() if entry.name.endswith(".tar")]
    if place.local:
        return [Place.at(path) for path in glob.glob(place.path, recursive=True) if Path(path).is_file()]  # noqa: PTH207 - the pattern may be absolute
    return [entry for entry in place.parent.list() if fnmatch(entry.name, place.name)]


def shard_names(shards: Sequence[Place]) -> list[str]:
    """The shards' names in tables: their paths below the folder that all have in common, wherever that folder lies."""
    common = posixpath.commonpath([posixpath.dirname(place.path) for place in shards])
    return [posixpath.relpath(place.path, common) if common else place.path for place in shards]
