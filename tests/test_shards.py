"""Shards: every readable sample is kept, every loss is named, and the account balances."""

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import REASONS, InputError, SampleError
from pipeline.shards import Sample, ShardReader, facts_of, find_shards, only_text, shard_names
from pipeline.store import Place
from tests.media_files import make_tar

NUM = 8
MEMBERS = [(f"s{i:03d}.{suffix}", bytes([i]) * size) for i in range(NUM) for suffix, size in (("json", 30), ("mp4", 700 + 300 * i))]
TAR = make_tar(MEMBERS)
ORIGINAL = {f"s{i:03d}": {"json": bytes([i]) * 30, "mp4": bytes([i]) * (700 + 300 * i)} for i in range(NUM)}


def read(data: bytes, **options: object) -> tuple[dict[str, dict[str, bytes]], ShardReader]:
    reader = ShardReader(io.BytesIO(data), **options)
    samples = {sample.key: sample.members for sample in reader}
    assert reader.num_members == reader.num_kept + len(reader.losses)
    assert all(loss.reason in REASONS for loss in reader.losses)
    return samples, reader


def offsets() -> dict[str, int]:
    with tarfile.open(fileobj=io.BytesIO(TAR)) as tar:
        return {member.name: member.offset for member in tar}


def overwritten(at: int, new: bytes) -> bytes:
    return TAR[:at] + new + TAR[at + len(new) :]


@pytest.mark.parametrize("fmt", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("name", ["a", "x" * 90, "folder/" + "y" * 80, "ünïcode/" + "z" * 60])
def test_reads_every_tar_format(fmt: int, name: str) -> None:
    samples, reader = read(make_tar({f"{name}.json": b"{}", f"{name}.audio.OGG": b"abc"}, fmt))
    assert samples == {name: {"json": b"{}", "audio.ogg": b"abc"}}
    assert reader.losses == []


@pytest.mark.parametrize("fmt", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_reads_names_longer_than_ustar_holds(fmt: int) -> None:
    name = "deep/" * 60 + "k" * 120
    assert read(make_tar({f"{name}.npy": b"1"}, fmt))[0] == {name: {"npy": b"1"}}


def test_reads_size_from_pax() -> None:
    info = tarfile.TarInfo("a.npy")
    info.size, info.pax_headers = 0, {"size": "600"}
    data = info.tobuf(tarfile.PAX_FORMAT) + b"q" * 600 + bytes(424) + bytes(1024)
    assert read(data)[0] == {"a": {"npy": b"q" * 600}}


def test_intact_shard() -> None:
    samples, reader = read(TAR)
    assert samples == ORIGINAL
    assert reader.account == {"members": 2 * NUM, "kept": 2 * NUM, "lost": 0}


def test_scan_loads_text_only_and_agrees_on_the_digest() -> None:
    whole, reader = read(TAR)
    text, scanner = read(TAR, load=only_text)
    assert text == {key: {"json": members["json"]} for key, members in whole.items()}
    assert scanner.digest == reader.digest
    assert read(overwritten(offsets()["s003.mp4"] + 512 + 40, b"!"))[1].digest != reader.digest


@pytest.mark.parametrize("cut", range(1, len(TAR) - 10_240 + 1536, 173))
def test_a_cut_shard_keeps_what_lies_before(cut: int) -> None:
    samples, reader = read(TAR[:cut])
    starts = offsets()
    last = {f"s{i:03d}": starts[f"s{i:03d}.mp4"] + 512 + 700 + 300 * i for i in range(NUM)}
    whole = {key for key, end in last.items() if end <= cut}
    # The first sample is kept only when something after it shows that it is whole.
    assert whole - {"s000"} <= set(samples) <= whole
    assert all(ORIGINAL[key] == members for key, members in samples.items())
    assert "truncated" in {loss.reason for loss in reader.losses}
    for key in starts:
        if starts[key] + 512 < cut and key.split(".")[0] not in samples:
            assert key in {loss.member for loss in reader.losses}


def test_a_bad_header_costs_its_sample_only() -> None:
    at = offsets()["s003.mp4"]
    samples, reader = read(overwritten(at + 150, b"9"))
    assert samples == {key: members for key, members in ORIGINAL.items() if key != "s003"}
    assert {(loss.key, loss.member) for loss in reader.losses} == {("s003", "s003.mp4"), ("s003", "s003.json")}
    assert [(key, reason) for key, reason, _ in reader.rejected()] == [("s003", "missing_member")]
    assert str(at) in reader.rejected()[0][2]


def test_an_unreadable_header_does_not_leave_half_a_sample() -> None:
    samples, reader = read(overwritten(offsets()["s003.mp4"], b"\xff" * 512))
    assert samples == {key: members for key, members in ORIGINAL.items() if key != "s003"}
    assert {loss.reason for loss in reader.losses} == {"bad_header", "missing_member"}


def test_garbage_and_zeros_between_members_cost_nothing_else() -> None:
    at = offsets()["s004.json"]
    for filling in (b"\x7f" * 1024, bytes(512)):
        samples, reader = read(TAR[:at] + filling + TAR[at:])
        assert samples == ORIGINAL
        assert [(loss.reason, loss.offset) for loss in reader.losses] == [("bad_header", at)]


def test_archives_one_after_the_other_are_one_shard() -> None:
    samples, reader = read(TAR + make_tar({"t.json": b"1", "t.mp4": b"2"}))
    assert set(samples) == {*ORIGINAL, "t"}
    assert reader.losses == []


def test_missing_end_is_named_though_all_samples_are_there() -> None:
    with tarfile.open(fileobj=io.BytesIO(TAR)) as tar:
        tar.getmembers()
        end = tar.offset
    samples, reader = read(TAR[:end])
    assert samples == ORIGINAL
    assert [(loss.reason, loss.offset) for loss in reader.losses] == [("truncated", end)]


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
    samples, reader = read(info.tobuf(tarfile.USTAR_FORMAT) + TAR)
    assert samples == ORIGINAL
    assert [(loss.member, loss.reason) for loss in reader.losses] == [(name, reason)]


def test_a_member_over_the_cap_is_a_loss_of_its_sample() -> None:
    samples, reader = read(TAR, max_member_bytes=2600)
    assert set(samples) == {f"s{i:03d}" for i in range(7)}
    assert {(loss.member, loss.reason) for loss in reader.losses} == {("s007.mp4", "oversize"), ("s007.json", "oversize")}


def test_a_lying_size_does_not_swallow_the_rest() -> None:
    info = tarfile.TarInfo("lie.mp4")
    info.size = 2**33
    samples, reader = read(info.tobuf(tarfile.GNU_FORMAT) + TAR)
    assert samples == ORIGINAL
    assert [(loss.member, loss.reason) for loss in reader.losses] == [("lie.mp4", "truncated")]


def test_a_negative_size_is_a_bad_header() -> None:
    block = bytearray(tarfile.TarInfo("a.mp4").tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = b"\xff" * 12
    block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    at = offsets()["s002.json"]
    samples, reader = read(TAR[:at] + bytes(block) + TAR[at:])
    assert samples == ORIGINAL
    assert [(loss.reason, loss.offset) for loss in reader.losses] == [("bad_header", at)]


def test_duplicates_are_named() -> None:
    samples, reader = read(make_tar([("a.json", b"1"), ("a.mp4", b"2"), ("b.json", b"3"), ("b.json", b"4"), ("a.npy", b"5"), ("c.json", b"6")]))
    assert set(samples) == {"a", "c"}
    assert sorted((loss.member, loss.reason) for loss in reader.losses) == [("a.npy", "duplicate"), ("b.json", "duplicate"), ("b.json", "duplicate")]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(TAR) - 1), st.binary(min_size=1, max_size=600)), min_size=1, max_size=3), st.integers(0, len(TAR)))
