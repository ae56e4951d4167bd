"""The shard reader returns every readable sample of plain and compressed shards."""

import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError, SampleError
from pipeline.shards.discover import discover_shards, shard_names
from pipeline.shards.limits import Limits
from pipeline.shards.member_suffixes import TEXT
from pipeline.shards.sample_metadata import parse_metadata
from pipeline.shards.sample_rules import SampleRules
from pipeline.shards.samples import Sample
from pipeline.storage.store_path import StorePath
from tests.support.media_files import make_tar
from tests.support.shard_reading import (
    END,
    MEMBERS,
    NUM,
    ORIGINAL,
    TAR,
    gz,
    offsets,
    overwritten,
    read,
    zst,
)


@pytest.mark.parametrize("fmt", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("name", ["a", "folder/" + "y" * 80, "ünïcode/" + "z" * 60])
def test_reads_every_tar_format(fmt: int, name: str) -> None:
    result = read(make_tar({f"{name}.json": b"{}", f"{name}.audio.OGG": b"abc"}, fmt))
    assert result.samples == {name: {"json": b"{}", "audio.ogg": b"abc"}}
    assert result.lost == []


@pytest.mark.parametrize("fmt", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_reads_names_longer_than_ustar_allows(fmt: int) -> None:
    name = "deep/" * 60 + "k" * 120
    assert read(make_tar({f"{name}.npy": b"1"}, fmt)).samples == {name: {"npy": b"1"}}


def test_reads_size_from_pax() -> None:
    info = tarfile.TarInfo("a.npy")
    info.size, info.pax_headers = 0, {"size": "600"}
    data = info.tobuf(tarfile.PAX_FORMAT) + b"q" * 600 + bytes(424) + bytes(1024)
    assert read(data).samples == {"a": {"npy": b"q" * 600}}


@pytest.mark.parametrize("kind", [b"g", b"K"])
def test_an_extension_header_without_records_of_the_member_is_counted_with_it(kind: bytes) -> None:
    info = tarfile.TarInfo("pax_global_header")
    info.type, info.size = kind, 20
    for at in (0, offsets()["s003.mp4"], offsets()[f"s{NUM - 1:03d}.mp4"]):
        result = read(
            TAR[:at]
            + info.tobuf(tarfile.USTAR_FORMAT)
            + b"20 comment=made by\n".ljust(512, b"\0")
            + TAR[at:]
        )
        assert result.samples == ORIGINAL
        assert result.lost == []
        assert result.reader.accounting.bytes_kept == END + 1024


def test_scan_loads_text_only_and_agrees_on_the_digest() -> None:
    full, text = read(TAR), read(TAR, load=TEXT.__contains__)
    assert text.samples == {key: {"json": members["json"]} for key, members in full.samples.items()}
    assert text.reader.digest == full.reader.digest
    assert (
        read(overwritten(offsets()["s003.mp4"] + 512 + 40, b"!")).reader.digest
        != full.reader.digest
    )
    assert read(TAR[:END]).reader.digest != full.reader.digest


def test_members_with_their_time_in_an_extension_header() -> None:
    """As webdataset writes them: damage costs one sample, and the others are intact."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, member in MEMBERS:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(member), 1763930000.123456
            tar.addfile(info, io.BytesIO(member))
    data = file.getvalue()
    result = read(data)
    assert (result.samples, result.lost, result.reader.accounting.bytes_kept) == (
        ORIGINAL,
        [],
        END + 1024 * len(MEMBERS),
    )
    # neither the first member, whose data is zeros, nor the last, which zeros follow
    for at in range(5 * 512 + 4096, result.reader.accounting.bytes_kept - 8 * 512, 512):
        over = read(data[:at] + b"\xff" * 512 + data[at + 512 :])
        assert sum(members == ORIGINAL[key] for key, members in over.samples.items()) >= NUM - 1
        assert over.lost or over.samples.keys() == ORIGINAL.keys()
        for moved in (data[:at] + data[at + 512 :], data[:at] + b"\xff" * 99 + data[at:]):
            result = read(moved)
            assert len(result.samples) >= NUM - 1
            assert result.samples.items() <= ORIGINAL.items()
            assert result.lost


def test_samples_that_are_not_contiguous_are_joined() -> None:
    by_suffix = sorted(MEMBERS, key=lambda member: member[0].rpartition(".")[2])
    for order in (
        MEMBERS[::2] + MEMBERS[1::2],
        MEMBERS[1::2] + MEMBERS[::2][::-1],
        by_suffix,
        MEMBERS[1:] + MEMBERS[:1],
    ):
        result = read(make_tar(order))
        assert result.samples == ORIGINAL
        assert result.lost == []
        assert 1 <= result.reader.accounting.regrouped <= NUM
    crowded = read(make_tar(by_suffix), limits=Limits(sample_bytes=9000))
    assert crowded.samples.items() < ORIGINAL.items()
    assert set(crowded.rejected) == {
        (key, "oversize") for key in ORIGINAL.keys() - crowded.samples.keys()
    }


@pytest.mark.parametrize("pack", [gz, zst])
class TestPacked:
    def test_intact(self, pack: Callable[[bytes], bytes]) -> None:
        result = read(pack(TAR))
        assert result.samples == ORIGINAL
        assert result.lost == []
        assert result.reader.digest == read(TAR).reader.digest
        assert read(pack(TAR[:5000]) + pack(TAR[5000:])).samples == ORIGINAL

    def test_cut(self, pack: Callable[[bytes], bytes]) -> None:
        rng = np.random.default_rng(0)
        members = [
            (name, rng.integers(0, 256, len(data), np.uint8).tobytes()) for name, data in MEMBERS
        ]
        packed = pack(make_tar(members))
        kept = []
        for cut in range(5, len(packed), 977):
            result = read(packed[:cut])
            kept.append(len(result.samples))
            for key, suffixes in result.samples.items():
                assert suffixes == {
                    name.partition(".")[2]: data for name, data in members if name.startswith(key)
                }
            assert {loss.reason for loss in result.losses} <= {"truncated", "missing_member"}
            assert ("", "truncated") in {(loss.key, loss.reason) for loss in result.losses}
        assert kept == sorted(kept)
        assert NUM - 1 in kept

    def test_bomb(self, pack: Callable[[bytes], bytes]) -> None:
        result = read(pack(TAR + bytes(2**24)), limits=Limits(shard_bytes=2**20))
        assert result.samples == ORIGINAL
        assert [loss.reason for loss in result.losses] == ["oversize"]
        assert result.reader.accounting.bytes == 2**20


def sample(members: dict[str, bytes]) -> Sample:
    return Sample(key="k", index=0, suffixes=frozenset(members), members=members)


@pytest.mark.parametrize(
    ("members", "shard", "expected"),
    [
        ({"json": b'{"label": 3, "split": "test"}'}, "train-0.tar", ("k", "3", "test")),
        (
            {"json": b'{"label": "a", "sample_id": "id"}'},
            "x/val-000.tar",
            ("id", "a", "validation"),
        ),
        ({"cls": b" 7\n"}, "train_0.tar", ("k", "7", "train")),
        ({"cls": b"7"}, "trainer.tar", ("k", "7", None)),
    ],
)
def test_metadata_of_a_sample(
    members: dict[str, bytes], shard: str, expected: tuple[str, str, str | None]
) -> None:
    metadata = parse_metadata(sample({**members, "npy": b""}), shard, SampleRules())
    assert metadata
    assert (metadata.sample_id, metadata.label, metadata.split) == expected


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"json": b"{"}, "undecodable"),
        ({"json": b'{"label": "\\ud800"}'}, "undecodable"),
        ({"json": b"[]"}, "wrong_type"),
        ({"json": b"{}"}, "missing_member"),
        ({"json": b'{"label": 1.5}'}, "wrong_type"),
        ({}, "missing_member"),
    ],
)
def test_invalid_metadata_rejects_the_sample(members: dict[str, bytes], reason: str) -> None:
    with pytest.raises(SampleError) as caught:
        parse_metadata(sample({**members, "npy": b""}), "train-0.tar", SampleRules())
    assert caught.value.reason == reason


def test_shards_are_discovered_by_folder_glob_and_path(tmp_path: Path) -> None:
    for name in ("b/2.tar", "b/1.tar", "a/3.tar", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(TAR)
    result = discover_shards(
        [str(tmp_path / "b"), str(tmp_path / "*" / "*.tar"), StorePath.at(tmp_path / "a/3.tar")]
    )
    assert [Path(path.path).relative_to(tmp_path).as_posix() for path in result] == [
        "a/3.tar",
        "b/1.tar",
        "b/2.tar",
    ]
    assert shard_names(result) == ["a/3.tar", "b/1.tar", "b/2.tar"]
    assert shard_names(result[1:]) == ["1.tar", "2.tar"]
    for missing in (str(tmp_path / "nothing-*.tar"), str(tmp_path / "c"), str(tmp_path / "c.tar")):
        with pytest.raises(InputError, match=re.escape(missing)) as caught:
            discover_shards([missing])
        assert caught.value.exit_code == 2
    with pytest.raises(InputError):
        discover_shards([])
