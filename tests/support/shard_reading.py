"""A small shard, the offsets of its members, and a reader with checks."""

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
        return [member for sample in self.lost for member in sample.damaged]

    @property
    def rejected(self) -> list[tuple[str, str]]:
        return [(sample.key, sample.reason) for sample in self.lost]


def read(data: bytes, **options: object) -> Read:
    """Read a shard, twice if its samples are not contiguous, and check the accounting."""
    non_contiguous: dict[str, int] = {}
    for _ in range(2):
        reader = ShardReader(io.BytesIO(data), non_contiguous=non_contiguous, **options)
        items = list(reader)
        if not reader.non_contiguous:
            break
        non_contiguous = reader.non_contiguous
    samples = [item for item in items if isinstance(item, Sample)]
    assert len({sample.key for sample in samples}) == len(samples)
    result = Read(
        {sample.key: sample.members for sample in samples},
        [item for item in items if isinstance(item, RejectedSample)],
        reader,
    )
    accounting = reader.accounting
    assert accounting.members == accounting.kept + accounting.lost + accounting.ignored
    assert accounting.bytes == sum(
        getattr(accounting, f"bytes_{name}") for name in ("kept", "lost", "ignored", "framing")
    )
    assert (accounting.samples, accounting.samples_lost) == (len(samples), len(result.lost))
    assert (accounting.kept, accounting.lost) == (
        sum(len(sample.suffixes) for sample in samples),
        len(result.losses),
    )
    assert accounting.ignored == len(reader.strays) + sum(len(sample.ignored) for sample in samples)
    assert {item.reason for item in [*result.losses, *result.lost]} <= set(REASONS)
    return result


def offsets() -> dict[str, int]:
    with tarfile.open(fileobj=io.BytesIO(TAR)) as tar:
        return {member.name: member.offset for member in tar}


END = max(
    offset + 512 + -(-len(dict(MEMBERS)[name]) // 512) * 512 for name, offset in offsets().items()
)
"""The end of the last member; zero blocks follow."""


def overwritten(at: int, new: bytes) -> bytes:
    return TAR[:at] + new + TAR[at + len(new) :]


def gz(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


def zst(data: bytes) -> bytes:
    return b"".join(
        pa.compress(data[at : at + 4096], codec="zstd", asbytes=True)
        for at in range(0, len(data), 4096)
    )
