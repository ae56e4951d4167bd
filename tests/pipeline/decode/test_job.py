"""Decode jobs on Ray: deterministic output, correct rows, and reuse of existing feature sets."""

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from pipeline.decode.account import account_path, read_account
from pipeline.decode.config import DecodeConfig
from pipeline.decode.inference import infer_config
from pipeline.decode.job import decode
from pipeline.decode.media.sample import decode_sample
from pipeline.decode.problems import sorted_labels
from pipeline.decode.reuse import lowered_limits, outdated_reasons
from pipeline.decode.shard_task import VERSION
from pipeline.decode.summary import DecodeSummary, Progress
from pipeline.errors import REASONS, ConfigError, DataError, MismatchError
from pipeline.features.feature_set import FeatureSet
from pipeline.features.id_index import IDS, IDS_SCHEMA, find_rows
from pipeline.features.manifest import features_fingerprint
from pipeline.shards.discover import discover_shards
from pipeline.shards.limits import Limits
from pipeline.storage.arrow_files import read_table
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.metadata import fingerprint
from pipeline.storage.store_path import MANIFEST, StorePath
from tests.support.clip_shards import CLIPS, CONFIG, add_shard, make_shards, media, sample
from tests.support.media_files import (
    encode_clip,
    encode_image,
    encode_npy,
    encode_wav,
    facts,
    tone,
    write_shard,
)

pytestmark = pytest.mark.usefixtures("ray_cluster")


def read_files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_rows_follow_sample_order_and_moments_are_of_training_rows(
    tmp_path: Path,
) -> None:
    seen: list[Progress] = []
    summary = decode(
        make_shards(tmp_path / "in"), StorePath.at(tmp_path / "out"), CONFIG, progress=seen.append
    )
    features = FeatureSet.open(StorePath.at(tmp_path / "out"))
    assert features.modalities == ["video", "audio", "tensor"]
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
    index = BatchFile(StorePath.at(tmp_path / "out" / IDS), IDS_SCHEMA)
    assert [find_rows(index, f"id{n:03d}") for n in range(16)] == [*([n] for n in range(15)), []]
    assert (summary.num_rows, summary.num_rejected, summary.splits) == (
        15,
        0,
        {"train": 8, "validation": 4, "test": 3},
    )
    assert [(p.stage, p.num_done) for p in seen] == [("decode", i) for i in range(4)]
    assert (seen[-1].num_rows, seen[-1].num_shards) == (15, 3)
    for name, axes in (("video", (0, 1, 3, 4)), ("audio", (0, 2, 3)), ("tensor", (0,))):
        rows = features.read(name, features.rows_of("train")).astype(np.float64)
        stored = features.manifest["modalities"][name]
        np.testing.assert_allclose(stored["mean"], rows.mean(axes), rtol=1e-9)
        np.testing.assert_allclose(stored["std"], rows.std(axes), rtol=1e-6)


def test_output_is_independent_of_parallelism_path_and_interruption(tmp_path: Path) -> None:
    one = decode(
        make_shards(tmp_path / "in"), StorePath.at(tmp_path / "one"), CONFIG, concurrency=1
    )
    shutil.copytree(tmp_path / "in", tmp_path / "elsewhere" / "deep")
    two = decode(
        discover_shards([str(tmp_path / "elsewhere" / "deep" / "*.tar")]),
        StorePath.at(tmp_path / "two"),
        CONFIG,
        concurrency=2,
    )
    assert one.fingerprint == two.fingerprint
    expected = read_files(tmp_path / "one")
    assert read_files(tmp_path / "two") == expected
    (tmp_path / "two" / "manifest.json").unlink()
    (tmp_path / "two" / ".parts" / "part-00001.arrow").unlink()
    (tmp_path / "two" / "video" / "part-00002.arrow").unlink()
    again = decode(discover_shards([str(tmp_path / "in")]), StorePath.at(tmp_path / "two"), CONFIG)
    assert (again.num_reused, again.unchanged) == (1, False)
    assert read_files(tmp_path / "two") == expected


