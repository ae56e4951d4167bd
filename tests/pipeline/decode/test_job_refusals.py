"""Decode jobs on damaged samples and invalid input.

Rejected samples are listed and counted; invalid input is rejected before anything is written.
"""

import gzip
import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.decode.config import AudioSpec, DecodeConfig, ImageSpec, TensorSpec
from pipeline.decode.job import decode
from pipeline.errors import (
    BudgetError,
    ConfigError,
    DataError,
    InputError,
    MismatchError,
    StoreError,
)
from pipeline.features.feature_set import FeatureSet
from pipeline.inspect import inspect
from pipeline.shards.discover import discover_shards
from pipeline.shards.limits import Limits
from pipeline.shards.lint import lint
from pipeline.storage.arrow_files import read_table
from pipeline.storage.schemas import REJECTED
from pipeline.storage.store_path import StorePath
from tests.support.clip_shards import CLIPS, CONFIG, add_shard, make_shards, sample
from tests.support.media_files import (
    encode_clip,
    encode_image,
    encode_wav,
    facts,
    make_tar,
    tone,
    write_shard,
)
from tests.support.refusals import refused

pytestmark = pytest.mark.usefixtures("ray_cluster")


def assert_rejected(
    shards: list[StorePath],
    out: Path,
    config: DecodeConfig,
    error: type[InputError],
    *words: object,
) -> None:
    with refused(error, *words) as caught:
        decode(shards, StorePath.at(out), config)
    assert caught.value.exit_code == 2
    assert not out.exists()


def damaged(folder: Path) -> list[StorePath]:
    """Three shards: 5 valid samples; 2 valid and 3 damaged ones; 1 complete and 1 truncated one."""
    make_shards(folder, 1)
    bad = {
        "b": {**sample(101), "mp4": CLIPS[0][:300]},
        "c": {**sample(102), "mp4": b"version https://git-lfs.github.com/spec/v1\n"},
        "d": {**sample(103), "npy": b""},
    }
    write_shard(folder / "x.tar", {"a": sample(100), **bad, "e": sample(104)})
    whole = make_tar(
        [
            (f"{key}.{suffix}", data)
            for key, number in (("f", 105), ("g", 106))
            for suffix, data in sample(number).items()
        ]
    )
    (folder / "y.tar").write_bytes(whole[: whole.index(b"g.mp4") + 900])
    return discover_shards([str(folder)])


def test_rejected_samples_are_listed_and_counted(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"max_rejected_share": 0.5})
    summary = decode(damaged(tmp_path / "in"), StorePath.at(tmp_path / "out"), config)
    rejected = read_table(StorePath.at(tmp_path / "out" / "rejected.arrow"))
    assert rejected.schema.equals(REJECTED)
    rows = [
        (row["shard"], row["sample_id"], row["stage"], row["reason"])
        for row in rejected.to_pylist()
    ]
    assert rows == [
        ("x.tar", "id101", "decode", "truncated"),
        ("x.tar", "id102", "decode", "lfs_pointer"),
        ("x.tar", "id103", "decode", "empty"),
        ("y.tar", "g", "shard", "truncated"),
    ]
    features = FeatureSet.open(StorePath.at(tmp_path / "out"))
    assert features.samples["sample_id"].to_pylist()[5:] == ["id100", "id104", "id105"]
    assert features.samples["index_in_shard"].to_pylist()[5:] == [0, 4, 0]
    np.testing.assert_array_equal(features.read("tensor", np.array([6]))[0], [104, 208, 1])
    assert (summary.num_rows, summary.num_rejected) == (8, 4)
    assert summary.reasons == {"truncated": 2, "lfs_pointer": 1, "empty": 1}
    for part in features.manifest["parts"]:
        account = part["account"]
        assert account["members"] == account["kept"] + account["lost"] + account["ignored"]
        assert (
            account["bytes"]
            == account["bytes_kept"]
            + account["bytes_lost"]
            + account["bytes_ignored"]
            + account["bytes_framing"]
        )
        assert account["samples"] + account["samples_lost"] == part["rows"] + sum(
            account["rejected"].values()
        )


