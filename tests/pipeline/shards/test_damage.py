"""Damaged shards of 50 clips: all that can be saved is kept, all else is named, by the reader, by `remix lint`, by `remix repair` and by decoding."""

import csv
import itertools
import json
import re
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import webdataset

from pipeline.decode.config import DecodeConfig, TensorSpec, VideoSpec
from pipeline.decode.job import decode
from pipeline.errors import REASONS, BudgetError
from pipeline.features.feature_set import FeatureSet
from pipeline.shards.discover import find_shards
from pipeline.shards.reader import settled
from pipeline.shards.samples import Lost, Sample
from pipeline.storage.arrow_files import read_table
from pipeline.storage.schemas import REJECTED
from pipeline.storage.store_path import Place
from tests.support.damage import Case, Samples, catalogue, make_shard
from tests.support.media_files import encode_clip, encode_npy, facts, make_tar
from tests.support.stores import Command

NUM = 50
CASES = list(
    catalogue(make_shard({str(i): {"json": b"", "mp4": bytes([i]) * 4000} for i in range(NUM)}))
)
SPLITS = ("train", "train", "validation", "test")


def clips(prefix: str = "s") -> Samples:
    """Clips of which no two have the same bytes: a box at the end of each MP4 holds its number."""
    films = [encode_clip(4 + i, size=(32, 32)) for i in range(4)]
    return {
        f"{prefix}{i:03d}": {
            "json": facts(i % 3, SPLITS[i % 4], sample_id=f"{prefix}{i:03d}"),
            "mp4": films[i % 4] + struct.pack(">I4sI", 12, b"free", i),
        }
        for i in range(NUM)
    }


@pytest.fixture(scope="module")
def made() -> dict[str, Case]:
    return catalogue(make_shard(clips()))


@pytest.fixture(scope="module")
def real(real_data: Callable[[str], Path]) -> dict[str, Case]:
    folder = real_data("avwords")
    with open(folder / "manifest.csv", encoding="utf-8", newline="") as file:
        rows = list(itertools.islice(csv.DictReader(file), NUM))
    samples = {
        row["sample_id"]: {
            "json": facts(row["word"], row["split"]),
            "mp4": (folder / row["video_path"]).read_bytes(),
        }
        for row in rows
    }
    return catalogue(make_shard(samples))


@pytest.fixture(params=["made", "real"])
def cases(request: pytest.FixtureRequest) -> dict[str, Case]:
    return request.getfixturevalue(request.param)


def written(case: Case, folder: Path) -> Path:
    path = folder / f"shard{case.suffix}"
    path.write_bytes(case.data)
    return path


@pytest.mark.parametrize("name", CASES)
def test_what_can_be_saved_is_kept_and_the_rest_is_named(
    tmp_path: Path, cases: dict[str, Case], name: str
) -> None:
    case = cases[name]
    items, reader = settled(Place.at(written(case, tmp_path)), list)
    assert {item.key: item.members for item in items if isinstance(item, Sample)} == case.kept
    losses = [
        loss for item in items for loss in (item.losses if isinstance(item, Lost) else item.ignored)
    ]
    assert sorted((loss.member, loss.reason) for loss in losses) == sorted(case.losses)
    assert {loss.reason for loss in losses} <= set(REASONS)
    assert min((loss.offset for loss in losses), default=0) == case.at
    assert {item.key for item in items if isinstance(item, Lost)} >= case.lost_keys & {
        loss.key for loss in losses if loss.key not in case.kept
    }
    account = reader.account
    assert account.members == account.kept + account.lost + account.ignored
    assert (
        account.bytes
        == account.bytes_kept + account.bytes_lost + account.bytes_ignored + account.bytes_framing
    )
    assert account.samples == len(case.kept)
    assert account.kept == sum(len(members) for members in case.kept.values())
    assert account.lost + account.ignored == len(case.losses)
    assert account.regrouped == case.regrouped
    if case.suffix == ".tar":
        assert account.bytes == len(case.data)