def test_complete_feature_set_is_reused_or_rejected_if_it_differs(tmp_path: Path) -> None:
    shards, out = make_shards(tmp_path / "in"), StorePath.at(tmp_path / "out")
    first = decode(shards, out, CONFIG)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = decode(shards, out, CONFIG)
    assert again.unchanged
    assert again.fingerprint == first.fingerprint
    assert len(again.notes) == len(first.notes) + 1
    with pytest.raises(MismatchError, match=r"\bpart-2\.tar\b"):
        decode(shards[:2], out, CONFIG)
    with pytest.raises(MismatchError, match="tensor"):
        decode(
            shards,
            out,
            DecodeConfig(
                modalities={name: CONFIG.modalities[name] for name in ("video", "audio")},
                ignore=("npy",),
            ),
        )
    path = tmp_path / "in" / "part-1.tar"
    data = bytearray(path.read_bytes())
    data[data.index(CLIPS[0][200:400])] ^= 1
    path.write_bytes(data)
    with pytest.raises(MismatchError, match=r"\bpart-1\.tar\b"):
        decode(shards, out, CONFIG)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    (out / MANIFEST).write_json({**(out / MANIFEST).read_json(), "version": VERSION - 1})
    with pytest.raises(
        MismatchError, match=rf"(?s)(?=.*(?<![\w-]){VERSION - 1}\b)(?=.*(?<![\w-]){VERSION}\b)"
    ):
        decode(shards, out, CONFIG)


def test_higher_limits_decode_only_rejected_samples(tmp_path: Path) -> None:
    large = {"z": {**sample(100), "mp4": encode_clip(4, size=(96, 64), sound=tone(500, 0.5))}}
    make_shards(tmp_path / "in", 2)
    shards, out = add_shard(tmp_path / "in", large), StorePath.at(tmp_path / "out")
    lenient = CONFIG.model_copy(update={"max_rejected_share": 1.0})

    def decode_with(limits: Limits, where: StorePath = out) -> DecodeSummary:
        return decode(shards, where, lenient.model_copy(update={"limits": limits}))

    first = decode_with(Limits(pixels=4000))
    assert first.reasons == {"oversize": 1}
    before = read_files(tmp_path / "out")
    assert decode_with(Limits(pixels=4000, timeout=90)).unchanged
    assert read_files(tmp_path / "out") == before
    for lower in (Limits(pixels=3999), Limits(pixels=9000, timeout=59)):
        with pytest.raises(MismatchError, match=r"\blimits\.(pixels|timeout)\b"):
            decode_with(lower)
    assert read_files(tmp_path / "out") == before
    raised = decode_with(Limits(pixels=9000))
    assert (raised.num_reused, raised.num_rejected, raised.unchanged) == (2, 0, False)
    assert raised.fingerprint != first.fingerprint
    fresh = decode_with(Limits(pixels=9000), StorePath.at(tmp_path / "fresh"))
    assert raised.fingerprint == fresh.fingerprint
    assert decode_with(Limits(pixels=10_000)).unchanged


def test_member_above_a_limit_is_decoded_after_raising_it(tmp_path: Path) -> None:
    large = CLIPS[0] + struct.pack(">I4s", 50_008, b"free") + bytes(50_000)
    shards = add_shard(tmp_path / "in", {"z": {**sample(100), "mp4": large}})
    strict = {"max_rejected_share": 1.0, "limits": Limits(member_bytes=50_000)}
    out = StorePath.at(tmp_path / "out")
    assert decode(shards, out, CONFIG.model_copy(update=strict)).reasons == {"oversize": 1}
    again = decode(shards, out, CONFIG)
    assert (again.num_rows, again.num_rejected, again.num_reused) == (6, 0, 1)


def test_samples_that_timed_out_are_decoded_after_raising_the_timeout(tmp_path: Path) -> None:
    shards, out = make_shards(tmp_path / "in", 2, 2), StorePath.at(tmp_path / "out")
    hasty = {"max_rejected_share": 1.0, "limits": Limits(timeout=1e-6)}
    with pytest.raises(DataError):
        decode(shards, out, CONFIG.model_copy(update=hasty))
    assert read_account(account_path(out, 1)).record["rejected"] == {"timeout": 2}
    patient = decode(shards, out, CONFIG)
    assert (patient.num_rows, patient.num_rejected, patient.num_reused) == (4, 0, 0)


def test_feature_set_of_older_release_with_fewer_fields_is_reused(tmp_path: Path) -> None:
    """Its manifest lacks a field and a limit."""
    shards, out = make_shards(tmp_path / "in", 2), StorePath.at(tmp_path / "out")
    decode(shards, out, CONFIG)
    manifest = (out / MANIFEST).read_json()
    del manifest["modalities"]["audio"]["spec"]["pad"], manifest["limits"]["fps"]
    content = fingerprint(read_table(out / "samples.arrow"), {})
    manifest["fingerprint"] = features_fingerprint(manifest, content)
    (out / MANIFEST).write_json(manifest)
    assert decode(shards, out, CONFIG).unchanged
    assert decode(shards, out, CONFIG.model_copy(update={"limits": Limits(timeout=90)})).unchanged
    audio = CONFIG.modalities["audio"].model_copy(update={"pad": "repeat"})
    with pytest.raises(MismatchError, match=r"\baudio\b"):
        decode(shards, out, DecodeConfig(modalities={**CONFIG.modalities, "audio": audio}))


