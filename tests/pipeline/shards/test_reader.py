"""Shards: every readable sample is kept, every loss is named, and the account balances."""

import gzip
import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Limits
from pipeline.errors import REASONS, InputError, SampleError
from pipeline.shards.discover import find_shards, shard_names
from pipeline.shards.reader import Loss, Lost, Sample, ShardReader, only_text
from pipeline.shards.sample_metadata import facts_of
from pipeline.storage.store_path import Place
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
    lost: list[Lost]
    reader: ShardReader

    @property
    def losses(self) -> list[Loss]:
        return [loss for lost in self.lost for loss in lost.losses]

    @property
    def rejected(self) -> list[tuple[str, str]]:
        return [(lost.key, lost.reason) for lost in self.lost]


def read(data: bytes, **options: object) -> Read:
    """Reads a shard, a second time where samples lie apart, and checks its account."""
    torn: dict[str, int] = {}
    for _ in range(2):
        reader = ShardReader(io.BytesIO(data), torn=torn, **options)
        items = list(reader)
        if not reader.apart:
            break
        torn = reader.apart
    samples = [item for item in items if isinstance(item, Sample)]
    assert len({sample.key for sample in samples}) == len(samples)
    found = Read(
        {sample.key: sample.members for sample in samples},
        [item for item in items if isinstance(item, Lost)],
        reader,
    )
    account = reader.account
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