def test_too_many_rejected_samples_stop_the_job(tmp_path: Path) -> None:
    shards, out = damaged(tmp_path / "in")[:2], StorePath.at(tmp_path / "out")
    with refused(BudgetError, "truncated", "max_rejected_share", 0.2) as caught:
        decode(shards, out, CONFIG.model_copy(update={"max_rejected_share": 0.2}))
    assert caught.value.exit_code == 1
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert read_table(out / "rejected.arrow").num_rows == 3
    lenient = CONFIG.model_copy(update={"max_rejected_share": 0.3})
    kept = decode(shards, out, lenient)
    assert kept.num_rejected == 3
    assert kept.num_reused >= 1
    with refused(MismatchError, "limits.pixels", 67108864, 5000):
        decode(shards, out, lenient.model_copy(update={"limits": Limits(pixels=5000)}))


def test_too_many_consecutive_rejected_samples_stop_the_job(tmp_path: Path) -> None:
    shards, out = damaged(tmp_path / "in")[:2], StorePath.at(tmp_path / "out")
    words = ("x.tar", 3, "max_rejected_in_a_row", 2, "truncated", "lfs_pointer", "empty", "id103")
    lenient = CONFIG.model_copy(update={"max_rejected_share": 1.0})
    with refused(BudgetError, *words) as caught:
        decode(shards, out, lenient.model_copy(update={"max_rejected_in_a_row": 2}))
    assert caught.value.exit_code == 1
    assert not (tmp_path / "out" / "manifest.json").exists()
    named = read_table(out / "rejected.arrow")["sample_id"].to_pylist()
    assert named == ["id101", "id102", "id103"]
    kept = decode(shards, out, lenient.model_copy(update={"max_rejected_in_a_row": 3}))
    assert kept.num_rejected == 3


def test_compressed_shards_non_contiguous_samples_and_unknown_suffixes(tmp_path: Path) -> None:
    plain = make_shards(tmp_path / "in")
    decode(plain, StorePath.at(tmp_path / "plain"), CONFIG)
    for number, pack in enumerate(
        (gzip.compress, lambda data: pa.compress(data, codec="zstd", asbytes=True), non_contiguous)
    ):
        packed = pack(Path(plain[number].path).read_bytes())
        Path(plain[number].path).unlink()
        (tmp_path / "in" / f"part-{number}{('.tar.gz', '.tar.zst', '.tar')[number]}").write_bytes(
            packed
        )
    # in a first pass, each part of a sample that is not contiguous seems to lack the rest
    strict = CONFIG.model_copy(update={"max_rejected_in_a_row": 1})
    shards = discover_shards([str(tmp_path / "in")])
    summary = decode(shards, StorePath.at(tmp_path / "packed"), strict)
    one, other = (FeatureSet.open(StorePath.at(tmp_path / name)) for name in ("plain", "packed"))
    ids = other.samples["sample_id"].to_pylist()
    assert sorted(ids) == one.samples["sample_id"].to_pylist()
    order = np.argsort(np.array(ids))
    for name in one.modalities:
        np.testing.assert_array_equal(other.read(name, order), one.read(name, np.arange(15)))
    assert summary.num_rejected == 0
    assert summary.ignored == {"pkl": 5}
    assert any(re.search(r"\b5\b", note) for note in summary.notes)


def test_members_with_another_format_than_their_suffix_are_counted(tmp_path: Path) -> None:
    png, jpg, wav = (
        encode_image(np.zeros((8, 8, 3), np.uint8), "PNG"),
        encode_image(np.zeros((8, 8, 3), np.uint8), "JPEG"),
        encode_wav(tone(800, 0.1)),
    )
    for shard in range(2):
        samples = {
            f"{shard}{key}": {"json": facts(key), "jpg": image, "mp3": wav}
            for key, image in (("a", png), ("b", jpg), ("c", png))
        }
        write_shard(tmp_path / "in" / f"{shard}.tar", samples)
    config = DecodeConfig(
        modalities={
            "image": ImageSpec(kind="image", member="jpg", size=8),
            "audio": AudioSpec(kind="audio", member="mp3"),
        }
    )
    shards, counts = discover_shards([str(tmp_path / "in")]), {"jpg": {"png": 4}, "mp3": {"wav": 6}}
    summary = decode(shards, StorePath.at(tmp_path / "out"), config)
    assert (summary.num_rows, summary.num_rejected, summary.mislabelled) == (6, 0, counts)
    assert "jpg: 4 are png; mp3: 6 are wav" in summary.text
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["mislabelled"] == counts
    for report in (inspect(tmp_path / "out"), inspect(tmp_path / "in"), lint(shards)):
        assert report["mislabelled"] == counts
    assert lint(shards)["shards"][1]["mislabelled"] == {"jpg": {"png": 2}, "mp3": {"wav": 3}}