@pytest.mark.parametrize(
    ("raised", "reasons"),
    [
        ({}, set()),
        ({"timeout": 61}, {"timeout"}),
        ({"frames": 2_000_000, "fps": 2000}, {"oversize"}),
        ({"memory": 2**32, "timeout": 61}, {"oversize", "crash", "timeout"}),
        ({"sample_bytes": 2**30}, set(REASONS)),
        ({"pixels": 2**27}, set(REASONS)),
    ],
)
def test_raising_a_limit_outdates_its_rejection_reasons(
    raised: dict[str, float], reasons: set[str]
) -> None:
    assert outdated_reasons(Limits(**raised), Limits().model_dump()) == reasons
    assert lowered_limits(Limits(), Limits(**raised).model_dump()) == [
        name for name in Limits.model_fields if name in raised
    ]


def test_sample_without_a_modality_is_kept(tmp_path: Path) -> None:
    incomplete = {
        f"y{n}": {key: value for key, value in sample(100 + n).items() if key != "npy"}
        for n in range(2)
    }
    without_audio = {"z": {**sample(200), "mp4": encode_clip(4)}}
    summary = decode(
        add_shard(tmp_path / "in", {**incomplete, **without_audio}),
        StorePath.at(tmp_path / "out"),
        CONFIG,
    )
    features = FeatureSet.open(StorePath.at(tmp_path / "out"))
    assert summary.num_rejected == 0
    assert features.has[5:].tolist() == [
        [True, True, False],
        [True, True, False],
        [True, False, True],
    ]
    assert not features.read("tensor", np.array([5, 6])).any()
    assert not features.read("audio", np.array([7])).any()
    assert features.manifest["modalities"]["audio"]["num_rows"] == 7


def test_configuration_is_inferred_from_samples_or_decode_yaml(tmp_path: Path) -> None:
    image = encode_image(np.zeros((9, 9, 3), np.uint8))
    members = {
        "json": facts("a"),
        "mp4": encode_clip(3),
        "audio.wav": encode_wav(tone(500, 0.5)),
        "depth.png": image,
        "npy": encode_npy(np.zeros((4, 2))),
        "txt": b"",
        "caption.txt": b"two",
    }
    write_shard(tmp_path / "train-0.tar", {"k": members})
    shards = discover_shards([str(tmp_path)])
    inferred = infer_config(shards).config.modalities
    assert {name: (spec.kind, spec.member) for name, spec in inferred.items()} == {
        "audio": ("audio", ("audio.wav",)),
        "depth": ("image", ("depth.png",)),
        "video": ("video", ("mp4",)),
        "tensor": ("tensor", ("npy",)),
        "text": ("text", ("txt",)),
        "caption": ("text", ("caption.txt",)),
    }
    assert inferred["tensor"].shape == (4, 2)
    (tmp_path / "decode.yaml").write_text(
        "modalities:\n  eye: {kind: image, member: depth.png, size: 16}\nclasses: [b, a]\n"
    )
    assert infer_config(shards).config.classes == ("b", "a")
    assert list(infer_config(shards).config.modalities) == ["eye"]
    (tmp_path / "decode.yaml").write_text(
        "modalities:\n  eye: {kind: image, member: depth.png, sise: 16}\n"
    )
    with pytest.raises(ConfigError, match=r"(?s)(?=.*\bsise\b)(?=.*\bsize\b)"):
        infer_config(shards)


def test_integer_labels_sort_numerically() -> None:
    assert sorted_labels(["10", "9", "-1"]) == ("-1", "9", "10")
    assert sorted_labels(["10", "9", "x"]) == ("10", "9", "x")


def test_shards_with_cls_members_and_split_in_the_file_name(tmp_path: Path) -> None:
    for split, start in (("train", 0), ("val", 2)):
        write_shard(
            tmp_path / "in" / f"{split}-000.tar",
            {f"{n}": {"cls": str(n % 2).encode(), **media(n)} for n in range(start, start + 2)},
        )
    summary = decode(
        discover_shards([str(tmp_path / "in")]), StorePath.at(tmp_path / "out"), CONFIG
    )
    assert summary.splits == {"train": 2, "validation": 2, "test": 0}
    assert len(summary.notes) == 1 and "test" in summary.notes[0]
