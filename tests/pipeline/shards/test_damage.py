"""Damaged shards of 50 clips: recoverable samples are kept and all losses reported by the reader,
`remix lint`, `remix repair` and decoding."""

import json
import re
import struct
import tarfile
from dataclasses import asdict
from pathlib import Path

import pytest
import webdataset

from pipeline.decode.config import DecodeConfig, VideoSpec
from pipeline.decode.job import decode
from pipeline.errors import REASONS
from pipeline.features.feature_set import FeatureSet
from pipeline.shards.discover import discover_shards
from pipeline.shards.reader import read_twice
from pipeline.shards.samples import RejectedSample, Sample
from pipeline.storage.arrow_files import read_table
from pipeline.storage.store_path import StorePath
from tests.support.damage import Case, Samples, catalogue, make_shard
from tests.support.media_files import encode_clip, facts
from tests.support.stores import Command

NUM = 50
SPLITS = ("train", "train", "validation", "test")


def clips(prefix: str = "s") -> Samples:
    """Clips with different bytes: a box at the end of each MP4 contains its number."""
    videos = [encode_clip(4 + i, size=(32, 32)) for i in range(4)]
    return {
        f"{prefix}{i:03d}": {
            "json": facts(i % 3, SPLITS[i % 4], sample_id=f"{prefix}{i:03d}"),
            "mp4": videos[i % 4] + struct.pack(">I4sI", 12, b"free", i),
        }
        for i in range(NUM)
    }


CASES = catalogue(make_shard(clips()))


@pytest.mark.parametrize("name", CASES)
def test_recoverable_samples_are_kept_and_losses_reported(
    tmp_path: Path, command: Command, name: str
) -> None:
    case = CASES[name]
    path = tmp_path / f"shard{case.suffix}"
    path.write_bytes(case.data)
    items, reader = read_twice(StorePath.at(path), list)
    assert {item.key: item.members for item in items if isinstance(item, Sample)} == case.kept
    losses = [
        loss
        for item in items
        for loss in (item.damaged if isinstance(item, RejectedSample) else item.ignored)
    ]
    assert sorted((loss.member, loss.reason) for loss in losses) == sorted(case.losses)
    assert {loss.reason for loss in losses} <= set(REASONS)
    assert min((loss.offset for loss in losses), default=0) == case.at
    assert {item.key for item in items if isinstance(item, RejectedSample)} >= case.lost_keys & {
        loss.key for loss in losses if loss.key not in case.kept
    }
    accounting = reader.accounting
    check_accounting(asdict(accounting))
    assert accounting.samples == len(case.kept)
    assert accounting.kept == sum(len(members) for members in case.kept.values())
    assert accounting.lost + accounting.ignored == len(case.losses)
    assert accounting.regrouped == case.regrouped
    assert accounting.bytes == len(case.data) or case.suffix != ".tar"

    code, out, _ = command("lint", path, "--json")
    (shard,) = json.loads(out)["shards"]
    assert code == bool(case.losses)
    assert (shard["shard"], shard["samples_kept"]) == (path.name, len(case.kept))
    reported = [
        (loss["key"], loss["member"], loss["offset"], loss["reason"]) for loss in shard["lost"]
    ]
    assert sorted(reported) == sorted(
        (loss.key, loss.member, loss.offset, loss.reason) for loss in losses
    )
    assert (shard["members"], shard["bytes"]) == (accounting.members, accounting.bytes)

    code, out, _ = command("repair", path, "--out", tmp_path / "clean", "--json")
    assert code == 0
    assert json.loads(out)["shards"][0]["lost"] == shard["lost"]
    clean = tmp_path / "clean" / "shard.tar"
    assert by_tarfile(clean) == by_webdataset(clean) == case.kept
    items, reader = read_twice(StorePath.at(clean), list)
    assert {item.key: item.members for item in items} == case.kept
    assert (reader.accounting.lost, reader.accounting.regrouped) == (0, 0)


def check_accounting(account: dict[str, int]) -> None:
    """Check that every member and byte is counted once."""
    assert account["members"] == account["kept"] + account["lost"] + account["ignored"]
    assert account["bytes"] == sum(
        account[f"bytes_{name}"] for name in ("kept", "lost", "ignored", "framing")
    )