@pytest.mark.parametrize("name", CASES)
def test_lint_names_the_losses_and_repair_leaves_them_out(
    tmp_path: Path, cases: dict[str, Case], command: Command, name: str
) -> None:
    case = cases[name]
    path = written(case, tmp_path)
    code, out, _ = command("lint", path, "--json")
    (shard,) = json.loads(out)["shards"]
    assert code == bool(case.losses)
    assert (shard["shard"], shard["samples_kept"]) == (path.name, len(case.kept))
    assert sorted((loss["member"], loss["reason"]) for loss in shard["lost"]) == sorted(case.losses)
    assert all(loss.keys() >= {"key", "member", "offset", "reason"} for loss in shard["lost"])
    assert shard["members"] == sum(len(members) for members in case.kept.values()) + len(
        case.losses
    )
    assert shard["bytes"] == (
        len(case.data) if case.suffix == ".tar" else shard["account"]["bytes"]
    )
    code, out, _ = command("lint", path)
    assert code == bool(case.losses)
    assert all(reason in out and member in out for member, reason in case.losses)
    assert f"{len(case.kept)} samples kept in 1 shards, {len(case.losses)} losses" in out

    code, out, _ = command("repair", path, "--out", tmp_path / "clean", "--json")
    assert code == 0
    assert json.loads(out)["shards"][0]["lost"] == shard["lost"]
    (clean,) = (tmp_path / "clean").iterdir()
    assert clean.name == "shard.tar"
    code, out, _ = command("lint", clean, "--json")
    assert (code, json.loads(out)["num_lost"], json.loads(out)["num_regrouped"]) == (0, 0, 0)
    assert by_tarfile(clean) == case.kept
    assert by_webdataset(clean) == case.kept
    assert {sample.key: sample.members for sample in settled(Place.at(clean), list)[0]} == case.kept


def by_tarfile(path: Path) -> Samples:
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, suffix = member.name.rpartition(".")
            data = tar.extractfile(member)
            assert data
            found.setdefault(key, {})[suffix] = data.read()
    return found


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
    modalities={"see": VideoSpec(kind="video", member="mp4", frames=2, size=16)},
    max_rejected_share=0.2,
)


def make_shards(folder: Path, names: list[str]) -> dict[str, Case]:
    """Damaged shards in a folder, each of samples of its own; the cases by the shards' names."""
    folder.mkdir()
    found = {}
    for i, name in enumerate(names):
        case = catalogue(make_shard(clips(f"{i}-")))[name]
        found[f"{i}{case.suffix}"] = case
        (folder / f"{i}{case.suffix}").write_bytes(case.data)
    return found


@pytest.mark.usefixtures("ray_cluster")
def test_decoding_keeps_the_same_samples_and_names_the_same_losses(
    tmp_path: Path, command: Command
) -> None:
    cases = make_shards(tmp_path / "in", TOGETHER)
    summary = decode(find_shards([str(tmp_path / "in")]), Place.at(tmp_path / "out"), CONFIG)
    features = FeatureSet.open(Place.at(tmp_path / "out"))
    rejected = read_table(Place.at(tmp_path / "out" / "rejected.arrow")).to_pylist()
    rows = features.samples.select(["shard", "sample_id"]).to_pylist()
    for part in features.manifest["parts"]:
        case, account = cases[part["shard"]], part["account"]
        assert [row["sample_id"] for row in rows if row["shard"] == part["shard"]] == list(
            case.kept
        )
        told = [row for row in rejected if row["shard"] == part["shard"]]
        lost = [loss for loss in case.losses if not loss[0].endswith((".pkl", ".pyd"))]
        for member, _ in lost:
            assert any(member in row["error"] for row in told), (part["shard"], member)
        assert {row["sample_id"] for row in told} - {""} == {
            member.rpartition(".")[0] for member, _ in lost
        } - {""}
        assert {row["reason"] for row in told} <= {reason for _, reason in lost}
        assert all(row["stage"] == "shard" for row in told)
        assert account["rejected"] == {
            reason: sum(row["reason"] == reason for row in told)
            for reason in {row["reason"] for row in told}
        }
        assert account["members"] == account["kept"] + account["lost"] + account["ignored"]
        assert account["kept"] == 2 * account["samples"] == 2 * len(case.kept)
        assert (account["lost"], account["ignored"]) == (len(lost), len(case.losses) - len(lost))
        assert account["bytes"] == sum(
            account[f"bytes_{name}"] for name in ("kept", "lost", "ignored", "framing")
        )
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


