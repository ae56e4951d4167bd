"""Samples that are found by seeking have the indices of the reader, and their content."""

import tarfile
from pathlib import Path

import pytest

from pipeline.shards.discover import ShardFile
from pipeline.shards.reader import ShardReader
from pipeline.shards.samples import Sample
from pipeline.shards.seek_members import SeekError, seek_samples
from pipeline.storage.store_path import StorePath
from tests.support.media_files import make_tar

MEMBERS = [
    (".git/config.mp4", b"junk"),
    ("a.json", b"{}"),
    ("a.mp4", b"film" * 300),
    ("notes.pdf", b"a stray counts as a sample"),
    ("README", b"junk"),
    ("deep/" * 30 + "b.json", b"{}"),
    ("deep/" * 30 + "b.wav", b"sound"),
]


@pytest.mark.parametrize("fmt", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_places_are_those_of_the_readers_samples(tmp_path: Path, fmt: int) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(data := make_tar(MEMBERS, fmt))
    with ShardFile(StorePath.at(path), seeks=True) as file:
        samples, num = seek_samples(file, len(data), "first_dot", 100)
    with path.open("rb") as opened:
        reader = ShardReader(opened)
        read = [item for item in reader if isinstance(item, Sample)]
    assert num == reader.accounting.members == len(MEMBERS)
    assert [sample.index for sample in read] == [0, 2]
    assert len(samples) == 3
    for sample in read:
        found = {
            place.suffix: data[place.offset : place.offset + place.num_bytes]
            for place in samples[sample.index]
        }
        assert found == sample.members


def test_the_number_of_members_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(data := make_tar(MEMBERS))
    with (
        ShardFile(StorePath.at(path), seeks=True) as file,
        pytest.raises(SeekError, match="than 6"),
    ):
        seek_samples(file, len(data), "first_dot", 6)
