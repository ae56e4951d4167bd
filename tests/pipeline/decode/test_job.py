"""Shards -> feature tables on Ray: the same bytes whatever the parallelism, every rejection named, and bad input refused before anything is written."""

import csv
import gzip
import io
import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import AudioSpec, DecodeConfig, Limits, TensorSpec, VideoSpec
from pipeline.decode.job import DecodeSummary, Progress, decode
from pipeline.decode.media.sample import decode_sample
from pipeline.decode.preflight import infer_config, sorted_labels
from pipeline.decode.shard_task import VERSION
from pipeline.errors import (
    BudgetError,
    ConfigError,
    DataError,
    InputError,
    MismatchError,
    StoreError,
)
from pipeline.features.feature_set import FeatureSet, read_table
from pipeline.features.id_index import IDS, IDS_SCHEMA, find_rows
from pipeline.shards.discover import find_shards
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.schemas import REJECTED
from pipeline.storage.store_path import MANIFEST, Place
from tests.support.media_files import (
    encode_clip,
    encode_image,
    encode_npy,
    encode_wav,
    facts,
    make_tar,
    tone,
    write_shard,
)

pytestmark = pytest.mark.usefixtures("ray_cluster")

CONFIG = DecodeConfig(
    modalities={
        "see": VideoSpec(kind="video", member="mp4", frames=2, size=16),
        "hear": AudioSpec(kind="audio", member="mp4", seconds=0.5, num_mels=16),
        "feel": TensorSpec(kind="tensor", member="npy", shape=(3,)),
    }
)
CLIPS = [encode_clip(4 + i, sound=tone(400 + 200 * i, 0.5)) for i in range(3)]


def media(number: int) -> dict[str, bytes]:
    return {
        "mp4": CLIPS[number % len(CLIPS)],
        "npy": encode_npy(np.array([number, 2 * number, 1.0])),
    }


def sample(number: int, **changes: object) -> dict[str, bytes]:
    split = ("train", "train", "validation", "test")[number % 4]
    return {
        "json": facts(number % 3, **{"split": split, "sample_id": f"id{number:03d}", **changes}),
        **media(number),
    }


def make_shards(folder: Path, num_shards: int = 3, num: int = 5) -> list[Place]:
    for i in range(num_shards):
        write_shard(
            folder / f"part-{i}.tar", {f"{n:04d}": sample(n) for n in range(i * num, (i + 1) * num)}
        )
    return find_shards([str(folder)])


def add_shard(folder: Path, samples: dict[str, dict[str, bytes]]) -> list[Place]:
    make_shards(folder, 1)
    write_shard(folder / "x.tar", samples)
    return find_shards([str(folder)])


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refused(
    shards: list[Place], out: Path, config: DecodeConfig, error: type[InputError], *parts: str
) -> None:
    with pytest.raises(error) as caught:
        decode(shards, Place.at(out), config)
    assert caught.value.exit_code == 2
    for part in parts:
        assert re.search(rf"(?<![\w.])(?<!\w-){re.escape(part)}(?!\w)", str(caught.value)), (
            caught.value
        )
    assert not out.exists()


def test_rows_are_the_samples_in_order(tmp_path: Path) -> None:
    seen: list[Progress] = []
    summary = decode(
        make_shards(tmp_path / "in"), Place.at(tmp_path / "out"), CONFIG, progress=seen.append
    )
    features = FeatureSet.open(Place.at(tmp_path / "out"))
    assert features.modalities == ["see", "hear", "feel"]
    assert features.samples["sample_id"].to_pylist() == [f"id{n:03d}" for n in range(15)]
    assert features.samples["shard"].to_pylist() == [f"part-{n // 5}.tar" for n in range(15)]
    assert features.samples["index_in_shard"].to_pylist() == [n % 5 for n in range(15)]
    assert features.samples["split"].to_pylist() == [
        ("train", "train", "validation", "test")[n % 4] for n in range(15)
    ]
    assert features.labels.tolist() == [n % 3 for n in range(15)]
    assert features.classes == ["0", "1", "2"]
    assert features.has.all()
    for number in range(15):
        for name, expected in decode_sample(
            media(number), CONFIG.modalities, CONFIG.limits
        ).items():
            np.testing.assert_array_equal(features.read(name, np.array([number]))[0], expected)
    index = BatchFile(Place.at(tmp_path / "out" / IDS), IDS_SCHEMA)
    assert [find_rows(index, f"id{n:03d}") for n in range(16)] == [*([n] for n in range(15)), []]
    assert (summary.num_rows, summary.num_rejected, summary.splits) == (
        15,
        0,
        {"train": 8, "validation": 4, "test": 3},
    )
    assert [(p.stage, p.num_done) for p in seen] == [
        (stage, i + 1) for stage in ("scan", "decode") for i in range(3)
    ]
    assert (seen[-1].num_rows, seen[-1].num_shards) == (15, 3)


