"""The original clips of samples: members of shards, found by seeking and read by ranges."""

import hashlib
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import pyarrow.fs as pafs
from pydantic import BaseModel, Field

from pipeline.errors import MissingError, StoreError
from pipeline.shards.decompress import GZIP, ZSTD
from pipeline.shards.discover import ShardFile
from pipeline.shards.seek_members import Place, SeekError, seek_samples
from pipeline.storage.store_path import MANIFEST, StorePath
from service.store.catalog import Catalog
from service.store.file_models import MAX_MANIFEST_BYTES
from service.store.reader import Artifact
from service.store.sample_history import sample_at

CONTENT_TYPES = {
    "mp4": "video/mp4",
    "m4v": "video/mp4",
    "mov": "video/quicktime",
    "mkv": "video/x-matroska",
    "webm": "video/webm",
    "ogv": "video/ogg",
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "m4a": "audio/mp4",
    "aac": "audio/aac",
    "ogg": "audio/ogg",
    "oga": "audio/ogg",
    "opus": "audio/ogg",
    "weba": "audio/webm",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "png": "image/png",
    "gif": "image/gif",
    "webp": "image/webp",
    "bmp": "image/bmp",
}
"""Media types by the last part of a member's suffix; other members are not offered."""
SUFFIX = r"^[a-z0-9][a-z0-9._-]{0,63}$"
MAX_MEMBERS, MAX_REMOTE_MEMBERS = 100_000, 10_000
"""Maximum number of members of a shard; each costs a request to an object store."""
MEMBER_BYTES, SAMPLE_BYTES = 160, 64
"""Approximate memory of the place of a member and of a sample's tuple."""
CHUNK_BYTES = 2**18


class SourceEntry(BaseModel):
    """`parts.source` of a manifest."""

    bytes: Annotated[int, Field(ge=0)]


class AccountEntry(BaseModel):
    """`parts.account` of a manifest."""

    members: Annotated[int, Field(ge=0)]


class ShardEntry(BaseModel):
    """An entry of `parts` of a manifest, as far as it describes the shard."""

    shard: str = ""
    source: SourceEntry | None = None
    account: AccountEntry | None = None


class SampleEntry(BaseModel):
    """`sample` of a manifest."""

    key_end: str = "first_dot"