@pytest.mark.parametrize("fmt", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("name", ["a", "x" * 90, "folder/" + "y" * 80, "ünïcode/" + "z" * 60])
def test_reads_every_tar_format(fmt: int, name: str) -> None:
    found = read(make_tar({f"{name}.json": b"{}", f"{name}.audio.OGG": b"abc"}, fmt))
    assert found.samples == {name: {"json": b"{}", "audio.ogg": b"abc"}}
    assert found.lost == []


@pytest.mark.parametrize("fmt", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_reads_names_longer_than_ustar_holds(fmt: int) -> None:
    name = "deep/" * 60 + "k" * 120
    assert read(make_tar({f"{name}.npy": b"1"}, fmt)).samples == {name: {"npy": b"1"}}


def test_reads_size_from_pax() -> None:
    info = tarfile.TarInfo("a.npy")
    info.size, info.pax_headers = 0, {"size": "600"}
    data = info.tobuf(tarfile.PAX_FORMAT) + b"q" * 600 + bytes(424) + bytes(1024)
    assert read(data).samples == {"a": {"npy": b"q" * 600}}


@pytest.mark.parametrize("kind", [b"g", b"K"])
def test_an_extension_header_that_says_nothing_of_the_member_is_part_of_it(kind: bytes) -> None:
    info = tarfile.TarInfo("pax_global_header")
    info.type, info.size = kind, 20
    for at in (0, offsets()["s003.mp4"], offsets()[f"s{NUM - 1:03d}.mp4"]):
        found = read(
            TAR[:at]
            + info.tobuf(tarfile.USTAR_FORMAT)
            + b"20 comment=made by\n".ljust(512, b"\0")
            + TAR[at:]
        )
        assert found.samples == ORIGINAL
        assert found.lost == []
        assert found.reader.account.bytes_kept == END + 1024


def test_intact_shard() -> None:
    found = read(TAR)
    account = found.reader.account
    assert found.samples == ORIGINAL
    assert (account.members, account.kept, account.lost, account.bytes) == (
        2 * NUM,
        2 * NUM,
        0,
        len(TAR),
    )
    assert account.bytes_kept == END


def test_scan_loads_text_only_and_agrees_on_the_digest() -> None:
    whole, text = read(TAR), read(TAR, load=only_text)
    assert text.samples == {
        key: {"json": members["json"]} for key, members in whole.samples.items()
    }
    assert text.reader.digest == whole.reader.digest
    assert (
        read(overwritten(offsets()["s003.mp4"] + 512 + 40, b"!")).reader.digest
        != whole.reader.digest
    )
    assert read(TAR[:END]).reader.digest != whole.reader.digest


@pytest.mark.parametrize("cut", range(1, len(TAR) - 10_240 + 1536, 173))
def test_a_cut_shard_keeps_what_lies_before(cut: int) -> None:
    found = read(TAR[:cut])
    starts = offsets()
    last = {f"s{i:03d}": starts[f"s{i:03d}.mp4"] + 512 + 700 + 300 * i for i in range(NUM)}
    assert found.samples == {key: ORIGINAL[key] for key, end in last.items() if end <= cut}
    assert "truncated" in {loss.reason for loss in found.losses}
    for key in starts:
        if starts[key] + 512 < cut and key.split(".")[0] not in found.samples:
            assert key in {loss.member for loss in found.losses}


def test_a_bad_header_costs_its_sample_only() -> None:
    at = offsets()["s003.mp4"]
    found = read(overwritten(at + 150, b"9"))
    assert found.samples == {key: members for key, members in ORIGINAL.items() if key != "s003"}
    assert {(loss.key, loss.member) for loss in found.losses} == {
        ("s003", "s003.mp4"),
        ("s003", "s003.json"),
    }
    assert found.rejected == [("s003", "missing_member")]
    assert str(at) in found.lost[0].error


@pytest.mark.parametrize("number", range(NUM))
@pytest.mark.parametrize("suffix", ["json", "mp4"])
def test_an_unreadable_header_costs_one_sample_wherever_it_lies(number: int, suffix: str) -> None:
    key = f"s{number:03d}"
    found = read(overwritten(offsets()[f"{key}.{suffix}"], b"\xff" * 512))
    assert found.samples == {other: members for other, members in ORIGINAL.items() if other != key}
    assert {loss.reason for loss in found.losses} == {"bad_header", "missing_member"}


@pytest.mark.parametrize(
    "filling", [b"\x7f" * 1024, bytes(512), b"\x7f" * 700, b"\x00" * 100, b"-"]
)
@pytest.mark.parametrize("number", [0, 4, NUM - 1])
def test_what_lies_between_members_costs_nothing_else(filling: bytes, number: int) -> None:
    for suffix in ("json", "mp4"):
        at = offsets()[f"s{number:03d}.{suffix}"]
        found = read(TAR[:at] + filling + TAR[at:])
        assert found.samples == ORIGINAL
        assert [(loss.reason, loss.offset) for loss in found.losses] == [("bad_header", at)]
        assert found.reader.account.bytes_lost == len(filling)


@pytest.mark.parametrize("gone", [1, 512, 700, 3000])
def test_bytes_that_are_missing_cost_the_samples_that_they_were_of(gone: int) -> None:
    at = offsets()["s005.mp4"] + 600
    found = read(TAR[:at] + TAR[at + gone :])
    assert {"s005"} <= ORIGINAL.keys() - found.samples.keys() <= {"s005", "s006"}
    assert all(ORIGINAL[key] == members for key, members in found.samples.items())
    assert ORIGINAL.keys() - found.samples.keys() <= {lost.key for lost in found.lost}


def test_archives_one_after_the_other_are_one_shard() -> None:
    found = read(TAR + make_tar({"t.json": b"1", "t.mp4": b"2"}))
    assert set(found.samples) == {*ORIGINAL, "t"}
    assert found.lost == []
    again = read(TAR + TAR)
    assert again.samples == ORIGINAL
    assert again.rejected == [(key, "duplicate") for key in ORIGINAL]


def test_missing_end_is_named_though_all_samples_are_there() -> None:
    found = read(TAR[:END])
    assert found.samples == ORIGINAL
    assert [(loss.reason, loss.offset) for loss in found.losses] == [("truncated", END)]


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        (tarfile.SYMTYPE, "a.mp4", "wrong_type"),
        (tarfile.LNKTYPE, "a.mp4", "wrong_type"),
        (tarfile.CHRTYPE, "a.mp4", "wrong_type"),
        (tarfile.REGTYPE, "/etc/a.mp4", "bad_header"),
        (tarfile.REGTYPE, "x/../a.mp4", "bad_header"),
    ],
)
def test_special_entries_and_unsafe_names_are_refused(kind: bytes, name: str, reason: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    found = read(info.tobuf(tarfile.USTAR_FORMAT) + TAR)
    assert found.samples == ORIGINAL
    assert [(loss.member, loss.reason) for loss in found.losses] == [(name, reason)]


def test_a_member_over_the_cap_is_a_loss_of_its_sample() -> None:
    found = read(TAR, limits=Limits(member_bytes=2600))
    assert set(found.samples) == {f"s{i:03d}" for i in range(7)}
    assert {(loss.member, loss.reason) for loss in found.losses} == {
        ("s007.mp4", "oversize"),
        ("s007.json", "oversize"),
    }


def test_a_sample_over_the_cap_is_lost() -> None:
    found = read(TAR, limits=Limits(sample_bytes=4200))
    assert found.rejected == [("s007", "oversize")]


@pytest.mark.parametrize("size", [2**33, 2**63, 60_000, 20_000, 5120])
def test_a_size_that_is_too_large_does_not_swallow_the_rest(size: int) -> None:
    at = offsets()["s004.json"]
    info = tarfile.TarInfo("lie.mp4")
    info.size = size
    found = read(TAR[:at] + info.tobuf(tarfile.GNU_FORMAT) + TAR[at:])
    assert found.samples == ORIGINAL
    assert [(loss.member, loss.reason) for loss in found.losses] == [("lie.mp4", "truncated")]


@pytest.mark.parametrize("size", [100, 700, 1899])
def test_a_member_whose_size_is_too_small_is_not_taken_for_whole(size: int) -> None:
    at = offsets()["s004.mp4"]
    info = tarfile.TarInfo("s004.mp4")
    info.size = size
    found = read(TAR[:at] + info.tobuf(tarfile.USTAR_FORMAT) + TAR[at + 512 :])
    if size == 1899:  # within the last block nothing tells
        assert found.lost == []
        return
    assert found.samples == {key: members for key, members in ORIGINAL.items() if key != "s004"}
    assert [(loss.member, loss.reason) for loss in found.losses] == [
        ("s004.json", "truncated"),
        ("s004.mp4", "truncated"),
        ("", "bad_header"),
    ]


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"5"])
def test_a_size_beyond_all_numbers_is_told(kind: bytes) -> None:
    block = bytearray(tarfile.TarInfo("lie.mp4").tobuf(tarfile.USTAR_FORMAT))
    block[124:136], block[156:157] = b"\x80\x7f" + bytes(10), kind
    block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    at = offsets()["s002.json"]
    found = read(TAR[:at] + bytes(block) + TAR[at:])
    assert found.samples.items() <= ORIGINAL.items()
    assert ORIGINAL.keys() - found.samples.keys() <= {"s002"} & {loss.key for loss in found.losses}
    assert at in {loss.offset for loss in found.losses}