def test_mean_and_sd_are_those_of_the_training_rows(tmp_path: Path) -> None:
    decode(make_shards(tmp_path / "in"), Place.at(tmp_path / "out"), CONFIG)
    features = FeatureSet.open(Place.at(tmp_path / "out"))
    for name, axes in (("see", (0, 1, 3, 4)), ("hear", (0, 2, 3)), ("feel", (0,))):
        rows = features.read(name, features.rows_of("train")).astype(np.float64)
        np.testing.assert_allclose(
            features.manifest["modalities"][name]["mean"], rows.mean(axes), rtol=1e-9
        )
        np.testing.assert_allclose(
            features.manifest["modalities"][name]["std"], rows.std(axes), rtol=1e-6
        )


def test_the_bytes_do_not_depend_on_parallelism_place_or_interruption(tmp_path: Path) -> None:
    one = decode(make_shards(tmp_path / "in"), Place.at(tmp_path / "one"), CONFIG, concurrency=1)
    shutil.copytree(tmp_path / "in", tmp_path / "elsewhere" / "deep")
    two = decode(
        find_shards([str(tmp_path / "elsewhere" / "deep" / "*.tar")]),
        Place.at(tmp_path / "two"),
        CONFIG,
        concurrency=2,
    )
    assert one.fingerprint == two.fingerprint
    expected = files(tmp_path / "one")
    assert files(tmp_path / "two") == expected
    (tmp_path / "two" / "manifest.json").unlink()
    (tmp_path / "two" / ".parts" / "part-00001.json").unlink()
    (tmp_path / "two" / "see" / "part-00002.arrow").unlink()
    again = decode(find_shards([str(tmp_path / "in")]), Place.at(tmp_path / "two"), CONFIG)
    assert (again.num_reused, again.unchanged) == (1, False)
    assert files(tmp_path / "two") == expected


def test_a_finished_set_is_returned_or_refused(tmp_path: Path) -> None:
    shards, out = make_shards(tmp_path / "in"), Place.at(tmp_path / "out")
    first = decode(shards, out, CONFIG)
    first_shards = (out / MANIFEST).read_json()["parents"]["shards"][:12]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = decode(shards, out, CONFIG)
    assert again.unchanged
    assert again.fingerprint == first.fingerprint
    assert len(again.notes) == len(first.notes) + 1
    with pytest.raises(MismatchError, match=first_shards):
        decode(shards[:2], out, CONFIG)
    with pytest.raises(MismatchError, match="feel"):
        decode(
            shards,
            out,
            DecodeConfig(modalities={name: CONFIG.modalities[name] for name in ("see", "hear")}),
        )
    path = tmp_path / "in" / "part-1.tar"
    data = bytearray(path.read_bytes())
    data[data.index(CLIPS[0][200:400])] ^= 1
    path.write_bytes(data)
    with pytest.raises(MismatchError, match=first_shards):
        decode(shards, out, CONFIG)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    (out / MANIFEST).write_json({**(out / MANIFEST).read_json(), "version": VERSION - 1})
    with pytest.raises(
        MismatchError, match=rf"(?s)(?=.*(?<![\w-]){VERSION - 1}\b)(?=.*(?<![\w-]){VERSION}\b)"
    ):
        decode(shards, out, CONFIG)


