"""Profiles of generated shards: the truth of each sample, and clips that agree with it."""

import io
import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from pipeline.config import load
from pipeline.decode.config import DecodeConfig
from pipeline.shards.discover import ShardFile, discover_shards
from pipeline.shards.reader import ShardReader
from pipeline.sources.synthetic.generate import PROFILES, generate
from tests.support.stores import Command
from trainer.config import GenerateConfig

OTHERS = ("slow", "crossed", "hollow", "leaky")


def make(out: Path, profile: str, samples: int) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Generate samples of 6 classes; return the metadata and the clip of each."""
    generate(out, profile=profile, samples=samples, classes=6, shards=1, seed=0)
    members = []
    for path in discover_shards([str(out)]):
        with ShardFile(path) as file:
            members += [sample.members for sample in ShardReader(file).samples()]
    return [json.loads(each["json"]) for each in members], [each["mp4"] for each in members]


def waveform(clip: bytes) -> npt.NDArray[np.float64]:
    with av.open(io.BytesIO(clip)) as file:
        assert [stream.codec_context.name for stream in file.streams] == ["h264", "aac"]
        blocks = [frame.to_ndarray()[0] for frame in file.decode(audio=0)]
    return np.concatenate(blocks).astype(float)


def frames(clip: bytes) -> npt.NDArray[np.float64]:
    with av.open(io.BytesIO(clip)) as file:
        return np.array([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)], float)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("profile", OTHERS)
def test_same_arguments_give_the_same_bytes_in_this_and_another_process(
    tmp_path: Path, command: Command, profile: str
) -> None:
    options: list[object] = ["--profile", profile, "--samples", 12, "--classes", 3, "--seed", 5]
    options += ["--validation-share", 0.25, "--test-share", 0.25]
    script = "from remix.cli.app import main; main()"
    arguments = map(str, ["generate", tmp_path / "a", *options])
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True)
    assert command("generate", tmp_path / "b", *options)[0] == 0
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert command("generate", tmp_path / "c", *options[:-6], "--seed", 6)[0] == 0
    assert files(tmp_path / "a")["shard-000000.tar"] != files(tmp_path / "c")["shard-000000.tar"]
    decode = load(DecodeConfig, tmp_path / "a" / "decode.yaml")
    assert list(decode.modalities) == ["audio", "video"]


@pytest.mark.parametrize(
    ("profile", "num", "splits"),
    [
        ("plain", None, {"train": 336, "validation": 72, "test": 72}),
        ("slow", 100, {"train": 50, "validation": 12, "test": 38}),
    ],
)
def test_defaults_depend_on_the_profile(
    tmp_path: Path, profile: str, num: int | None, splits: dict[str, int]
) -> None:
    out = tmp_path / "out"
    modalities = ("text", "tensor") if profile == "plain" else ("audio", "video")
    summary: Any = generate(
        out, profile=profile, samples=num, classes=6, shards=1, seed=0, modalities=modalities
    )
    made = summary["splits"]
    assert {split: made[split]["samples"] for split in made} == splits
    counts = [each["labels"].values() for each in made.values()]
    assert all(len(each) == 6 and max(each) - min(each) <= 1 for each in counts)


def test_a_run_file_can_name_each_profile(tmp_path: Path) -> None:
    for profile in PROFILES:
        config = GenerateConfig.model_validate({"profile": profile, "samples": 16, "classes": 2})
        summary = generate(tmp_path / profile, **config.model_dump())
        assert summary["samples"] == 16


def test_slow_clips_show_the_classes_of_their_metadata(tmp_path: Path) -> None:
    metadata, clips = make(tmp_path / "out", "slow", 300)
    truths = [each["truth"] for each in metadata]
    # Expected: 300 * 0.4 * 5 / 6 = 100 and 300 * 0.08 * 5 / 6 = 20, because one of six drawn
    # classes is right. The bounds are three standard deviations of the binomial distribution.
    assert 75 < sum(truth["audio"]["wrong"] for truth in truths) < 125
    assert 7 < sum(truth["video"]["wrong"] for truth in truths) < 33
    both = sum(truth["audio"]["wrong"] and truth["video"]["wrong"] for truth in truths)
    assert both < 15  # expected if independent: 6.7
    for each in metadata:
        assert "ideal" not in each
        for truth in each["truth"].values():
            assert truth["wrong"] == (truth["class"] != each["label"])
        assert each["truth"]["audio"]["noise"] == 0.3
        assert 2 <= each["truth"]["video"]["signal"] <= 8
    shown = [(tones(waveform(clip)), stripes(frames(clip))) for clip in clips[:60]]
    true = [
        tuple(int(truth[name]["class"].removeprefix("class-")) for name in ("audio", "video"))
        for truth in truths[:60]
    ]
    assert shown == true


def tones(sound: npt.NDArray[np.float64]) -> int:
    """Class whose two tones are both loud."""
    middle = sound[2000:14000]
    power = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    loudness = []
    for label in range(6):
        shares = 0.15 + 0.7 / 6 * np.array([label + 0.5, (5 * label + 2) % 6])
        hertz = 700 * ((1 + 8000 / 700) ** shares - 1)
        at = np.rint(hertz * len(middle) / 16_000).astype(int)
        loudness.append(min(power[each - 1 : each + 2].max() for each in at))
    return int(np.argmax(loudness))


def stripes(pixels: npt.NDArray[np.float64]) -> int:
    """Class whose angle the stripes of 8 periods have."""
    assert pixels.shape == (8, 48, 48, 3)
    window = np.outer(np.hanning(48), np.hanning(48))
    grey = pixels.mean((0, 3)) * window
    y, x = np.mgrid[:48, :48] / 48
    angles = np.pi * np.arange(6)[:, None, None] / 6
    waves = np.exp(16j * np.pi * (np.cos(angles) * x + np.sin(angles) * y))
    return int(np.abs((waves * grey).sum((1, 2))).argmax())


def test_crossed_alternates_the_noisy_modality(tmp_path: Path) -> None:
    metadata, _ = make(tmp_path / "out", "crossed", 24)
    assert Counter((each["label"], each["ideal"]) for each in metadata) == {
        (f"class-{label:02d}", name): 2 for label in range(6) for name in ("audio", "video")
    }
    for each in metadata:
        truth = each["truth"]
        assert {truth[name]["class"] for name in truth} == {each["label"]}
        assert max(truth, key=lambda name: truth[name]["noise"]) == each["ideal"]


def test_hollow_has_no_signal_in_the_video_of_three_of_five_samples(tmp_path: Path) -> None:
    metadata, _ = make(tmp_path / "out", "hollow", 60)
    empty = [each for each in metadata if each["truth"]["video"]["noise"] == 1]
    assert Counter(each["label"] for each in empty) == {f"class-{c:02d}": 6 for c in range(6)}
    for each in metadata:
        is_empty = each in empty
        assert each["truth"]["video"]["class"] == (None if is_empty else each["label"])
        assert each["ideal"] == ("audio" if is_empty else "video")
        assert not each["truth"]["video"]["wrong"]


def test_leaky_repeats_an_audio_in_six_training_samples(tmp_path: Path) -> None:
    metadata, clips = make(tmp_path / "out", "leaky", 240)
    groups = defaultdict(list)
    for number, each in enumerate(metadata):
        groups[each["audio_source"]].append(number)
    for source, numbers in groups.items():
        alike = {(metadata[number]["label"], metadata[number]["ideal"]) for number in numbers}
        assert len(alike) == 1
        assert metadata[numbers[0]]["sample_id"] == source
        assert len(numbers) == 1 or {metadata[number]["split"] for number in numbers} == {"train"}
    assert max(map(len, groups.values())) == 6
    repeated = next(numbers for numbers in groups.values() if len(numbers) == 6)
    other = next(
        number
        for number, each in enumerate(metadata)
        if each["label"] == metadata[repeated[0]]["label"] and number not in repeated
    )
    first, *copies = (waveform(clips[number]) for number in repeated)
    # AAC codes noise at random, so that even faint hiss makes copies differ this much
    assert all(0.75 < np.corrcoef(first, copy)[0, 1] < 0.999 for copy in copies)
    assert np.corrcoef(first, waveform(clips[other]))[0, 1] < 0.5
    assert len({frames(clips[number]).tobytes() for number in repeated}) == 6
