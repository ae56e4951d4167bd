"""What is not read of shards is counted and named: media, streams, junk, modalities, classes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import parse
from pipeline.decode.config import DecodeConfig
from pipeline.decode.inference import infer_config, reading_of
from pipeline.decode.job import decode
from pipeline.decode.summary import DecodeSummary
from pipeline.errors import InputError, MismatchError
from pipeline.features.feature_set import FeatureSet
from pipeline.features.gaps import gaps
from pipeline.inspect import inspect
from pipeline.shards.discover import discover_shards
from pipeline.shards.lint import lint
from pipeline.storage.store_path import StorePath
from tests.support.media_files import (
    encode_clip,
    encode_image,
    encode_npy,
    facts,
    make_tar,
    tone,
    write_shard,
)
from tests.support.stores import Command
from trainer.config import RunConfig
from trainer.launch import launch

PNG = encode_image(np.zeros((16, 16, 3), np.uint8))
JPG = encode_image(np.zeros((16, 16, 3), np.uint8), "JPEG")
IMAGE = {"kind": "image", "member": "jpg", "size": 16}
SPLITS = ("train", "validation", "test")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two thirds of the pictures are JPEG, one third PNG."""
    samples = {
        f"{i:03d}": {
            "json": facts(i // 3 % 2, SPLITS[i % 3]),
            "npy": encode_npy(np.zeros(2)),
            **({"png": PNG} if i % 3 == 2 else {"jpg": JPG}),
        }
        for i in range(18)
    }
    write_shard(tmp_path / "in" / "x.tar", samples)
    return tmp_path / "in"


def run(folder: Path, out: Path, **config: object) -> DecodeSummary:
    shards = discover_shards([str(folder)])
    found = parse(DecodeConfig, config, "test") if config else infer_config(shards).config
    return decode(shards, StorePath.at(out), found)


def test_a_medium_that_no_modality_reads_is_an_error_until_it_is_ignored(
    mixed: Path, tmp_path: Path, ray_cluster: None, command: Command
) -> None:
    modalities = {
        "image": IMAGE,
        "tensor": {"kind": "tensor", "member": "npy", "shape": [2]},
    }
    with pytest.raises(InputError, match=r"(?s)(?=.*\b6 png\b)(?=.*max_unread_share)(?=.*ignore)"):
        run(mixed, tmp_path / "a", modalities=modalities)
    (mixed / "decode.yaml").write_text(json.dumps({"modalities": modalities}))
    shards = discover_shards([str(mixed)])
    assert lint(shards, reading=reading_of(shards))["unread"] == {"png": 6}
    assert inspect(mixed)["unread"] == {"png": 6}
    code, out, _ = command("lint", mixed)
    assert code == 1 and "6 png" in out
    summary = run(mixed, tmp_path / "b", modalities=modalities, max_unread_share=0.5)
    assert summary.unread == {"png": 6} and "6 png" in summary.text
    assert summary.num_rows == 18
    summary = run(mixed, tmp_path / "c", modalities=modalities, ignore=["png"])
    assert (summary.unread, summary.num_rows) == ({}, 18)


def test_mixed_suffixes_are_all_decoded_without_options(
    mixed: Path, tmp_path: Path, ray_cluster: None
) -> None:
    summary = run(mixed, tmp_path / "out")
    features = FeatureSet.open(StorePath.at(tmp_path / "out"))
    assert (summary.num_rows, summary.num_rejected, summary.unread) == (18, 0, {})
    assert features.has.all()
    assert inspect(tmp_path / "out")["modalities"]["image"]["missing"] == 0


def test_streams_that_no_modality_reads_are_counted(tmp_path: Path, ray_cluster: None) -> None:
    clip, silent = encode_clip(3, sound=tone(440, 0.5)), encode_clip(3)
    samples = {
        f"{i}": {"json": facts(i % 2, SPLITS[i % 3]), "mp4": silent if i == 0 else clip}
        for i in range(9)
    }
    write_shard(tmp_path / "in" / "x.tar", samples)
    video = {"kind": "video", "member": "mp4", "frames": 2, "size": 16}
    summary = run(tmp_path / "in", tmp_path / "out", modalities={"video": video})
    assert summary.unread == {"audio of mp4": 8}
    summary = run(tmp_path / "in", tmp_path / "both")
    assert summary.unread == {}
    assert "1 of 9 samples lack modality 'audio'" in summary.notes


def test_junk_is_ignored_and_keys_may_repeat_between_shards(
    tmp_path: Path, ray_cluster: None
) -> None:
    (tmp_path / "in").mkdir()
    for split in ("train", "val", "test"):
        members = [("._000.jpg", b"mac"), ("README", b"about"), ("LICENSE.md", b"free")]
        for i in range(4):
            members += [(f"{i:03d}.jpg", JPG), (f"{i:03d}.cls", b"%d" % (i % 2))]
        (tmp_path / "in" / f"{split}-000.tar").write_bytes(make_tar(members))
    summary = run(tmp_path / "in", tmp_path / "out")
    assert (summary.num_rows, summary.num_rejected) == (12, 0)
    assert sum(summary.ignored.values()) == 9
    assert summary.splits == {"train": 4, "validation": 4, "test": 4}
    features = FeatureSet.open(StorePath.at(tmp_path / "out"))
    assert features.samples["sample_id"][0].as_py() == "test-000.tar/000"
    report = lint(discover_shards([str(tmp_path / "in")]))
    assert (report["num_lost"], [shard["account"]["ignored"] for shard in report["shards"]]) == (
        0,
        [3, 3, 3],
    )


def test_what_training_never_sees_is_told(tmp_path: Path, ray_cluster: None) -> None:
    def sample(i: int) -> dict[str, bytes]:
        split = SPLITS[i % 3]
        label = "rare" if i == 2 else f"c{i // 3 % 2}"
        text = {"txt": b"some words"} if split == "test" else {}
        return {"json": facts(label, split), "npy": encode_npy(np.zeros(2)), **text}

    write_shard(tmp_path / "in" / "x.tar", {f"{i:02d}": sample(i) for i in range(12)})
    out = tmp_path / "features" / "made"
    summary = run(tmp_path / "in", out)
    found = gaps(FeatureSet.open(StorePath.at(out)))
    assert set(found) <= set(summary.notes)
    assert len(found) == 2
    assert "'text'" in found[0] and "'rare'" in found[1]
    fields = {"name": "r", "features": "made", "store": str(tmp_path), "method": "joint_heads"}
    events: list[dict[str, Any]] = []
    launch(parse(RunConfig, {**fields, "train": {"epochs": 1}}, "test"), progress=events.append)
    assert [event["text"] for event in events if event["event"] == "note"] == found


def test_a_set_that_was_decoded_by_other_rules_is_refused(
    mixed: Path, tmp_path: Path, ray_cluster: None
) -> None:
    modalities = {"image": {**IMAGE, "member": ["jpg", "png"]}}
    options = {"modalities": modalities, "ignore": ["npy"]}
    run(mixed, tmp_path / "out", **options)
    assert run(mixed, tmp_path / "out", **options).unchanged
    with pytest.raises(MismatchError, match="shard/key"):
        run(mixed, tmp_path / "out", **options, sample={"id": "shard/key"})