class ShardManifest(BaseModel):
    """The entries of a manifest that describe the shards."""

    parts: list[ShardEntry]
    sample: SampleEntry = SampleEntry()


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A member of a shard that can be played, in this version of the shard."""

    place: Place
    content_type: str
    shard: Artifact
    name: str

    @property
    def digest(self) -> str:
        """Identifies the content: the version of the shard and the place in it, as hex."""
        return hashlib.sha256(repr((*self.shard.version, self.place)).encode()).hexdigest()[:32]

    def read(self, start: int, end: int) -> Generator[bytes]:
        """The bytes [start, end) in chunks of at most CHUNK_BYTES. Raises StoreError."""
        with _named(self.name), _open(self.shard, self.name) as file:
            while start < end:
                chunk = file.read_at(self.place.offset + start, min(CHUNK_BYTES, end - start))
                if not chunk:
                    raise StoreError(f"{self.name!r} ends early")
                yield chunk
                start += len(chunk)


class MediaFiles:
    """Finds the members of the samples of a feature set in its shards.

    Args:
        catalog: the store.
        shards: folder that contains the shards; None if they are not offered.
        name: the feature set.
    Raises:
        MissingError: they are not offered, or the feature set does not exist.
    """

    def __init__(self, catalog: Catalog, shards: StorePath | None, name: str) -> None:
        if shards is None:
            raise MissingError(
                "Original clips are not offered", "Set REMIX_MEDIA=1 and REMIX_SHARDS"
            )
        self._catalog, self._shards, self._name = catalog, shards, name
        self._samples, _ = catalog.samples(name)

    def members(self, row: int) -> list[MediaFile]:
        """The playable members of a row. Raises MissingError, DataError, StoreError."""
        sample = sample_at(self._samples, self._name, row)
        name = sample["shard"]
        with _named(name):
            shard, samples = self._index(name)
        if not 0 <= sample["index_in_shard"] < len(samples):
            raise _differs(name, f"it has {len(samples)} samples")
        return [
            MediaFile(place, content_type, shard, name)
            for place in samples[sample["index_in_shard"]]
            if re.fullmatch(SUFFIX, place.suffix)
            and (content_type := CONTENT_TYPES.get(place.suffix.rpartition(".")[2]))
        ]

    def member(self, row: int, suffix: str) -> MediaFile:
        """A playable member of a row. Raises MissingError, DataError, StoreError."""
        members = self.members(row)
        for member in members:
            if member.place.suffix == suffix:
                return member
        offered = ", ".join(member.place.suffix for member in members[:16]) or "nothing"
        raise MissingError(
            f"Sample of row {row} has no playable member {suffix!r}", f"It offers {offered}"
        )

    def _index(self, name: str) -> tuple[Artifact, list[tuple[Place, ...]]]:
        """A shard, and the places of the members of its samples."""
        reader = self._catalog.reader
        artifact = reader.artifact("features", self._name, MANIFEST)
        manifest = reader.json(artifact, ShardManifest, MAX_MANIFEST_BYTES)
        entry = next((part for part in manifest.parts if part.shard == name), ShardEntry())
        path = self._shards / name
        if not name or name.startswith("/") or ".." in name.split("/"):
            raise MissingError(f"Not the name of a shard: {name!r}", "Decode again")
        info = path.info()
        if info.type != pafs.FileType.File:
            raise _missing(name)
        if entry.source and entry.source.bytes != info.size:
            raise _differs(name, f"it has {info.size:,} bytes, not {entry.source.bytes:,}")
        shard = Artifact(path=path, info=info)
        key_end = manifest.sample.key_end
        samples, num_members = reader.cached(
            shard, f"samples {key_end}", lambda: _scan(shard, name, key_end), _size_of
        )
        if entry.account and entry.account.members != num_members:
            raise _differs(name, f"it has {num_members} members, not {entry.account.members}")
        return shard, samples


def _open(shard: Artifact, name: str) -> ShardFile:
    try:
        return ShardFile(shard.path, seeks=True)
    except MissingError as error:  # deleted since it was looked up; the text has the path
        raise _missing(name) from error


def _missing(name: str) -> MissingError:
    return MissingError(
        f"Shard not found: {name!r}",
        "Restart the service with the folder that contains it as REMIX_SHARDS",
    )


def _scan(shard: Artifact, name: str, key_end: str) -> tuple[list[tuple[Place, ...]], int]:
    with _open(shard, name) as file:
        if file.read_at(0, len(ZSTD)).startswith((GZIP, ZSTD)):
            raise MissingError(
                f"Shard is compressed: {name!r}; its members cannot be read by ranges",
                "Decompress it and decode again",
            )
        try:
            maximum = MAX_MEMBERS if shard.path.local else MAX_REMOTE_MEMBERS
            return seek_samples(file, shard.info.size, key_end, maximum)
        except SeekError as error:
            raise MissingError(
                f"Members of shard {name!r} cannot be found by seeking: {error}",
                "Write the shard again and decode it",
            ) from error


def _size_of(index: tuple[list[tuple[Place, ...]], int]) -> int:
    return SAMPLE_BYTES * len(index[0]) + MEMBER_BYTES * index[1]


def _differs(name: str, how: str) -> MissingError:
    return MissingError(
        f"Shard {name!r} is not the one that was decoded: {how}",
        "Restart the service with the folder of the decoded shards as REMIX_SHARDS",
    )


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Convert StoreError, whose text has the path, to one that names the shard."""
    try:
        yield
    except StoreError as error:
        raise StoreError(
            f"Shard {name!r} cannot be read", "Check that the service has access to REMIX_SHARDS"
        ) from error
