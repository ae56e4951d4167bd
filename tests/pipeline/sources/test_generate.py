"""Generated shards: reproducible bytes, exact splits, valid media and noise."""

import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.config import load
from pipeline.decode.config import DecodeConfig
from pipeline.errors import InputError, StoreError
from pipeline.shards.discover import ShardFile, discover_shards
from pipeline.shards.reader import ShardReader
from pipeline.shards.samples import Sample
from pipeline.sources.synthetic import patterns
from pipeline.sources.synthetic.generate import generate
from tests.support.refusals import refused

QUICK = ("image", "tensor")
SHARES = (0.7, 0.15, 0.15)


def make(out: Path, **changes: Any) -> dict[str, Any]:
    """Generate eight small training samples of two classes by default."""
    defaults = {"samples": 8, "classes": 2, "shards": 1, "seed": 0, "modalities": QUICK}
    return generate(out, **{**defaults, "shares": (1.0, 0.0, 0.0), **changes})


def read(folder: Path) -> list[Sample]:
    samples: list[Sample] = []
    for path in discover_shards([str(folder)]):
        with ShardFile(path) as file:
            reader = ShardReader(file)
            samples += reader.samples()
            assert reader.accounting.samples_lost == 0
    return samples


def read_metadata(folder: Path) -> list[dict[str, str]]:
    return [json.loads(sample.members["json"]) for sample in read(folder)]


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_same_arguments_give_the_same_bytes_in_this_and_another_process(tmp_path: Path) -> None:
    modalities = ("audio", "video", "image", "tensor", "text")
    kwargs = {
        "samples": 6,
        "classes": 2,
        "shards": 2,
        "modalities": modalities,
        "shares": (1, 0, 0),
    }
    generate(tmp_path / "a", seed=7, **kwargs)
    script = (
        "from pathlib import Path;"
        "from pipeline.sources.synthetic.generate import generate;"
        f"generate(Path({str(tmp_path / 'b')!r}), seed=7, **{kwargs!r})"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    generate(tmp_path / "c", seed=8, **kwargs)
    assert sorted(tree(tmp_path / "a")) == [
        "decode.yaml",
        "shard-000000.tar",
        "shard-000001.tar",
        "shards.json",
    ]
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert tree(tmp_path / "a")["shard-000000.tar"] != tree(tmp_path / "c")["shard-000000.tar"]


def test_sample_is_independent_of_number_of_samples_and_shards(tmp_path: Path) -> None:
    make(tmp_path / "few", samples=20)
    make(tmp_path / "many", samples=40, shards=7)
    few, many = (
        {sample.key: sample.members["image.png"] for sample in read(tmp_path / name)}
        for name in ("few", "many")
    )
    assert few.items() <= many.items()
    assert len(set(many.values())) == 40


def test_clips_are_real_h264_and_aac(tmp_path: Path) -> None:
    generate(tmp_path / "out", samples=4, classes=2, shards=1, seed=0, shares=(0.5, 0.25, 0.25))
    for sample in read(tmp_path / "out"):
        assert sample.suffixes == {"json", "mp4"}
        with av.open(io.BytesIO(sample.members["mp4"])) as clip:
            assert [stream.codec_context.name for stream in clip.streams] == ["h264", "aac"]
        with av.open(io.BytesIO(sample.members["mp4"])) as clip:
            frames = [frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]
        with av.open(io.BytesIO(sample.members["mp4"])) as clip:
            sound = np.concatenate([frame.to_ndarray() for frame in clip.decode(audio=0)], axis=1)
            rate = clip.streams.audio[0].rate
        assert np.array(frames).shape == (patterns.NUM_FRAMES, patterns.SIZE, patterns.SIZE, 3)
        assert rate == patterns.SAMPLE_RATE
        assert len(sound) == 1
        assert abs(sound.shape[1] / rate - 1) < 0.15
        assert np.abs(sound).max() > 0.01


@pytest.mark.parametrize(
    ("modalities", "suffixes", "streams"),
    [
        (("audio", "tensor"), {"mp4", "tensor.npy"}, ["audio"]),
        (("image", "video"), {"mp4", "image.png"}, ["video"]),
        (("tensor", "image"), {"image.png", "tensor.npy"}, []),
        (("image", "text"), {"image.png", "text.txt"}, []),
        (
            ("tensor", "audio", "image", "video"),
            {"mp4", "image.png", "tensor.npy"},
            ["video", "audio"],
        ),
    ],
)
def test_only_selected_modalities_are_written(
    tmp_path: Path, modalities: tuple[str, ...], suffixes: set[str], streams: list[str]
) -> None:
    summary = make(tmp_path / "out", samples=3, modalities=modalities)
    config = load(DecodeConfig, tmp_path / "out" / "decode.yaml")
    assert list(config.modalities) == list(modalities)
    assert summary["missing"] == dict.fromkeys(modalities, 0)
    for sample in read(tmp_path / "out"):
        assert sample.suffixes == suffixes | {"json"}
        assert all(
            not sample.suffixes.isdisjoint(spec.member) for spec in config.modalities.values()
        )
        assert json.loads(sample.members["json"])["noise"].keys() == set(modalities)
        if "mp4" in sample.members:
            with av.open(io.BytesIO(sample.members["mp4"])) as clip:
                assert [stream.type for stream in clip.streams] == streams
        if "image.png" in sample.members:
            assert Image.open(io.BytesIO(sample.members["image.png"])).size == (
                patterns.SIZE,
                patterns.SIZE,
            )
        if "tensor.npy" in sample.members:
            trace = np.load(io.BytesIO(sample.members["tensor.npy"]), allow_pickle=False)
            assert (trace.shape, trace.dtype) == ((6, 64), np.float32)
        if "text.txt" in sample.members:
            text = sample.members["text.txt"].decode()
            assert 8 <= len(text.split()) <= 16
            assert not text.isascii()


@pytest.mark.parametrize(
    ("samples", "classes", "shards", "shares"),
    [
        (40, 2, 1, (0.7, 0.15, 0.15)),
        (41, 3, 6, (0.5, 0.0, 0.5)),
        (50, 7, 13, (0.7, 0.15, 0.15)),
        (64, 8, 64, (0.8, 0.1, 0.1)),
    ],
)
def test_splits_classes_and_shards_are_exact(
    tmp_path: Path, samples: int, classes: int, shards: int, shares: tuple[float, float, float]
) -> None:
    seen: list[tuple[int, int]] = []
    out, watch = tmp_path / "out", {"progress": lambda *done: seen.append(done)}
    summary = make(
        out, samples=samples, classes=classes, shards=shards, seed=1, shares=shares, **watch
    )
    metadata = read_metadata(out)
    assert seen == [(number + 1, samples) for number in range(samples)]
    assert len({sample["sample_id"] for sample in metadata}) == samples
    counts = Counter(sample["split"] for sample in metadata)
    assert abs(counts["validation"] - samples * shares[1]) < 0.51
    assert abs(counts["test"] - samples * shares[2]) < 0.51
    for split, share in zip(("train", "validation", "test"), shares, strict=True):
        labels = Counter(sample["label"] for sample in metadata if sample["split"] == split)
        assert all(
            abs(labels[label] - share * num) < 1.6
            for label, num in Counter(sample["label"] for sample in metadata).items()
        )
        assert split != "train" or len(labels) == classes
        assert share == 0 or summary["splits"][split] == {
            "samples": counts[split],
            "labels": dict(sorted(labels.items())),
        }
    sizes = [len(read(path)) for path in out.glob("*.tar")]
    assert len(sizes) == shards
    assert max(sizes) - min(sizes) <= 1
    assert summary == json.loads((out / "shards.json").read_text())


def test_noise_of_modalities_is_independent(tmp_path: Path) -> None:
    make(tmp_path / "out", samples=200, seed=3)
    noise = np.array(
        [list(sample["noise"].values()) for sample in read_metadata(tmp_path / "out")]
    )  # (200, 2)
    assert 0 <= noise.min() < 0.05
    assert 0.95 < noise.max() <= 1
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.2


def texture(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Log magnitude spectrum of the mean greyscale frame, independent of position."""
    grey = frames.astype(float).mean((0, 3))
    return np.log(np.abs(np.fft.rfft2(grey - grey.mean()))[:12, :12] + 1).ravel()


def pitches(sound: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return np.log(np.abs(np.fft.rfft(sound))[200:2000].reshape(-1, 20).mean(1) + 1)


def letters(words: npt.NDArray[np.str_]) -> npt.NDArray[np.float64]:
    """Relative frequencies of letter pairs."""
    pairs = [
        sum(map(ord, word[i : i + 2])) % 256
        for word in words.tolist()
        for i in range(0, len(word), 2)
    ]
    return np.bincount(pairs, minlength=256) / len(pairs)


def swing(trace: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return trace.astype(float).ravel()


@pytest.mark.parametrize(
    ("modality", "describe"),
    [("video", texture), ("audio", pitches), ("tensor", swing), ("text", letters)],
)
def test_class_is_recognizable_only_in_clean_samples(
    modality: str, describe: Callable[[npt.NDArray[Any]], npt.NDArray[np.float64]]
) -> None:
    num_classes, num = 4, 12

    def sample(label: int, number: int, noise: float) -> npt.NDArray[np.float64]:
        return describe(
            patterns.PATTERNS[modality](label, noise, np.random.default_rng([label, number]))
        )

    means = np.array(
        [
            np.mean([sample(label, number, 0.0) for number in range(num)], axis=0)
            for label in range(num_classes)
        ]
    )

    def accuracy(noise: float) -> float:
        new = np.array(
            [
                [sample(label, 1000 + number, noise) for number in range(num)]
                for label in range(num_classes)
            ]
        )
        nearest = np.linalg.norm(new[:, :, None] - means, axis=-1).argmin(-1)
        return float((nearest == np.arange(num_classes)[:, None]).mean())

    assert accuracy(0.0) > 0.6
    assert accuracy(1.0) < 0.45


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modalities": ("audio", "vidoe")}, ["vidoe", "video"]),
        ({"modalities": ("audio", "smell")}, ["smell", "audio", "video", "image", "tensor"]),
        ({"modalities": ("audio",)}, ["modalities", "audio"]),
        ({"modalities": ("audio", "audio")}, ["modalities", "audio, audio"]),
        ({"classes": 1}, ["classes", "1", "2"]),
        ({"samples": 3}, ["samples", "3", "classes", "4"]),
        ({"shards": 0}, ["shards", "0", "1", "16"]),
        ({"shards": 17}, ["shards", "17", "1", "16"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"shares": (0.5, 0.5, 0.5)}, ["0.5, 0.5, 0.5", "1"]),
        ({"shares": (0.0, 0.5, 0.5)}, ["0.0, 0.5, 0.5", "train"]),
        ({"shares": (0.98, 0.01, 0.01)}, ["16", "test", "0.01"]),
        ({"profile": "slwo"}, ["slwo", "slow"]),
        ({"profile": "slow"}, ["slow", "image,tensor", "audio,video", "plain"]),
        ({"profile": "leaky", "modalities": ("audio", "text")}, ["leaky", "audio,text", "plain"]),
    ],
)
def test_invalid_arguments_are_rejected(
    tmp_path: Path, change: dict[str, object], words: list[str]
) -> None:
    with refused(InputError, *words):
        make(tmp_path / "out", **{"samples": 16, "classes": 4, "shares": SHARES, **change})
    assert not list(tmp_path.iterdir())


def test_existing_files_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    for name in ("full", "full/mine.txt"):
        with pytest.raises(InputError, match=str(tmp_path / name)):
            make(tmp_path / name)
    with pytest.raises(StoreError, match=str(tmp_path / "full" / "mine.txt" / "out")):
        make(tmp_path / "full" / "mine.txt" / "out")
    assert tree(tmp_path / "full") == {"mine.txt": b"mine"}
    make(tmp_path / "empty")
    assert len(read(tmp_path / "empty")) == 8


def test_interrupted_job_leaves_no_files(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "out", shards=3, progress=interrupt)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a%06d", "{a,b}", "pipe:cat", "a b", "-"])
def test_path_is_not_interpreted_as_pattern_or_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path(name))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert sorted(tree(tmp_path / name)) == ["decode.yaml", "shard-000000.tar", "shards.json"]