@pytest.mark.usefixtures("ray_cluster")
def test_over_the_budget_the_job_stops_and_says_why(tmp_path: Path) -> None:
    make_shards(tmp_path / "in", ["one bad checksum", "cut inside data"])
    strict = CONFIG.model_copy(update={"max_rejected_share": 0.001})
    with pytest.raises(BudgetError, match=r"\b(bad_header|missing_member|truncated)\b") as caught:
        decode(find_shards([str(tmp_path / "in")]), Place.at(tmp_path / "out"), strict)
    assert all(named in str(caught.value) for named in ("max_rejected_share", "0.001"))
    rejected = read_table(Place.at(tmp_path / "out" / "rejected.arrow"))
    assert rejected.schema.names == REJECTED.names
    assert rejected.num_rows > 0
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.usefixtures("ray_cluster")
def test_too_many_rejected_in_a_row_stop_the_job(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    samples = clips()
    shard = make_shard(samples)
    (tmp_path / "in" / "twice.tar").write_bytes(shard + shard)
    strict = CONFIG.model_copy(update={"max_rejected_share": 1.0, "max_rejected_in_a_row": 7})
    with pytest.raises(
        BudgetError,
        match=r"(?=.*\bmax_rejected_in_a_row\b)(?=.*\b7\b)(?=.*\b8\b)(?=.*\bduplicate\b)",
    ):
        decode(find_shards([str(tmp_path / "in")]), Place.at(tmp_path / "out"), strict)
    rejected = read_table(Place.at(tmp_path / "out" / "rejected.arrow"))
    assert rejected["sample_id"].to_pylist() == list(samples)[:8]
    assert pc.all(pc.equal(rejected["reason"], "duplicate")).as_py()
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.usefixtures("ray_cluster")
def test_members_that_run_code_where_they_are_loaded_are_never_loaded(tmp_path: Path) -> None:
    flag = tmp_path / "harm"
    pickled = f"cposix\nsystem\n(Vtouch {flag}\ntR.".encode()
    module = f"open({str(flag)!r}, 'w')\n".encode()
    members = [
        (f"{key}.{suffix}", data) for key, each in clips().items() for suffix, data in each.items()
    ]
    for i in range(NUM):
        members[4 * i + 2 : 4 * i + 2] = [(f"s{i:03d}.pkl", pickled), (f"s{i:03d}.pyd", module)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar").write_bytes(make_tar(members))
    summary = decode(find_shards([str(tmp_path / "in")]), Place.at(tmp_path / "out"), CONFIG)
    assert (summary.num_rows, summary.num_rejected, summary.ignored) == (
        NUM,
        0,
        {"pkl": NUM, "pyd": NUM},
    )
    assert not flag.exists()


@pytest.mark.usefixtures("ray_cluster")
def test_arrays_of_objects_are_refused_and_not_unpickled(tmp_path: Path) -> None:
    flag = tmp_path / "harm"
    head = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    harmful = (
        b"\x93NUMPY\x01\x00"
        + struct.pack("<H", len(head))
        + head
        + f"cposix\nsystem\n(Vtouch {flag}\ntR.".encode()
    )
    config = DecodeConfig(
        modalities={"feel": TensorSpec(kind="tensor", member="npy", shape=(1,))},
        max_rejected_share=1.0,
    )
    arrays = [harmful if i % 2 else encode_npy(np.ones(1)) for i in range(8)]
    samples = {f"{i}": {"json": facts(i % 3), "npy": array} for i, array in enumerate(arrays)}
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar").write_bytes(make_shard(samples))
    summary = decode(find_shards([str(tmp_path / "in")]), Place.at(tmp_path / "out"), config)
    assert (summary.num_rows, summary.num_rejected) == (4, 4)
    assert not flag.exists()