def by_tarfile(path: Path) -> Samples:
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, suffix = member.name.rpartition(".")
            data = tar.extractfile(member)
            assert data
            samples.setdefault(key, {})[suffix] = data.read()
    return samples


def by_webdataset(path: Path) -> Samples:
    dataset = webdataset.WebDataset([str(path)], shardshuffle=False)
    return {
        sample["__key__"]: {
            suffix: data for suffix, data in sample.items() if not suffix.startswith("_")
        }
        for sample in dataset
    }


TOGETHER = [
    "cut inside data",
    "one bad checksum",
    "700 bytes of garbage between two members",
    "a key twice, apart",
    "all .json first, then all .mp4",
    "a size that is too small",
    "gzip cut in the middle",
    "members .pkl and .pyd",
]
CONFIG = DecodeConfig(
    modalities={"video": VideoSpec(kind="video", member="mp4", frames=2, size=16)},
    max_rejected_share=0.2,
)


def make_shards(folder: Path, names: list[str]) -> dict[str, Case]:
    """Write damaged shards with different samples; returns the cases by name of the shard."""
    folder.mkdir()
    cases = {}
    for i, name in enumerate(names):
        case = catalogue(make_shard(clips(f"{i}-")))[name]
        cases[f"{i}{case.suffix}"] = case
        (folder / f"{i}{case.suffix}").write_bytes(case.data)
    return cases


@pytest.mark.usefixtures("ray_cluster")
def test_decoding_keeps_the_same_samples_and_reports_the_same_losses(
    tmp_path: Path, command: Command
) -> None:
    cases = make_shards(tmp_path / "in", TOGETHER)
    summary = decode(
        discover_shards([str(tmp_path / "in")]), StorePath.at(tmp_path / "out"), CONFIG
    )
    features = FeatureSet.open(StorePath.at(tmp_path / "out"))
    rejected = read_table(StorePath.at(tmp_path / "out" / "rejected.arrow")).to_pylist()
    rows = features.samples.select(["shard", "sample_id"]).to_pylist()
    for part in features.manifest["parts"]:
        case, account = cases[part["shard"]], part["account"]
        assert [row["sample_id"] for row in rows if row["shard"] == part["shard"]] == list(
            case.kept
        )
        reported = [row for row in rejected if row["shard"] == part["shard"]]
        lost = [loss for loss in case.losses if not loss[0].endswith((".pkl", ".pyd"))]
        for member, _ in lost:
            assert any(member in row["error"] for row in reported), (part["shard"], member)
        assert {row["sample_id"] for row in reported} - {""} == {
            member.rpartition(".")[0] for member, _ in lost
        } - {""}
        assert {row["reason"] for row in reported} <= {reason for _, reason in lost}
        assert all(row["stage"] == "shard" for row in reported)
        assert account["rejected"] == {
            reason: sum(row["reason"] == reason for row in reported)
            for reason in {row["reason"] for row in reported}
        }
        check_accounting(account)
        assert account["kept"] == 2 * account["samples"] == 2 * len(case.kept)
        assert (account["lost"], account["ignored"]) == (len(lost), len(case.losses) - len(lost))
        assert account["bytes"] == len(case.data) or case.suffix != ".tar"
        assert account["regrouped"] == case.regrouped
    assert summary.num_rejected == len(rejected) > 0
    assert summary.ignored == {"pkl": 1, "pyd": 1}
    assert any(re.search(rf"\b{NUM}\b", note) for note in summary.notes)

    code, out, _ = command("inspect", tmp_path / "out", "--json")
    shown = json.loads(out)
    parts = [part["account"] for part in features.manifest["parts"]]
    assert code == 0
    assert {name: shown["account"][name] for name in ("members", "bytes", "lost")} == {
        name: sum(part[name] for part in parts) for name in ("members", "bytes", "lost")
    }
    assert shown["num_rejected"] == len(rejected)
    code, out, _ = command(
        "decode", tmp_path / "in", "--out", tmp_path / "out", "--config", config_file(tmp_path)
    )
    last = " ".join(out.split())
    assert code == 0
    assert f"{summary.num_rows} rows, {len(rejected)} rejected (" in last
    assert "2 members of unknown suffix left out (pkl, pyd)" in last


def config_file(folder: Path) -> Path:
    path = folder / "decode.yaml"
    path.write_text(json.dumps(CONFIG.model_dump(mode="json")))
    return path