def test_no_mutation_raises_or_invents(changes: list[tuple[int, bytes]], cut: int) -> None:
    data = TAR
    for at, new in changes:
        data = (data[:at] + new + data[at + len(new) :])[: len(TAR)]
    data = data[: max(cut, 512)] if cut % 2 else data
    samples, _ = read(data)
    intact = {key for key, members in ORIGINAL.items() if all(value in data for value in members.values())}
    for key, members in samples.items():
        if key in intact and set(members) >= {"json", "mp4"}:
            assert {suffix: len(value) for suffix, value in members.items()} == {suffix: len(value) for suffix, value in ORIGINAL[key].items()}


def sample(members: dict[str, bytes]) -> Sample:
    return Sample(key="k", index=0, suffixes=frozenset(members), members=members)


@pytest.mark.parametrize(
    ("members", "shard", "expected"),
    [
        ({"json": b'{"label": 3, "split": "test"}'}, "train-0.tar", ("k", "3", "test")),
        ({"json": b'{"label": "a", "sample_id": "id"}'}, "x/val-000.tar", ("id", "a", "validation")),
        ({"cls": b" 7\n"}, "train_0.tar", ("k", "7", "train")),
        ({"cls": b"7"}, "trainer.tar", ("k", "7", None)),
    ],
)
def test_facts_of_a_sample(members: dict[str, bytes], shard: str, expected: tuple[str, str, str | None]) -> None:
    facts = facts_of(sample(members), shard)
    assert (facts.sample_id, facts.label, facts.split) == expected


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"json": b"{"}, "undecodable"),
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
    found = find_shards([str(tmp_path / "b"), str(tmp_path / "*" / "*.tar"), Place.at(tmp_path / "a/3.tar")])
    assert [Path(place.path).relative_to(tmp_path).as_posix() for place in found] == ["a/3.tar", "b/1.tar", "b/2.tar"]
    assert shard_names(found) == ["a/3.tar", "b/1.tar", "b/2.tar"]
    assert shard_names(found[1:]) == ["1.tar", "2.tar"]
    for missing in (str(tmp_path / "nothing-*.tar"), str(tmp_path / "c"), str(tmp_path / "c.tar")):
        with pytest.raises(InputError, match="no shards match") as caught:
            find_shards([missing])
        assert caught.value.exit_code == 2
    with pytest.raises(InputError, match="no shards match"):
        find_shards([])
