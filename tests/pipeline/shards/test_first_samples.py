"""The first samples of a shard are those of the reader, and media are not read."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from pipeline.shards.first_samples import first_samples
from pipeline.shards.samples import Sample
from pipeline.shards.source import SMALL, size_warning
from pipeline.storage.store_path import StorePath
from tests.support.media_files import make_tar

METADATA = frozenset({"json", "cls"})
MEMBERS = [
    (f"{key}.{suffix}", key.encode() + data)
    for key in ("a", "b", "c")
    for suffix, data in (("json", b"{}"), ("mp4", bytes(3000)), ("pkl", b"no"))
]


def read(
    path: Path, data: bytes, num: int = 2
) -> tuple[dict[str, tuple[set[str], set[str]]], bool]:
    """Suffixes and loaded suffixes of each sample, by key, and whether these are all samples."""
    path.write_bytes(data)
    first = first_samples(
        StorePath.at(path), num, metadata=METADATA, load=lambda suffix: suffix in METADATA
    )
    samples = [item for item in first.items if isinstance(item, Sample)]
    return {each.key: ({*each.suffixes}, {*each.members}) for each in samples}, first.complete


EXPECTED = {key: ({"json", "mp4"}, {"json"}) for key in ("a", "b", "c")}


def pax(members: list[tuple[str, bytes]]) -> bytes:
    """A tar in which each member has an extension header."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 0.5
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        make_tar(MEMBERS),
        pax(MEMBERS),
        gzip.compress(make_tar(MEMBERS)),
        make_tar([("__MACOSX/._a.mp4", b"mac"), *MEMBERS]),
        make_tar(sorted(MEMBERS, key=lambda member: member[0][1:])),
    ],
    ids=["plain", "pax", "gzip", "junk", "not contiguous"],
)
def test_first_samples_have_their_suffixes_and_metadata(tmp_path: Path, data: bytes) -> None:
    assert read(tmp_path / "x.tar", data, 3) == (EXPECTED, True)
    first_two, complete = read(tmp_path / "x.tar", data)
    assert (list(first_two), complete) == (["a", "b"], False)


def test_a_damaged_shard_is_read_from_its_start(tmp_path: Path) -> None:
    data = make_tar(MEMBERS)
    samples, complete = read(tmp_path / "x.tar", b"garbage" * 100 + data, 10)
    assert (samples, complete) == (EXPECTED, True)
    cut = data[: data.index(b"c.mp4") + 900]
    assert read(tmp_path / "x.tar", cut, 3)[0] == {key: EXPECTED[key] for key in ("a", "b")}


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([100] * 1000, None),  # fits into one shard
        ([SMALL] * 200, None),
        ([SMALL] * 200 + [1, 2], None),  # the last shard of a split may be small
        ([SMALL - 1] * 200, ["200 of 200", "smaller than 50 MB"]),
        ([SMALL] * 200 + [5 * 10**9 + 1], ["1 of 201", "larger than 5 GB"]),
    ],
)
def test_shards_that_are_too_small_or_too_large(sizes: list[int], words: list[str] | None) -> None:
    warning = size_warning(sizes)
    assert (warning is None) == (words is None)
    assert all(word in str(warning) for word in words or [])
