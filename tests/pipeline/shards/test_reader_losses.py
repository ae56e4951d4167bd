"""Damaged shards: readable samples are kept; a loss is reported and costs only its own sample."""

import tarfile

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.shards.limits import Limits
from tests.support.media_files import make_tar
from tests.support.shard_reading import END, NUM, ORIGINAL, TAR, gz, offsets, overwritten, read


def test_a_cut_shard_keeps_the_samples_before_the_cut() -> None:
    """Cuts before, inside and after the header and data of every member."""
    ends = {key: offsets()[f"{key}.mp4"] + 512 + len(ORIGINAL[key]["mp4"]) for key in ORIGINAL}
    edges = [*offsets().values(), *ends.values()]
    for cut in sorted({edge + more for edge in edges for more in (-1, 0, 1, 300, 513)} - {-1, 0}):
        result = read(TAR[:cut])
        assert result.samples == {key: ORIGINAL[key] for key, end in ends.items() if end <= cut}
        assert "truncated" in {loss.reason for loss in result.losses}
        for name, start in offsets().items():
            if start + 512 < cut and name.partition(".")[0] not in result.samples:
                assert name in {loss.member for loss in result.losses}


def test_an_invalid_header_costs_one_sample_at_any_position() -> None:
    for name, at in offsets().items():
        key = name.partition(".")[0]
        result = read(overwritten(at, b"\xff" * 512))
        assert result.samples == without(key)
        assert {loss.reason for loss in result.losses} == {"bad_header", "missing_member"}


@pytest.mark.parametrize("filling", [b"\x7f" * 1024, bytes(512), b"\x00" * 100, b"-"])
def test_garbage_between_members_costs_no_sample(filling: bytes) -> None:
    for name in ("s000.json", "s004.mp4", f"s{NUM - 1:03d}.mp4"):
        at = offsets()[name]
        result = read(TAR[:at] + filling + TAR[at:])
        assert result.samples == ORIGINAL
        assert [(loss.reason, loss.offset) for loss in result.losses] == [("bad_header", at)]
        assert result.reader.accounting.bytes_lost == len(filling)


def test_missing_bytes_cost_only_their_own_samples() -> None:
    at = offsets()["s005.mp4"] + 600
    for gone in (1, 512, 3000):
        result = read(TAR[:at] + TAR[at + gone :])
        assert {"s005"} <= ORIGINAL.keys() - result.samples.keys() <= {"s005", "s006"}
        assert result.samples.items() <= ORIGINAL.items()
        assert ORIGINAL.keys() - result.samples.keys() <= {lost.key for lost in result.lost}


def test_a_shard_behind_itself_is_told_sample_by_sample() -> None:
    again = read(TAR + TAR)
    assert again.samples == ORIGINAL
    assert again.rejected == [(key, "duplicate") for key in ORIGINAL]


@pytest.mark.parametrize("size", [2**63, 20_000, 5120])
def test_a_size_that_is_too_large_does_not_lose_the_next_members(size: int) -> None:
    at = offsets()["s004.json"]
    info = tarfile.TarInfo("lie.mp4")
    info.size = size
    result = read(TAR[:at] + info.tobuf(tarfile.GNU_FORMAT) + TAR[at:])
    assert result.samples == ORIGINAL
    assert [(loss.member, loss.reason) for loss in result.losses] == [("lie.mp4", "truncated")]


def test_a_size_that_is_too_small_within_the_last_block_is_undetectable() -> None:
    at = offsets()["s004.mp4"]
    info = tarfile.TarInfo("s004.mp4")
    info.size = 1899
    assert read(TAR[:at] + info.tobuf(tarfile.USTAR_FORMAT) + TAR[at + 512 :]).lost == []


@pytest.mark.parametrize(
    ("kind", "size"),
    [(b"x", b"\x80\x7f"), (b"L", b"\x80\x7f"), (b"5", b"\x80\x7f"), (b"0", b"\xff" * 12)],
)
def test_an_enormous_or_negative_size_is_reported(kind: bytes, size: bytes) -> None:
    block = bytearray(tarfile.TarInfo("lie.mp4").tobuf(tarfile.USTAR_FORMAT))
    block[124:136], block[156:157] = size.ljust(12, b"\0"), kind
    block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    at = offsets()["s002.json"]
    result = read(TAR[:at] + bytes(block) + TAR[at:])
    assert result.samples.items() <= ORIGINAL.items()
    assert ORIGINAL.keys() - result.samples.keys() <= {"s002"} & {
        loss.key for loss in result.losses
    }
    assert at in {loss.offset for loss in result.losses}


