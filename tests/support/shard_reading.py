"""A small shard, where its members lie, and all that the reader says of bytes."""

import gzip
import io
import tarfile
from typing import NamedTuple

import pyarrow as pa

from pipeline.errors import REASONS
from pipeline.shards.reader import ShardReader
from pipeline.shards.samples import DamagedMember, RejectedSample, Sample
from tests.support.media_files import make_tar

NUM = 8
MEMBERS = [
    (f"s{i:03d}.{suffix}", bytes([i]) * size)
    for i in range(NUM)
    for suffix, size in (("json", 30), ("mp4", 700 + 300 * i))
]
TAR = make_tar(MEMBERS)
ORIGINAL = {
    f"s{i:03d}": {"json": bytes([i]) * 30, "mp4": bytes([i]) * (700 + 300 * i)} for i in range(NUM)
}


class Read(NamedTuple):
    samples: dict[str, dict[str, bytes]]
    lost: list[RejectedSample]
    reader: ShardReader

    @property
    def losses(self) -> list[DamagedMember]:
        return [loss for lost in self.lost for loss in lost.damaged]

    @property
    def rejected(self) -> list[tuple[str, str]]:
        return [(lost.key, lost.reason) for lost in self.lost]


def read(data: bytes, **options: object) -> Read:
    """Reads a shard, a second time where samples lie apart, and checks its account."""
    torn: dict[str, int] = {}
    for _ in range(2):
        reader = ShardReader(io.BytesIO(data), non_contiguous=torn, **options)
        items = list(reader)
        if not reader.non_contiguous:
            break
        torn = reader.non_contiguous
    samples = [item for item in items if isinstance(item, Sample)]
    assert len({sample.key for sample in samples}) == len(samples)
    found = Read(
        {sample.key: sample.members for sample in samples},
        [item for item in items if isinstance(item, RejectedSample)],
        reader,
    )
    account = reader.accounting
    assert account.members == account.kept + account.lost + account.ignored
    assert (
        account.bytes
        == account.bytes_kept + account.bytes_lost + account.bytes_ignored + account.bytes_framing
    )
    assert (account.samples, account.samples_lost) == (len(samples), len(found.lost))
    assert (account.kept, account.lost) == (
        sum(len(sample.suffixes) for sample in samples),
        len(found.losses),
    )
    assert account.ignored == sum(len(sample.ignored) for sample in samples)
    assert {loss.reason for loss in found.losses} | {lost.reason for lost in found.lost} <= set(
        REASONS
    )
    return found


def offsets() -> dict[str, int]:
    with tarfile.open(fileobj=io.BytesIO(TAR)) as tar:
        return {member.name: member.offset for member in tar}


END = max(
    offset + 512 + -(-len(dict(MEMBERS)[name]) // 512) * 512 for name, offset in offsets().items()
)
"""Of the members; the blocks of zeros come behind."""


def overwritten(at: int, new: bytes) -> bytes:
    return TAR[:at] + new + TAR[at + len(new) :]


def gz(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


def zst(data: bytes) -> bytes:
    return b"".join(
        pa.compress(data[at : at + 4096], codec="zstd", asbytes=True)
        for at in range(0, len(data), 4096)
    )
