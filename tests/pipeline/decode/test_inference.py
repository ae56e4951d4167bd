"""Shards of other people decode without options: modalities, labels, splits and ids are guessed."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.decode.inference import Inferred, infer_config
from pipeline.errors import ConfigError, DataError
from pipeline.shards.discover import discover_shards
from tests.support.media_files import (
    encode_clip,
    encode_image,
    encode_npy,
    encode_sound,
    encode_wav,
    facts,
    make_tar,
    tone,
    write_shard,
)

GREY = encode_image(np.full((40, 30), 7, np.uint8))
RGB = encode_image(np.full((24, 36, 3), 7, np.uint8), "JPEG")
SOUND = encode_wav(tone(440, 1.0))
SPLITS = ("train", "validation", "test")
Members = dict[str, bytes]


def inferred(folder: Path) -> Inferred:
    return infer_config(discover_shards([str(folder)]))


def write(folder: Path, member: Callable[[int], Members], num: int = 9) -> Path:
    """One shard per split, with labels and no splits in .json."""
    for k, split in enumerate(SPLITS):
        samples = {
            f"{split}{i}": {"json": json.dumps({"label": i % 2}).encode(), **member(k * num + i)}
            for i in range(num)
        }
        write_shard(folder / f"{split}-0.tar", samples)
    return folder


def test_a_modality_reads_every_suffix_that_has_it(tmp_path: Path) -> None:
    kinds = ("jpg", "png", "jpeg")
    folder = write(tmp_path, lambda i: {kinds[i % 3]: GREY if i % 3 == 1 else RGB, "wav": SOUND})
    found = inferred(folder)
    image, audio = found.config.modalities["image"], found.config.modalities["audio"]
    assert (image.member, audio.member) == (("jpeg", "jpg", "png"), ("wav",))
    assert (image.size, image.channels, audio.seconds) == (24, 3, 1.0)
    assert len(found.lines) == 2
    assert "image: jpeg, jpg, png (3 suffixes)" in found.lines[0]


def test_sound_of_some_clips_is_a_modality(tmp_path: Path) -> None:
    silent, loud = encode_clip(3), encode_clip(12, sound=tone(440, 1.2))
    folder = write(tmp_path, lambda i: {"mp4": loud if i else silent})
    found = inferred(folder)
    assert {name: spec.member for name, spec in found.config.modalities.items()} == {
        "audio": ("mp4",),
        "video": ("mp4",),
    }
    assert "audio: mp4 (26 of 27 have sound)" in found.lines[0]
    assert found.config.modalities["audio"].seconds == pytest.approx(1.2, abs=0.11)


def test_files_of_audio_are_read_before_the_sound_of_clips(tmp_path: Path) -> None:
    clip, flac = (
        encode_clip(3, sound=tone(440, 1.2)),
        encode_sound(tone(440, 1)[None], "flac", "flac"),
    )
    folder = write(
        tmp_path, lambda i: {"mp4": clip, ("flac" if i % 3 else "wav"): flac if i % 3 else SOUND}
    )
    assert inferred(folder).config.modalities["audio"].member == ("flac", "wav", "mp4")


def test_two_images_of_a_sample_need_a_configuration(tmp_path: Path) -> None:
    folder = write(tmp_path, lambda i: {"jpg": RGB, "png": GREY})
    with pytest.raises(ConfigError, match=r"(?=.*'image')(?=.*\bjpg\b)(?=.*\bpng\b)"):
        inferred(folder)
    folder = write(tmp_path / "b", lambda i: {"left.jpg": RGB, "right.png": GREY})
    assert [*inferred(folder).config.modalities] == ["left", "right"]


def test_the_first_sample_need_not_have_everything(tmp_path: Path) -> None:
    text = {"txt": b"a long description"}
    folder = write(tmp_path, lambda i: {"npy": encode_npy(np.zeros(3)), **(text if i else {})})
    found = inferred(folder).config.modalities
    assert {name: spec.kind for name, spec in found.items()} == {"tensor": "tensor", "text": "text"}
    assert found["text"].length == 18


def test_settings_come_from_the_middle_of_a_large_shard_too(tmp_path: Path) -> None:
    """A rare suffix late in a shard is found."""
    samples = {
        f"{i:04d}": {"json": facts(i % 2), "npy" if i < 900 else "x.npy": encode_npy(np.zeros(2))}
        for i in range(1000)
    }
    write_shard(tmp_path / "train-0.tar", samples)
    assert [*inferred(tmp_path).config.modalities] == ["tensor", "x"]


def layout(folder: Path, shards: dict[str, dict[str, bytes]]) -> Inferred:
    for name, members in shards.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(make_tar(members))
    return infer_config(discover_shards([str(folder / "**" / "*.tar")]))


def images(names: list[str], **texts: Callable[[int], bytes]) -> dict[str, bytes]:
    return {
        f"{name}.{suffix}": data
        for i, name in enumerate(names)
        for suffix, data in [("jpg", RGB), *((s, make(i)) for s, make in texts.items())]
    }


KEYS = [f"{i:03d}" for i in range(6)]


@pytest.mark.parametrize("names", ["imagenet1k-{}-0000.tar", "{}/000000.tar", "{}_0.tar"])
def test_splits_in_names_of_shards(tmp_path: Path, names: str) -> None:
    shards = {
        names.format(word): images([f"{word}{key}" for key in KEYS], cls=lambda i: b"%d" % (i % 2))
        for word in ("train", "valid")
    }
    found = layout(tmp_path, shards)
    rule = found.config.sample.split
    assert rule.places == ("json.split", "shard")
    assert (rule.validation_share, rule.test_share) == (0, 0.1)  # no shard is test
    assert "10% of train drawn for test" in found.lines[1]


def test_keys_that_repeat_get_the_name_of_their_shard(tmp_path: Path) -> None:
    shards = {
        f"{s}-{i}.tar": images(KEYS, cls=lambda i: b"%d" % (i % 2)) for s in SPLITS for i in (0, 1)
    }
    found = layout(tmp_path, shards)
    assert found.config.sample.id == ("json.sample_id", "shard/key")
    assert "keys repeat" in found.lines[1]


@pytest.mark.parametrize(
    ("texts", "label"),
    [
        (
            {"cls": lambda i: b"%d" % (i % 2), "json": lambda i: b'{"width": 3}'},
            "json.label or cls",
        ),
        ({"json": lambda i: b'{"class": "c%d"}' % (i % 2)}, "json.class"),
        ({"txt": lambda i: b"cat" if i % 2 else b"dog"}, "txt"),
    ],
)
def test_places_of_labels(
    tmp_path: Path, texts: dict[str, Callable[[int], bytes]], label: str
) -> None:
    found = layout(tmp_path, {f"{s}-0.tar": images([s + k for k in KEYS], **texts) for s in SPLITS})
    assert found.config.sample.label == tuple(label.split(" or "))
    assert [*found.config.modalities] == ["image"]
    assert f"label from {label}" in found.lines[1]


def test_labels_and_splits_in_folders(tmp_path: Path) -> None:
    names = [f"{split}/{name}/{i}" for split in SPLITS for name in ("cat", "dog") for i in range(3)]
    found = layout(tmp_path, {"x.tar": images(names)})
    assert (found.config.sample.label, found.config.sample.split.places) == (
        ("folder",),
        ("folder",),
    )
    assert found.config.sample.split.validation_share == 0


def test_without_splits_some_are_drawn(tmp_path: Path) -> None:
    found = layout(tmp_path, {"x.tar": images(KEYS, cls=lambda i: b"%d" % (i % 2))})
    rule = found.config.sample.split
    assert (rule.places, rule.validation_share, rule.test_share) == ((), 0.1, 0.1)
    assert "no split found" in found.lines[1]


def test_dotted_keys_are_recognised(tmp_path: Path) -> None:
    keys = [f"clip.{i}.v{i}" for i in range(8)]
    found = layout(tmp_path, {"train.tar": images(keys, cls=lambda i: b"%d" % (i % 2))})
    assert found.config.sample.key_end == "last_dot"
    assert found.config.modalities["image"].member == ("jpg",)


def test_shards_without_labels_are_an_error_that_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)(?=.*json\.class)(?=.*sample: \{label)"):
        layout(tmp_path, {"train.tar": images(KEYS)})