def test_what_a_sample_lacks_is_told_once() -> None:
    members = [make_tar({name: b"1"})[:1024] for name in ("a.mp4", "b.json", "b.mp4")]
    found = read(b"\xff" * 512 + members[0] + b"\xff" * 512 + members[1] + members[2] + bytes(1024))
    assert found.samples.keys() == {"b"}
    assert [lost.error for lost in found.lost if lost.key == "a"] == [
        "a.mp4 at byte 512: damage lies beside its sample, which lacks json"
    ]


def test_a_negative_size_is_a_bad_header() -> None:
    block = bytearray(tarfile.TarInfo("a.mp4").tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = b"\xff" * 12
    block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    at = offsets()["s002.json"]
    found = read(TAR[:at] + bytes(block) + TAR[at:])
    assert found.samples == ORIGINAL
    assert [(loss.reason, loss.offset) for loss in found.losses] == [("bad_header", at)]


@pytest.mark.parametrize("fmt", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_damaged_long_name_names_no_other_sample(fmt: int) -> None:
    names = [f"{'long/' * 40}{i}.{suffix}" for i in range(4) for suffix in ("json", "mp4")]
    data = make_tar(dict.fromkeys(names, b"x" * 600), fmt)
    for at in range(0, len(data) - 10_240, 512):
        broken = data[:at] + b"\xff" * 512 + data[at + 512 :]
        found = read(broken)
        assert found.samples.keys() <= {name.rpartition(".")[0] for name in names}
        assert len(found.samples) >= 3
        assert found.samples.keys() == read(data).samples.keys() or found.lost


@pytest.mark.parametrize("mtime", [1.5, 1763930000.123456])
def test_members_with_their_time_in_an_extension_header(mtime: float) -> None:
    """As webdataset writes them: what is damaged costs one sample, and the others have their very bytes."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, member in MEMBERS:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(member), mtime
            tar.addfile(info, io.BytesIO(member))
    data = file.getvalue()
    found = read(data)
    assert (found.samples, found.lost, found.reader.account.bytes_kept) == (
        ORIGINAL,
        [],
        END + 1024 * len(MEMBERS),
    )
    # not the first, whose data are zeros, nor the last, behind which there are zeros
    for at in range(5 * 512 + 4096, found.reader.account.bytes_kept - 8 * 512, 512):
        over = read(data[:at] + b"\xff" * 512 + data[at + 512 :])
        assert sum(members == ORIGINAL[key] for key, members in over.samples.items()) >= NUM - 1
        assert over.lost or over.samples.keys() == ORIGINAL.keys()
        for moved in (data[:at] + data[at + 512 :], data[:at] + b"\xff" * 99 + data[at:]):
            found = read(moved)
            assert len(found.samples) >= NUM - 1
            assert found.samples.items() <= ORIGINAL.items()
            assert found.lost


def test_duplicates_are_named() -> None:
    found = read(
        make_tar(
            [
                ("a.json", b"1"),
                ("a.mp4", b"2"),
                ("b.json", b"3"),
                ("b.json", b"4"),
                ("a.json", b"5"),
                ("c.json", b"6"),
            ]
        )
    )
    assert found.samples == {"a": {"json": b"1", "mp4": b"2"}, "c": {"json": b"6"}}
    assert sorted((loss.member, loss.reason) for loss in found.losses) == [
        ("a.json", "duplicate"),
        ("b.json", "duplicate"),
        ("b.json", "duplicate"),
    ]


def test_samples_whose_members_lie_apart_are_put_together() -> None:
    by_suffix = sorted(MEMBERS, key=lambda member: member[0].rpartition(".")[2])
    for order in (
        MEMBERS[::2] + MEMBERS[1::2],
        MEMBERS[1::2] + MEMBERS[::2][::-1],
        by_suffix,
        MEMBERS[1:] + MEMBERS[:1],
    ):
        found = read(make_tar(order))
        assert found.samples == ORIGINAL
        assert found.lost == []
        assert 1 <= found.reader.account.regrouped <= NUM
    crowded = read(make_tar(by_suffix), limits=Limits(sample_bytes=9000))
    assert crowded.samples.items() < ORIGINAL.items()
    assert set(crowded.rejected) == {
        (key, "oversize") for key in ORIGINAL.keys() - crowded.samples.keys()
    }


def test_a_sample_that_lies_apart_is_whole_or_lost() -> None:
    three = [
        (f"s{i}.{suffix}", bytes([i]) * 600) for suffix in ("json", "mp4", "wav") for i in range(3)
    ]
    data = make_tar(three)
    assert read(data).samples.keys() == {"s0", "s1", "s2"}
    for name, _ in three:
        at = data.index(name.encode())
        found = read(data[: at + 150] + b"9" + data[at + 151 :])
        assert found.samples.keys() == {"s0", "s1", "s2"} - {name[:2]}
        assert {lost.key for lost in found.lost} == {name[:2]}
    mixed = read(
        make_tar(
            [("a.json", b"1"), ("b.json", b"2"), ("a.mp4", b"3"), ("b.mp4", b"4"), ("a.mp4", b"5")]
        )
    )
    assert mixed.samples == {"b": {"json": b"2", "mp4": b"4"}}
    assert {(loss.member, loss.reason) for loss in mixed.losses} == {
        ("a.json", "duplicate"),
        ("a.mp4", "duplicate"),
    }


def test_damage_that_names_a_member_costs_its_sample() -> None:
    data = make_tar(
        [
            ("a.json", b"1"),
            ("a.mp4", b"2"),
            ("b.json", b"1"),
            ("b.mp4", b"2"),
            ("b.wav", b"3"),
            ("c.json", b"1"),
            ("c.mp4", b"2"),
        ]
    )
    at = data.index(b"b.wav")
    found = read(data[: at + 150] + b"9" + data[at + 151 :])
    assert found.samples.keys() == {"a", "c"}
    assert {loss.member for loss in found.losses} == {"b.json", "b.mp4", "b.wav"}


def test_members_of_unknown_suffix_are_named_and_not_read() -> None:
    members = [
        ("a.json", b"1"),
        ("a.pyd", b"2"),
        ("a.mp4", b"3"),
        ("b.json", b"1"),
        ("b.pkl", b"2"),
        ("b.mp4", b"3"),
    ]
    found = read(make_tar(members))
    assert found.samples == {key: {"json": b"1", "mp4": b"3"} for key in "ab"}
    assert found.lost == []
    account = found.reader.account
    assert (account.ignored, account.bytes_ignored) == (2, 2048)
    assert read(make_tar(members), known=frozenset({"pkl"})).samples["b"].keys() == {
        "json",
        "mp4",
        "pkl",
    }


def test_a_shard_of_one_sample_beside_damage() -> None:
    whole = make_tar({"a.json": b"1", "a.mp4": b"2" * 600})
    assert read(whole[:2560]).samples.keys() == {"a"}
    assert read(whole[:1024]).rejected == [("a", "missing_member"), ("", "truncated")]


def gz(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


def zst(data: bytes) -> bytes:
    return b"".join(
        pa.compress(data[at : at + 4096], codec="zstd", asbytes=True)
        for at in range(0, len(data), 4096)
    )


@pytest.mark.parametrize("pack", [gz, zst])
class TestPacked:
    def test_whole(self, pack: Callable[[bytes], bytes]) -> None:
        found = read(pack(TAR))
        assert found.samples == ORIGINAL
        assert found.lost == []
        assert found.reader.digest == read(TAR).reader.digest
        assert read(pack(TAR[:5000]) + pack(TAR[5000:])).samples == ORIGINAL

    def test_cut(self, pack: Callable[[bytes], bytes]) -> None:
        rng = np.random.default_rng(0)
        members = [
            (name, rng.integers(0, 256, len(data), np.uint8).tobytes()) for name, data in MEMBERS
        ]
        packed = pack(make_tar(members))
        kept = []
        for cut in range(5, len(packed), 977):
            found = read(packed[:cut])
            kept.append(len(found.samples))
            for key, suffixes in found.samples.items():
                assert suffixes == {
                    name.partition(".")[2]: data for name, data in members if name.startswith(key)
                }
            assert {loss.reason for loss in found.losses} <= {"truncated", "missing_member"}
            assert ("", "truncated") in {(loss.key, loss.reason) for loss in found.losses}
        assert kept == sorted(kept)
        assert NUM - 1 in kept

    def test_bomb(self, pack: Callable[[bytes], bytes]) -> None:
        found = read(pack(TAR + bytes(2**24)), limits=Limits(shard_bytes=2**20))
        assert found.samples == ORIGINAL
        assert [loss.reason for loss in found.losses] == ["oversize"]
        assert found.reader.account.bytes == 2**20


def test_a_flipped_bit_in_gzip_is_named() -> None:
    packed = bytearray(gz(TAR))
    for at in range(20, len(packed), 61):
        broken = packed[:at] + bytes([packed[at] ^ 16]) + packed[at + 1 :]
        found = read(bytes(broken))
        assert found.lost or found.samples == ORIGINAL


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(TAR) - 1), st.binary(min_size=1, max_size=600)),
        min_size=1,
        max_size=3,
    ),
    st.integers(0, len(TAR)),
)
def test_no_mutation_raises_or_changes_what_it_did_not_touch(
    changes: list[tuple[int, bytes]], cut: int
) -> None:
    data = TAR
    for at, new in changes:
        data = (data[:at] + new + data[at + len(new) :])[: len(TAR)]
    data = data[: max(cut, 512)] if cut % 2 else data
    starts = [*offsets().values(), END]
    spans = {f"s{i:03d}": (starts[2 * i], starts[2 * i + 2]) for i in range(NUM)}
    untouched = {key for key, (start, end) in spans.items() if data[start:end] == TAR[start:end]}
    found = read(data)
    for key in untouched & found.samples.keys():
        assert found.samples[key] == ORIGINAL[key]
    assert untouched <= found.samples.keys() | {lost.key for lost in found.lost}


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
def test_facts_of_a_sample(
    members: dict[str, bytes], shard: str, expected: tuple[str, str, str | None]
) -> None:
    facts = facts_of(sample(members), shard)
    assert (facts.sample_id, facts.label, facts.split) == expected


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
def test_facts_that_cannot_be_told(members: dict[str, bytes], reason: str) -> None:
    with pytest.raises(SampleError) as caught:
        facts_of(sample(members), "train-0.tar")
    assert caught.value.reason == reason


def test_find_shards(tmp_path: Path) -> None:
    for name in ("b/2.tar", "b/1.tar", "a/3.tar", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(TAR)
    found = find_shards(
        [str(tmp_path / "b"), str(tmp_path / "*" / "*.tar"), Place.at(tmp_path / "a/3.tar")]
    )
    assert [Path(place.path).relative_to(tmp_path).as_posix() for place in found] == [
        "a/3.tar",
        "b/1.tar",
        "b/2.tar",
    ]
    assert shard_names(found) == ["a/3.tar", "b/1.tar", "b/2.tar"]
    assert shard_names(found[1:]) == ["1.tar", "2.tar"]
    for missing in (str(tmp_path / "nothing-*.tar"), str(tmp_path / "c"), str(tmp_path / "c.tar")):
        with pytest.raises(InputError, match=re.escape(missing)) as caught:
            find_shards([missing])
        assert caught.value.exit_code == 2
    with pytest.raises(InputError):
        find_shards([])