def test_a_sample_that_lacks_a_modality_stays(tmp_path: Path) -> None:
    lacking = {
        f"y{n}": {key: value for key, value in sample(100 + n).items() if key != "npy"}
        for n in range(2)
    }
    silent = {"z": {**sample(200), "mp4": encode_clip(4)}}
    summary = decode(
        add_shard(tmp_path / "in", {**lacking, **silent}), Place.at(tmp_path / "out"), CONFIG
    )
    features = FeatureSet.open(Place.at(tmp_path / "out"))
    assert summary.num_rejected == 0
    assert features.has[5:].tolist() == [
        [True, True, False],
        [True, True, False],
        [True, False, True],
    ]
    assert not features.read("feel", np.array([5, 6])).any()
    assert not features.read("hear", np.array([7])).any()
    assert features.manifest["modalities"]["hear"]["num_rows"] == 7


def damaged(folder: Path) -> list[Place]:
    """Five good samples; then three bad ones between two good; then a cut shard with one whole sample and one lost."""
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
    return find_shards([str(folder)])


def test_what_cannot_be_decoded_is_named_and_counted(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"max_rejected_share": 0.5})
    summary = decode(damaged(tmp_path / "in"), Place.at(tmp_path / "out"), config)
    rejected = read_table(Place.at(tmp_path / "out" / "rejected.arrow"))
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
    features = FeatureSet.open(Place.at(tmp_path / "out"))
    assert features.samples["sample_id"].to_pylist()[5:] == ["id100", "id104", "id105"]
    assert features.samples["index_in_shard"].to_pylist()[5:] == [0, 4, 0]
    np.testing.assert_array_equal(features.read("feel", np.array([6]))[0], [104, 208, 1])
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


def test_over_budget_the_job_stops_with_a_summary(tmp_path: Path) -> None:
    shards, out = damaged(tmp_path / "in"), tmp_path / "out"
    with pytest.raises(
        BudgetError, match=r"(?s)(?=.*\btruncated\b)(?=.*\bmax_rejected_share\b)(?=.*\b0\.2\b)"
    ) as caught:
        decode(shards[:2], Place.at(out), CONFIG.model_copy(update={"max_rejected_share": 0.2}))
    assert caught.value.exit_code == 1
    assert not (out / "manifest.json").exists()
    kept = decode(shards[:2], Place.at(out), CONFIG.model_copy(update={"max_rejected_share": 0.3}))
    assert kept.num_rejected == 3
    assert kept.num_reused >= 1
    with pytest.raises(
        MismatchError, match=r"(?s)(?=.*\blimits\.pixels\b)(?=.*\b67108864\b)(?=.*\b5000\b)"
    ):
        decode(
            shards[:2],
            Place.at(out),
            CONFIG.model_copy(update={"max_rejected_share": 0.3, "limits": Limits(pixels=5000)}),
        )


def test_too_many_rejected_in_a_row_stop_the_job(tmp_path: Path) -> None:
    shards, lenient = damaged(tmp_path / "in")[:2], {"max_rejected_share": 1.0}
    named = (
        r"x\.tar",
        "3",
        "max_rejected_in_a_row",
        "2",
        "truncated",
        "lfs_pointer",
        "empty",
        "id103",
    )
    with pytest.raises(
        BudgetError, match="(?s)" + "".join(rf"(?=.*(?<![\w-]){each}\b)" for each in named)
    ) as caught:
        decode(
            shards,
            Place.at(tmp_path / "out"),
            CONFIG.model_copy(update={**lenient, "max_rejected_in_a_row": 2}),
        )
    assert caught.value.exit_code == 1
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert (
        decode(
            shards,
            Place.at(tmp_path / "out"),
            CONFIG.model_copy(update={**lenient, "max_rejected_in_a_row": 3}),
        ).num_rejected
        == 3
    )


def test_limits_reject_what_is_more(tmp_path: Path) -> None:
    limits = Limits(pixels=64 * 48 - 1)
    with pytest.raises(BudgetError, match=r"(?s)(?=.*\boversize\b)(?=.*(?<![\w-])5\b)"):
        decode(
            make_shards(tmp_path / "in", 1),
            Place.at(tmp_path / "out"),
            CONFIG.model_copy(update={"limits": limits}),
        )


