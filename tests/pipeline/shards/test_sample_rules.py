"""Rules of a layout: where ids, labels and splits are, where keys end, and what is no sample."""

import io
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load, parse
from pipeline.decode.config import DecodeConfig
from pipeline.errors import ConfigError, InputError, SampleError
from pipeline.shards.discover import discover_shards
from pipeline.shards.reader import ShardReader
from pipeline.shards.sample_metadata import SampleMetadata, parse_metadata
from pipeline.shards.sample_rules import SampleRules, split_of_path
from pipeline.shards.samples import Sample
from tests.support.media_files import facts, make_tar
from tests.support.shard_reading import read

JSON = b'{"who": "ann", "meta": {"kind": "bird", "nr": 3}, "split": "dev"}'


def parsed(
    rules: dict[str, Any], members: dict[str, bytes], key: str = "a/b/k", shard: str = "train/0.tar"
) -> SampleMetadata | None:
    members = {**members, "npy": b""}
    sample = Sample(key=key, index=0, suffixes=frozenset(members), members=members)
    return parse_metadata(sample, shard, parse(SampleRules, rules, "sample"))


@pytest.mark.parametrize(
    ("rules", "members", "expected"),
    [
        ({"label": "json.meta.kind"}, {"json": JSON}, ("a/b/k", "bird", "validation")),
        ({"label": "json.meta.nr", "id": "json.who"}, {"json": JSON}, ("ann", "3", "validation")),
        ({"label": "folder", "split": "shard"}, {"json": JSON}, ("a/b/k", "b", "train")),
        (
            {"label": "txt", "id": "shard/key"},
            {"txt": b"cat\n"},
            ("train/0.tar/a/b/k", "cat", "train"),
        ),
        ({"label": ["json.none", "cls"]}, {"cls": b"1"}, ("a/b/k", "1", "train")),
        ({"class_names": ["cat", "dog"]}, {"cls": b"1"}, ("a/b/k", "dog", "train")),
        ({"class_names": ["cat", "dog"]}, {"cls": b"dog"}, ("a/b/k", "dog", "train")),
        ({"split": {"from": []}}, {"cls": b"1"}, ("a/b/k", "1", "train")),
    ],
)
def test_values_come_from_their_places(
    rules: dict[str, Any], members: dict[str, bytes], expected: tuple[str, str, str]
) -> None:
    found = parsed(rules, members)
    assert found
    assert (found.sample_id, found.label, found.split) == expected


def test_shares_are_drawn_by_id_and_groups_stay_together() -> None:
    rules = {"split": {"from": "shard", "validation_share": 0.2, "test_share": 0.3}}
    splits = [parsed(rules, {"cls": b"1"}, key=f"k{i}").split for i in range(2000)]
    assert [splits.count(each) / 2000 for each in ("train", "validation", "test")] == pytest.approx(
        [0.5, 0.2, 0.3], abs=0.03
    )
    rules["split"]["group_by"] = "json.who"
    grouped = {parsed(rules, {"json": JSON, "cls": b"1"}, key=f"k{i}").split for i in range(50)}
    assert len(grouped) == 1
    outside = parsed(rules, {"cls": b"1", "json": b'{"who": 1}'}, shard="test-0.tar")
    assert outside.split == "test"


@pytest.mark.parametrize(
    ("rules", "members", "reason"),
    [
        ({"label": "json.meta"}, {"json": JSON}, "wrong_type"),
        ({"id": "json.none"}, {"cls": b"1"}, "missing_member"),
        ({"class_names": ["cat"]}, {"cls": b"1"}, "wrong_type"),
        ({"label": "txt"}, {"txt": b"x" * 300}, "wrong_type"),
        (
            {"split": {"validation_share": 0.5, "group_by": "json.x"}},
            {"cls": b"1"},
            "missing_member",
        ),
    ],
)
def test_values_that_do_not_fit_reject_the_sample(
    rules: dict[str, Any], members: dict[str, bytes], reason: str
) -> None:
    with pytest.raises(SampleError) as caught:
        parsed(rules, members)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "rules",
    [
        {"label": "jsno.x"},
        {"label": "json."},
        {"split": {"validation_share": 0.6, "test_share": 0.6}},
    ],
)
def test_invalid_rules_are_refused(rules: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        parse(SampleRules, rules, "sample")


def test_class_names_may_be_a_file_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    (tmp_path / "decode.yaml").write_text(
        "modalities: {x: {kind: tensor, member: npy, shape: [1]}}\n"
        "sample: {class_names: names.txt}\n"
    )
    assert load(DecodeConfig, tmp_path / "decode.yaml").sample.class_names == ("cat", "dog")
    (tmp_path / "names.txt").unlink()
    with pytest.raises(ConfigError, match=r"names\.txt"):
        load(DecodeConfig, tmp_path / "decode.yaml")


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("imagenet1k-train-0000.tar", "train"),
        ("valid_003.tar", "validation"),
        ("train/000000.tar", "train"),
        ("test/train-of-thought/0.tar", "train"),
        ("trainer.tar", None),
        ("train-test.tar", None),
    ],
)
def test_splits_are_words_of_paths(path: str, split: str | None) -> None:
    assert split_of_path(path) == split


def test_files_of_systems_and_groups_without_media_are_no_samples() -> None:
    shard = make_tar(
        [
            ("._a.jpg", b"mac"),
            ("a.json", facts("x")),
            ("a.jpg", b"1"),
            ("README", b"hello"),
            (".git/config", b"1"),
            ("LICENSE.md", b"free"),
            ("__MACOSX/a.jpg", b"1"),
        ]
    )
    result = read(shard)
    assert result.samples == {"a": {"json": facts("x"), "jpg": b"1"}}
    assert result.lost == []
    assert result.reader.accounting.ignored == 5


def test_keys_end_where_the_rule_says() -> None:
    shard = make_tar(
        {"a.1.json": facts("x"), "a.1.jpg": b"1", "a.2.json": facts("y"), "a.2.jpg": b""}
    )
    keys = [sample.key for sample in ShardReader(io.BytesIO(shard), key_end="last_dot").samples()]
    assert keys == ["a.1", "a.2"]


def test_ranges_in_braces_stand_for_every_file(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"x-{i:03d}.tar").write_bytes(b"")
    pattern = str(tmp_path / "x-{000..002}.tar")
    assert [path.name for path in discover_shards([pattern])] == [
        f"x-{i:03d}.tar" for i in range(3)
    ]
    (tmp_path / "x-001.tar").unlink()
    with pytest.raises(InputError, match=r"x-001\.tar"):
        discover_shards([pattern])
    (tmp_path / "odd{1.tar").write_bytes(b"")
    assert len(discover_shards([str(tmp_path / "odd{1.tar")])) == 1
