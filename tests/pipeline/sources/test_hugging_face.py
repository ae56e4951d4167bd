"""Import of Hugging Face datasets: columns, splits, labels, and what is refused."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import load
from pipeline.decode.config import (
    AudioSpec,
    DecodeConfig,
    ImageSpec,
    TensorSpec,
    TextSpec,
    VideoSpec,
)
from pipeline.errors import ConfigError, DataError, InputError, MissingError
from pipeline.sources.importers.hugging_face import import_hf
from tests.support.decoding import decode
from tests.support.media_files import encode_image, encode_wav, tone
from tests.support.media_tables import CLIP
from tests.support.refusals import refused
from tests.support.stores import Command, read_samples

datasets = pytest.importorskip("datasets")

WAV = encode_wav(tone(1000, 0.5), 8000)
PNG = encode_image(np.full((12, 16), 7, np.uint8))
JPG = encode_image(np.full((12, 16), 9, np.uint8), "JPEG")
LABEL = datasets.ClassLabel(names=["cat", "dog"])


def stored(folder: Path, columns: Mapping[str, tuple[Any, list[Any]]], **splits: list[int]) -> str:
    """Save a dataset whose splits have the given rows of the columns."""
    data = datasets.Dataset.from_dict({name: values for name, (_, values) in columns.items()})
    for name, (feature, _) in columns.items():
        data = data.cast_column(name, feature) if feature else data
    parts = {split: data.select(rows) for split, rows in (splits or {"train": [0, 1]}).items()}
    datasets.DatasetDict(parts).save_to_disk(folder / "data")
    return str(folder / "data")


def test_all_media_columns_are_imported(tmp_path: Path) -> None:
    columns = {
        "sound": (
            datasets.Audio(),
            [{"bytes": WAV, "path": "a/b.WAV"}, {"bytes": WAV, "path": None}, None, None],
        ),
        "picture": (
            datasets.Image(),
            [{"bytes": PNG, "path": None}, {"bytes": JPG, "path": "x"}, None, {"bytes": PNG}],
        ),
        "clip": (datasets.Video(), [{"bytes": CLIP, "path": None}] * 4),
        "kind": (LABEL, [0, 1, 0, 1]),
        "speaker": (None, ["p", "q", "r", None]),
        "age": (None, [3, 4, None, 5]),
        "boxes": (None, [[1], [2], [3], [4]]),
    }
    name = stored(tmp_path, columns, train=[0, 1], dev=[2], test=[3])
    summary = import_hf(name, tmp_path / "out")
    assert summary["splits"] == {
        "test": {"samples": 1, "labels": {"dog": 1}},
        "train": {"samples": 2, "labels": {"cat": 1, "dog": 1}},
        "validation": {"samples": 1, "labels": {"cat": 1}},
    }
    assert summary["missing"] == {"sound": 2, "picture": 1, "clip": 0}
    assert summary["origin"] == {
        "source": "hf",
        "dataset": "data",
        "label": "kind",
        "ignored_columns": ["boxes"],
        "modalities": {"sound": "sound", "picture": "picture", "clip": "clip"},
        "split_by": None,
        "validation_share": 0.0,
        "seed": 0,
        "similar_labels": [],
    }
    samples = read_samples(tmp_path / "out")
    media = {key: dict(sample.members) for key, (_, sample) in samples.items()}
    for members in media.values():
        del members["json"]
    assert media == {
        "train-0": {"sound.wav": WAV, "picture.png": PNG, "clip.mp4": CLIP},
        "train-1": {"sound.wav": WAV, "picture.jpeg": JPG, "clip.mp4": CLIP},
        "dev-0": {"clip.mp4": CLIP},
        "test-0": {"picture.png": PNG, "clip.mp4": CLIP},
    }
    assert samples["train-1"][0]["columns"] == {"kind": "dog", "speaker": "q", "age": "4"}
    assert samples["test-0"][0]["columns"] == {"kind": "dog", "speaker": "", "age": "5"}
    assert load(DecodeConfig, tmp_path / "out/decode.yaml").modalities == {
        "sound": AudioSpec(kind="audio", member=("sound.wav",), sample_rate=8000, seconds=1.0),
        "picture": ImageSpec(
            kind="image", member=("picture.jpeg", "picture.png"), size=12, channels=1
        ),
        "clip": VideoSpec(kind="video", member=("clip.mp4",), size=32),
    }


def test_texts_and_arrays(tmp_path: Path) -> None:
    waves = [{"array": [0.0, 0.5] * 400, "sampling_rate": 8000}] * 3
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    columns = {
        "said": (None, ["é", " ", None]),
        "trace": (None, [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
        "pixels": (datasets.Array3D((4, 4, 3), "uint8"), [pixels] * 3),
        "wave": (None, waves),
        "label": (None, ["a", "b", "a"]),
    }
    data = datasets.Dataset.from_dict({name: values for name, (_, values) in columns.items()})
    for name, (feature, _) in columns.items():
        data = data.cast_column(name, feature) if feature else data
    # A single split that is saved without a name is train; rows may be in another order on disk.
    data.select([2, 1, 0]).select([2, 1, 0]).save_to_disk(tmp_path / "data")
    summary = import_hf(
        str(tmp_path / "data"),
        tmp_path / "out",
        modalities={"m" + name: name for name in columns if name != "label"},
        kinds={"mpixels": "image"},
    )
    assert summary["missing"]["msaid"] == 2  # type: ignore[index, call-overload]
    specs = load(DecodeConfig, tmp_path / "out/decode.yaml").modalities
    assert specs["msaid"] == TextSpec(kind="text", member=("msaid.txt",), length=16)
    assert specs["mtrace"] == TensorSpec(kind="tensor", member=("mtrace.npy",), shape=(2,))
    samples = read_samples(tmp_path / "out")
    members = samples["train-1"][1].members
    assert decode(members["mtrace.npy"], specs["mtrace"]).tolist() == [3.0, 4.0]
    assert decode(members["mwave.wav"], specs["mwave"]).any()
    image = ImageSpec(kind="image", member="png", size=8)
    np.testing.assert_array_equal(
        decode(members["mpixels.png"], image), decode(encode_image(pixels), image)
    )
    assert samples["train-0"][1].members["msaid.txt"] == "é".encode()


def test_a_video_column_is_read_as_audio_too(tmp_path: Path) -> None:
    clips = (datasets.Video(), [{"bytes": CLIP, "path": "c.mp4"}] * 2)
    name = stored(tmp_path, {"clip": clips, "label": (LABEL, [0, 1])})
    import_hf(name, tmp_path / "out", modalities={"audio": "clip", "video": "clip"})
    assert read_samples(tmp_path / "out")["train-0"][1].suffixes == {"json", "mp4"}
    specs = load(DecodeConfig, tmp_path / "out/decode.yaml").modalities
    assert {name: spec.kind for name, spec in specs.items()} == {"audio": "audio", "video": "video"}


def test_validation_is_taken_from_train_by_group_and_is_deterministic(tmp_path: Path) -> None:
    columns = {
        "x": (None, [[float(i)] for i in range(40)]),
        "label": (LABEL, [i % 2 for i in range(40)]),
        "speaker": (None, [i // 4 for i in range(40)]),
    }
    name = stored(tmp_path, columns, train=[*range(40)])
    for out in ("1", "2"):
        import_hf(
            name,
            tmp_path / out,
            modalities={"x": "x"},
            split_by="speaker",
            validation_share=0.2,
            num_shards=3,
        )
    trees = [{p.name: p.read_bytes() for p in (tmp_path / out).iterdir()} for out in ("1", "2")]
    assert trees[0] == trees[1]
    groups: dict[str, set[str]] = {"train": set(), "validation": set()}
    for metadata, _ in read_samples(tmp_path / "1").values():
        groups[metadata["split"]].add(metadata["columns"]["speaker"])  # type: ignore[index]
    assert (len(groups["train"]), len(groups["validation"])) == (8, 2)
    assert not groups["train"] & groups["validation"]


SIMPLE = {
    "x": (None, [[1.0], [2.0]]),
    "said": (None, ["a", "b"]),
    "num": (None, [1, 2]),
    "label": (LABEL, [0, 1]),
}


@pytest.mark.parametrize(
    ("change", "splits", "options", "kind", "words"),
    [
        ({}, {}, {"modalities": None}, InputError, "--modality"),
        ({}, {}, {"modalities": {"x": "y"}}, DataError, "y"),
        ({}, {}, {"modalities": {"x": "num"}}, DataError, "x num"),
        ({}, {}, {"label": "lable"}, DataError, "lable label"),
        ({}, {}, {"label": "x"}, DataError, "x"),
        ({}, {}, {"kinds": {"x": "audio"}}, InputError, "audio x tensor image"),
        ({}, {}, {"kinds": {"z": "image"}}, InputError, "z image"),
        ({}, {}, {"modalities": {"all": "x"}}, ConfigError, "all"),
        ({}, {"train": [0], "extra": [1]}, {}, DataError, "extra validation"),
        ({"label": (LABEL, [0, -1])}, {}, {}, DataError, "train-1 label"),
        ({"label": (None, ["a", " "])}, {}, {}, DataError, "train-1 label"),
        ({"label": (None, ["a", "a"])}, {}, {}, DataError, "label a"),
        ({"other": (LABEL, [0, 1]), "label": (LABEL, [0, 1])}, {}, {}, None, ""),
        (
            {"a": (LABEL, [0, 1]), "b": (LABEL, [0, 1]), "label": None},
            {},
            {},
            InputError,
            "--label",
        ),
        ({"x": (None, [None, [1.0]])}, {}, {}, DataError, "train-0 x"),
    ],
)
def test_what_cannot_be_imported(
    tmp_path: Path,
    change: dict[str, Any],
    splits: dict[str, list[int]],
    options: dict[str, Any],
    kind: type[InputError] | None,
    words: str,
) -> None:
    columns = {name: column for name, column in (SIMPLE | change).items() if column}
    name = stored(tmp_path, columns, **splits)
    asked = {"modalities": {"x": "x"}, **options}
    if kind is None:
        import_hf(name, tmp_path / "out", **asked)
        return
    with refused(kind, *words.split()):
        import_hf(name, tmp_path / "out", **asked)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_files_that_are_missing_are_listed(tmp_path: Path) -> None:
    images = [{"bytes": PNG, "path": "a.png"}, {"bytes": None, "path": str(tmp_path / "b.png")}]
    data = datasets.Dataset.from_dict({"x": images, "label": ["a", "b"]})
    data.save_to_disk(tmp_path / "data")
    # `save_to_disk` would store the content of the file of an image column.
    info = json.loads((tmp_path / "data/dataset_info.json").read_text())
    info["features"]["x"] = {"_type": "Image"}
    (tmp_path / "data/dataset_info.json").write_text(json.dumps(info))
    with refused(DataError, "train-1", tmp_path / "b.png"):
        import_hf(str(tmp_path / "data"), tmp_path / "out")
    (tmp_path / "b.png").write_bytes(JPG)
    import_hf(str(tmp_path / "data"), tmp_path / "out")
    assert read_samples(tmp_path / "out")["train-1"][1].members["x.png"] == JPG


def test_a_dataset_in_the_cache(tmp_path: Path) -> None:
    from datasets.packaged_modules.parquet.parquet import Parquet

    datasets.Dataset.from_dict(
        {"t": ["x", "y", "z", "w"], "label": ["a", "b", "a", "b"]}
    ).to_parquet(tmp_path / "d.parquet")
    Parquet(
        cache_dir=str(tmp_path / "cache"),
        dataset_name="tiny",
        hash="0123",
        data_files={"train": [str(tmp_path / "d.parquet")]},
    ).download_and_prepare()
    # A download from the hub would be stored under these names.
    (tmp_path / "cache/tiny").rename(tmp_path / "cache/someone___tiny")
    (config,) = (path for path in (tmp_path / "cache/someone___tiny").iterdir() if path.is_dir())
    config.rename(config.with_name("default"))
    code = "from remix.cli.app import main; main()"
    command = [sys.executable, "-c", code, "import", "hf", "someone/tiny", str(tmp_path / "out")]
    ended = subprocess.run(
        [*command, "--modality", "said=t", "--validation-share", "0.5"],
        env={**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert "  'a': 1 train, 1 validation" in ended.stdout.splitlines()
    assert len(read_samples(tmp_path / "out")) == 4


def test_no_dataset(tmp_path: Path, command: Command) -> None:
    with refused(MissingError, file=tmp_path):
        import_hf(str(tmp_path), tmp_path / "out")
    code, _, err = command("import", "hf", "no/such", tmp_path / "out")
    assert code == 2
    assert "no/such" in err