def non_contiguous(tar: bytes) -> bytes:
    """The same samples ordered by suffix, each with a pickle that would exit the process."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive]
    pickles = [
        (name.replace("json", "pkl"), b"cos\n_exit\n(I1\ntR.")
        for name, _ in members
        if name.endswith("json")
    ]
    return make_tar(sorted(members + pickles, key=lambda member: member[0].rpartition(".")[2]))


@pytest.mark.parametrize(
    ("samples", "parts"),
    [
        ({"k": sample(9), "l": sample(3)}, ["id003", "part-0.tar", "3", "x.tar", "1"]),
        ({"k": sample(9, split="half")}, ["half", "x.tar", "0", "train", "validation", "test"]),
        ({"k": sample(9, split=None)}, ["x.tar", "0", "split"]),
    ],
)
def test_invalid_samples_are_rejected(
    tmp_path: Path, samples: dict[str, dict[str, bytes]], parts: list[str]
) -> None:
    assert_rejected(
        add_shard(tmp_path / "in", samples), tmp_path / "out", CONFIG, DataError, *parts
    )


def test_invalid_configurations_are_rejected(tmp_path: Path) -> None:
    shards, out = make_shards(tmp_path / "in", 1), tmp_path / "out"
    for classes, error, words in (
        (("0", "1"), DataError, ("2", "0", "1", "part-0.tar")),
        (("0", "1", "2", "2"), ConfigError, ("classes", "2")),
    ):
        assert_rejected(shards, out, CONFIG.model_copy(update={"classes": classes}), error, *words)
    extra = TensorSpec(kind="tensor", member="extra.npy", shape=(1,))
    config = DecodeConfig(modalities={**CONFIG.modalities, "extra": extra})
    assert_rejected(shards, out, config, InputError, "extra", "extra.npy", "mp4", "npy")
    short = DecodeConfig(modalities={"audio": AudioSpec(kind="audio", member="mp4", seconds=0.01)})
    assert_rejected(shards, out, short, ConfigError, "modalities.audio", "n_fft")


def test_shards_without_training_data_are_rejected(tmp_path: Path) -> None:
    one = {f"{n}": {**sample(n), "json": facts(5)} for n in range(3)}
    untrained = {f"{n}": {**sample(n), "json": facts(n, "test")} for n in range(3)}
    write_shard(tmp_path / "one.tar", one)
    write_shard(tmp_path / "untrained.tar", untrained)
    (tmp_path / "text.tar").write_bytes(b"no tar" * 200)
    for name, error, word in (
        ("one", InputError, "5"),
        ("untrained", DataError, "train"),
        ("text", DataError, "text.tar"),
    ):
        shards = discover_shards([str(tmp_path / f"{name}.tar")])
        assert_rejected(shards, tmp_path / "out", CONFIG, error, word)
    inside = tmp_path / "text.tar" / "out"
    assert_rejected(make_shards(tmp_path / "in", 1), inside, CONFIG, StoreError, inside)


def test_modality_without_a_stream_in_any_container_is_rejected(tmp_path: Path) -> None:
    write_shard(
        tmp_path / "in" / "train-0.tar",
        {
            f"{n}": {"json": json.dumps({"label": n}).encode(), "mp4": encode_clip(3)}
            for n in range(2)
        },
    )
    config = DecodeConfig(modalities={name: CONFIG.modalities[name] for name in ("video", "audio")})
    with pytest.raises(DataError, match=r"\baudio\b"):
        decode(discover_shards([str(tmp_path / "in")]), StorePath.at(tmp_path / "out"), config)
    assert not (tmp_path / "out" / "manifest.json").exists()