def test_packed_shards_torn_samples_and_unknown_suffixes(tmp_path: Path) -> None:
    plain = make_shards(tmp_path / "in")
    decode(plain, Place.at(tmp_path / "plain"), CONFIG)
    for number, pack in enumerate(
        (gzip.compress, lambda data: pa.compress(data, codec="zstd", asbytes=True), torn)
    ):
        packed = pack(Path(plain[number].path).read_bytes())
        Path(plain[number].path).unlink()
        (tmp_path / "in" / f"part-{number}{('.tar.gz', '.tar.zst', '.tar')[number]}").write_bytes(
            packed
        )
    summary = decode(find_shards([str(tmp_path / "in")]), Place.at(tmp_path / "packed"), CONFIG)
    one, other = (FeatureSet.open(Place.at(tmp_path / name)) for name in ("plain", "packed"))
    ids = other.samples["sample_id"].to_pylist()
    assert sorted(ids) == one.samples["sample_id"].to_pylist()
    order = np.argsort(np.array(ids))
    for name in one.modalities:
        np.testing.assert_array_equal(other.read(name, order), one.read(name, np.arange(15)))
    assert summary.num_rejected == 0
    assert summary.ignored == {"pkl": 5}
    assert any(re.search(r"\b5\b", note) for note in summary.notes)


