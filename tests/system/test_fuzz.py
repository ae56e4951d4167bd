"""Damaged files of all kinds, and what a shard reader must recover from any list of members."""

import dataclasses
import json
import subprocess
import sys
import tarfile
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.decode.sandbox.sandbox import Sandbox
from pipeline.shards.limits import Limits
from pipeline.shards.member_suffixes import MEDIA, TEXT
from pipeline.shards.reader import everything
from pipeline.shards.samples import is_junk, split_name
from tests.support.fuzz_media import SPECS, judge_clip, media
from tests.support.fuzz_shards import shards
from tests.support.media_files import make_tar
from tests.support.shard_judge import judge_shard, read_shard

ROOT = Path(__file__).parents[2]
NUM = {"tar": 1500, "clip": 68, "table": 400, "yaml": 100}
FORMATS = [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]


def fuzz(keep: Path, *options: str) -> tuple[int, dict]:
    """The exit code and the line of benchmarks/fuzz.py."""
    command = [sys.executable, "benchmarks/fuzz.py", "--processes", "1", "--keep", str(keep)]
    ended = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout)


def test_every_promise_holds(tmp_path: Path) -> None:
    kinds, cases = ",".join(NUM), ",".join(map(str, NUM.values()))
    code, line = fuzz(tmp_path, "--kinds", kinds, "--cases", cases)
    assert line["failures"] == []
    assert (code, line["ratio"], line["cases"]) == (0, 1, NUM)
    assert all(len(line["outcomes"][kind]) >= 2 for kind in NUM)


def test_crashes_are_reported_and_the_other_cases_still_run(tmp_path: Path) -> None:
    kind = "tests.support.hostile_judges:odd_cases"
    code, line = fuzz(tmp_path, "--kinds", kind, "--cases", "5")
    assert code == 1
    failures = {failure["number"]: failure["what"] for failure in line["failures"]}
    assert len(line["failures"]) == len(failures) == 3
    assert "ZeroDivisionError" in failures[1] and "SIGSEGV" in failures[2] and "3" in failures[3]
    assert line["outcomes"][kind]["held"] == 2
    names = [f"tests.support.hostile_judges.odd_cases-0-{number}-x" for number in (1, 2, 3)]
    assert [(tmp_path / name).read_bytes() for name in names] == [b"1", b"2", b"3"]
    assert "ZeroDivisionError" in (tmp_path / f"{names[0]}.txt").read_text()
    assert fuzz(tmp_path, "--kinds", kind, "--case", "1")[1]["failures"] == [line["failures"][0]]


def test_a_judge_of_shards_is_no_yes_man() -> None:
    whole = shards()[0]
    assert judge_shard(whole.data, whole, Limits(), may_rename=False) == "whole"
    other = dataclasses.replace(whole, samples=whole.samples | {"s1": {"mp4": b"another"}})
    with pytest.raises(AssertionError, match=r"\bs1\b"):
        judge_shard(whole.data, other, Limits(), may_rename=True)
    with pytest.raises(AssertionError):
        judge_shard(bytes(1024), whole, Limits(), may_rename=False)


def test_media_decode_unharmed() -> None:
    with Sandbox(SPECS, Limits()) as sandbox:
        for suffix, data in media().items():
            assert judge_clip(data, suffix, sandbox) == "decoded", suffix
    assert media() == media()


ODD = ["x/y/a", "ü", "日本/語", "sp ace", "new\nline", "k" * 99, "d/" * 70 + "long", "é" * 130]
STEMS = st.sampled_from(["a", "b", "c", "x/a", *ODD]) | st.text(max_size=12)
SUFFIXES = st.sampled_from(
    ["json", "mp4", "wav", "cls", "left.mp4", "JSON", "Mp4", "pkl", "exe", "tar", "", "ü.png"]
)
MEMBERS = st.tuples(
    STEMS, SUFFIXES, st.integers(0, 1600), st.sampled_from([b"\0", b"u", b"ustar\0", b"ab"])
)


@settings(max_examples=150, deadline=None)
@given(st.lists(MEMBERS, max_size=12), st.sampled_from(FORMATS), st.booleans())
def test_any_list_of_members_is_read_by_the_rules(
    given_members: list[tuple[str, str, int, bytes]], fmt: int, dotted: bool
) -> None:
    members = [
        (f"{'./' * dotted}{stem}{'.' * bool(suffix)}{suffix}", (pattern * size)[:size])
        for stem, suffix, size, pattern in given_members
    ]
    assume(all(_is_plain(name) for name, _ in members))
    try:
        data = make_tar(members, fmt)
    except ValueError:
        assume(False)  # a name that ustar has no room for
    kept, lost, reader = read_shard(data, Limits(), everything)
    expected, num_lost = by_the_rules(members)
    assert {key: sample.members for key, sample in kept.items()} == expected
    assert reader.accounting.members == len(members)
    assert sum(len(each.damaged) for each in lost) == num_lost
    assert {loss.reason for each in lost for loss in each.damaged} <= {"duplicate", "wrong_type"}


def _is_plain(name: str) -> bool:
    """Names that no rule refuses, and that a tar can hold."""
    return not (
        {"\0", *map(chr, range(0xD800, 0xE000))} & set(name)
        or name.startswith("/")
        or ".." in name.split("/")
    )


def by_the_rules(members: list[tuple[str, bytes]]) -> tuple[dict[str, dict[str, bytes]], int]:
    """What a reader must keep of intact members, and the number that it must report as lost.

    Lost are names without a key, and duplicates within a sample; a non-contiguous sample with
    duplicates is lost completely. Files of a system, and groups of which nothing is read, are
    neither.
    """
    named = [(*split_name(name), data) for name, data in members if not is_junk(name)]
    keyed = [each for each in named if each[0]]
    num_lost = len(named) - len(keyed)
    runs = [list(run) for _, run in groupby(keyed, key=lambda each: each[0])]
    for key in {run[0][0] for run in runs}:
        places = [run for run in runs if run[0][0] == key]
        if len(places) == 1:
            continue
        read = [{suffix for _, suffix, _ in run if is_read(suffix)} for run in places]
        others = [run for run in runs if run[0][0] != key]
        if sum(map(len, read)) == len(set().union(*read)):
            runs = [*others, [each for run in places for each in run]]
        elif set().union(*read) > read[0]:
            runs = others
            num_lost += sum(map(len, places))
    kept: dict[str, dict[str, bytes]] = {}
    for run in runs:
        key, read = run[0][0], [(suffix, data) for _, suffix, data in run if is_read(suffix)]
        if not read:
            continue
        if key in kept or len({suffix for suffix, _ in read}) < len(read):
            num_lost += len(run)
        else:
            kept[key] = dict(read)
    return kept, num_lost


def is_read(suffix: str) -> bool:
    return suffix.rpartition(".")[2] in MEDIA | TEXT