def without(key: str) -> dict[str, dict[str, bytes]]:
    return {other: members for other, members in ORIGINAL.items() if other != key}


def test_a_member_above_the_limit_rejects_its_sample() -> None:
    result = read(TAR, limits=Limits(member_bytes=2600))
    assert set(result.samples) == {f"s{i:03d}" for i in range(7)}
    assert {(loss.member, loss.reason) for loss in result.losses} == {
        ("s007.mp4", "oversize"),
        ("s007.json", "oversize"),
    }


def test_a_sample_above_the_limit_is_rejected() -> None:
    result = read(TAR, limits=Limits(sample_bytes=4200))
    assert result.rejected == [("s007", "oversize")]


def test_a_missing_suffix_is_reported_once() -> None:
    members = [make_tar({name: b"1"})[:1024] for name in ("a.mp4", "b.json", "b.mp4")]
    result = read(
        b"\xff" * 512 + members[0] + b"\xff" * 512 + members[1] + members[2] + bytes(1024)
    )
    assert result.samples.keys() == {"b"}
    (lost,) = [lost for lost in result.lost if lost.key == "a"]
    (member,) = lost.damaged
    assert (member.member, member.offset, member.reason) == ("a.mp4", 512, "missing_member")
    assert lost.error.count("json") == 1


@pytest.mark.parametrize("fmt", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_damaged_long_name_is_not_taken_for_another_sample(fmt: int) -> None:
    names = [f"{'long/' * 40}{i}.{suffix}" for i in range(4) for suffix in ("json", "mp4")]
    data = make_tar(dict.fromkeys(names, b"x" * 600), fmt)
    for at in range(0, len(data) - 10_240, 512):
        broken = data[:at] + b"\xff" * 512 + data[at + 512 :]
        result = read(broken)
        assert result.samples.keys() <= {name.rpartition(".")[0] for name in names}
        assert len(result.samples) >= 3
        assert result.samples.keys() == read(data).samples.keys() or result.lost


def test_a_non_contiguous_sample_is_complete_or_rejected() -> None:
    three = [
        (f"s{i}.{suffix}", bytes([i]) * 600) for suffix in ("json", "mp4", "wav") for i in range(3)
    ]
    data = make_tar(three)
    assert read(data).samples.keys() == {"s0", "s1", "s2"}
    for name, _ in three:
        at = data.index(name.encode())
        result = read(data[: at + 150] + b"9" + data[at + 151 :])
        assert result.samples.keys() == {"s0", "s1", "s2"} - {name[:2]}
        assert {lost.key for lost in result.lost} == {name[:2]}
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


def test_a_shard_with_one_sample_next_to_damage() -> None:
    intact = make_tar({"a.json": b"1", "a.mp4": b"2" * 600})
    assert read(intact[:2560]).samples.keys() == {"a"}
    assert read(intact[:1024]).rejected == [("a", "missing_member"), ("", "truncated")]


def test_a_flipped_bit_in_gzip_is_reported() -> None:
    packed = bytearray(gz(TAR))
    for at in range(20, len(packed), 61):
        broken = packed[:at] + bytes([packed[at] ^ 16]) + packed[at + 1 :]
        result = read(bytes(broken))
        assert result.lost or result.samples == ORIGINAL


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(st.integers(0, len(TAR) - 1), st.binary(min_size=1, max_size=600)),
        min_size=1,
        max_size=3,
    ),
    st.integers(0, len(TAR)),
)
@example([(0, b"\x1f\x8b")], 0)
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
    result = read(data)
    for key in untouched & result.samples.keys():
        assert result.samples[key] == ORIGINAL[key]
    # the first bytes may have become those of a compressed shard, which is lost as one
    unreadable = [lost.reason for lost in result.lost] == ["undecodable"]
    assert unreadable or untouched <= result.samples.keys() | {lost.key for lost in result.lost}