def torn(tar: bytes) -> bytes:
    """The same samples, suffix by suffix, and each with a pickle."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive]
    pickles = [
        (name.replace("json", "pkl"), b"cos\nsystem\n(S'false'\ntR.")
        for name, _ in members
        if name.endswith("json")
    ]
    return make_tar(sorted(members + pickles, key=lambda member: member[0].rpartition(".")[2]))


@pytest.mark.parametrize(
    ("samples", "parts"),
    [
        ({"k": sample(9), "l": sample(3)}, ["id003", "part-0.tar", "3", "x.tar", "1"]),
        ({"k": sample(9, split="dev")}, ["dev", "x.tar", "0", "train", "validation", "test"]),
        ({"k": sample(9, split=None)}, ["x.tar", "0", "split"]),
    ],
)
def test_bad_samples_are_refused(
    tmp_path: Path, samples: dict[str, dict[str, bytes]], parts: list[str]
) -> None:
    refused(add_shard(tmp_path / "in", samples), tmp_path / "out", CONFIG, DataError, *parts)


def test_bad_configurations_are_refused(tmp_path: Path) -> None:
    shards, out = make_shards(tmp_path / "in", 1), tmp_path / "out"
    refused(
        shards,
        out,
        CONFIG.model_copy(update={"classes": ("0", "1")}),
        DataError,
        "2",
        "0",
        "1",
        "part-0.tar",
    )
    refused(
        shards,
        out,
        CONFIG.model_copy(update={"classes": ("0", "1", "2", "2")}),
        ConfigError,
        "classes",
        "2",
    )
    smell = TensorSpec(kind="tensor", member="smell.npy", shape=(1,))
    refused(
        shards,
        out,
        DecodeConfig(modalities={**CONFIG.modalities, "smell": smell}),
        InputError,
        "smell",
        "smell.npy",
        "mp4",
        "npy",
    )
    short = AudioSpec(kind="audio", member="mp4", seconds=0.01)
    refused(
        shards,
        out,
        DecodeConfig(modalities={"hear": short}),
        ConfigError,
        "modalities.hear",
        "n_fft",
    )


def test_sets_that_cannot_be_trained_on_are_refused(tmp_path: Path) -> None:
    write_shard(
        tmp_path / "one" / "a.tar", {f"{n}": {**sample(n), "json": facts(5)} for n in range(3)}
    )
    refused(find_shards([str(tmp_path / "one")]), tmp_path / "out", CONFIG, InputError, "5")
    write_shard(
        tmp_path / "untrained" / "a.tar",
        {f"{n}": {**sample(n), "json": facts(n, "test")} for n in range(3)},
    )
    refused(
        find_shards([str(tmp_path / "untrained")]), tmp_path / "out", CONFIG, DataError, "train"
    )
    (tmp_path / "text.tar").write_bytes(b"no tar" * 200)
    refused(
        find_shards([str(tmp_path / "text.tar")]), tmp_path / "out", CONFIG, DataError, "text.tar"
    )


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(
        make_shards(tmp_path / "in", 1),
        tmp_path / "file" / "out",
        CONFIG,
        StoreError,
        str(tmp_path / "file" / "out"),
    )


def test_a_modality_whose_container_never_has_it_is_refused(tmp_path: Path) -> None:
    write_shard(
        tmp_path / "in" / "train-0.tar",
        {
            f"{n}": {"json": json.dumps({"label": n}).encode(), "mp4": encode_clip(3)}
            for n in range(2)
        },
    )
    config = DecodeConfig(modalities={name: CONFIG.modalities[name] for name in ("see", "hear")})
    with pytest.raises(DataError, match=r"\bhear\b"):
        decode(find_shards([str(tmp_path / "in")]), Place.at(tmp_path / "out"), config)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_configuration_from_the_first_sample_or_the_file_beside(tmp_path: Path) -> None:
    picture = encode_image(np.zeros((9, 9, 3), np.uint8))
    members = {
        "json": facts("a"),
        "mp4": encode_clip(3),
        "audio.wav": encode_wav(tone(500, 0.5)),
        "depth.png": picture,
        "npy": encode_npy(np.zeros((4, 2))),
    }
    write_shard(tmp_path / "train-0.tar", {"k": members})
    shards = find_shards([str(tmp_path)])
    found = infer_config(shards).modalities
    assert {name: (spec.kind, spec.member) for name, spec in found.items()} == {
        "audio": ("audio", ("audio.wav",)),
        "depth": ("image", ("depth.png",)),
        "video": ("video", ("mp4",)),
        "tensor": ("tensor", ("npy",)),
    }
    assert found["tensor"].shape == (4, 2)
    (tmp_path / "decode.yaml").write_text(
        "modalities:\n  eye: {kind: image, member: depth.png, size: 16}\nclasses: [b, a]\n"
    )
    assert infer_config(shards).classes == ("b", "a")
    assert list(infer_config(shards).modalities) == ["eye"]
    (tmp_path / "decode.yaml").write_text(
        "modalities:\n  eye: {kind: image, member: depth.png, sise: 16}\n"
    )
    with pytest.raises(ConfigError, match=r"(?s)(?=.*\bsise\b)(?=.*\bsize\b)"):
        infer_config(shards)


def test_labels_sort_by_value_where_all_are_numbers() -> None:
    assert sorted_labels(["10", "9", "-1"]) == ("-1", "9", "10")
    assert sorted_labels(["10", "9", "x"]) == ("10", "9", "x")


def test_foreign_shards_with_cls_and_split_in_the_name(tmp_path: Path) -> None:
    for split, start in (("train", 0), ("val", 2)):
        write_shard(
            tmp_path / "in" / f"{split}-000.tar",
            {f"{n}": {"cls": str(n % 2).encode(), **media(n)} for n in range(start, start + 2)},
        )
    summary = decode(find_shards([str(tmp_path / "in")]), Place.at(tmp_path / "out"), CONFIG)
    assert summary.splits == {"train": 2, "validation": 2, "test": 0}
    assert len(summary.notes) == 1 and "test" in summary.notes[0]


def test_real_clips(tmp_path: Path, real_data) -> None:
    folder = real_data("avwords")
    with open(folder / "manifest.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:40]
    for i in range(2):
        members = {
            row["sample_id"]: {
                "json": facts(row["word"], row["split"]),
                "mp4": (folder / row["video_path"]).read_bytes(),
            }
            for row in rows[i * 20 : i * 20 + 20]
        }
        write_shard(tmp_path / "in" / f"all-{i}.tar", members)
    shards = find_shards([str(tmp_path / "in")])
    summary: DecodeSummary = decode(shards, Place.at(tmp_path / "out"), infer_config(shards))
    assert (summary.num_rows, summary.num_rejected) == (40, 0)
    features = FeatureSet.open(Place.at(tmp_path / "out"))
    assert features.samples["sample_id"].to_pylist() == [row["sample_id"] for row in rows]
    assert features.has.all()
    assert [features.classes[label] for label in features.labels] == [row["word"] for row in rows]
    frames, sound = features.read("video", np.arange(40)), features.read("audio", np.arange(40))
    assert (frames.shape, sound.shape) == ((40, 8, 3, 112, 112), (40, 1, 64, 201))
    assert (
        len({frame.tobytes() for frame in frames})
        == len({spectrum.tobytes() for spectrum in sound})
        == 40
    )
