"""Import of CREMA-D: pairs, metadata and splits, and incomplete clips."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import load
from pipeline.decode.config import DecodeConfig
from pipeline.decode.media.sample import decode_sample
from pipeline.errors import DataError, InputError
from pipeline.sources.importers.cremad import EMOTIONS, import_cremad
from tests.support.cremad_folder import FLV, MP4, PEOPLE, WAV, actors, clips, make, sides, write_csv
from tests.support.media_files import encode_sound, tone
from tests.support.refusals import refused
from tests.support.stores import read_samples

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:c6f94b25\nsize 72862\n"
SILENT = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\0\0\0\0"
"""A WAV header without samples."""
MUTE = encode_sound(tone(440, 0.5)[None], "flv", "aac")


def test_all_clips_are_imported_with_metadata_of_the_actor(tmp_path: Path, src: Path) -> None:
    write_csv(
        src / "SentenceFilenames.csv",
        [["Stimulus_Number", "Filename"], *([str(i), name] for i, name in enumerate(clips(), 1))],
    )
    write_csv(
        src / "VideoDemographics.csv", [PEOPLE, ["1001", "51", "Male", "Caucasian", "Not Hispanic"]]
    )
    (src / "AudioWAV" / "._1001_DFA_ANG_XX.wav").write_bytes(b"what a Mac leaves behind")
    summary = import_cremad(src, tmp_path / "out", num_shards=3)
    samples = read_samples(tmp_path / "out")
    assert sorted(samples) == sorted(clips())
    assert Counter(metadata["label"] for metadata, _ in samples.values()) == dict.fromkeys(
        EMOTIONS, 12
    )
    assert len(summary["shards"]) == 3  # type: ignore[arg-type]
    metadata, sample = samples["1001_DFA_FEA_XX"]
    number = str(clips().index("1001_DFA_FEA_XX") + 1)
    person = {"age": "51", "sex": "Male", "race": "Caucasian", "ethnicity": "Not Hispanic"}
    columns = {"actor": "1001", "sentence": "DFA", "level": "XX", "number": number}
    assert metadata["columns"] == columns | person
    assert (sample.key, sample.members["audio.wav"], sample.members["video.flv"]) == (
        "1001_DFA_FEA_XX",
        WAV,
        FLV,
    )
    assert "age" not in samples["1002_DFA_FEA_XX"][0]["columns"]  # type: ignore[operator]


@pytest.mark.parametrize("seed", range(2))
def test_no_actor_is_in_two_splits(tmp_path: Path, src: Path, seed: int) -> None:
    import_cremad(src, tmp_path / "out", seed=seed, validation_share=0.2, test_share=0.25)
    samples = {split: actors(names) for split, names in sides(tmp_path / "out").items()}
    assert {split: len(names) for split, names in samples.items()} == {
        "train": 7,
        "validation": 2,
        "test": 3,
    }
    assert len(set().union(*samples.values())) == 12
    chosen = samples["test"]
    import_cremad(src, tmp_path / "other", seed=seed + 100, validation_share=0.2, test_share=0.25)
    assert seed or chosen != actors(sides(tmp_path / "other")["test"])


def test_output_is_independent_of_the_path(tmp_path: Path, src: Path) -> None:
    import_cremad(src, tmp_path / "1")
    shutil.move(src, tmp_path / "moved")
    import_cremad(tmp_path / "moved", tmp_path / "2")
    trees = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "12"
    ]
    assert trees[0] == trees[1]


def test_decoded_shapes(tmp_path: Path, src: Path) -> None:
    make(src, ["1040_DFA_ANG_XX"], ending="mp4", data=MP4)
    import_cremad(src, tmp_path / "out")
    config = load(DecodeConfig, tmp_path / "out" / "decode.yaml")
    samples = read_samples(tmp_path / "out")
    assert config.modalities["video"].member == ("video.flv", "video.mp4")
    for name in ("1001_DFA_ANG_XX", "1040_DFA_ANG_XX"):
        rows = decode_sample(samples[name][1].members, config.modalities, config.limits)
        assert rows["audio"].shape == (1, 257, 188)  # type: ignore[union-attr]
        assert rows["video"].shape == (4, 3, 224, 224)  # type: ignore[union-attr]
        assert np.ptp(rows["video"].mean((1, 2, 3))) > 60, "the grey of the frames rises"  # type: ignore[union-attr]
        # Half a second of audio is repeated, so the last windows are as loud as the first.
        assert (
            np.abs(rows["audio"][0, :, 4:24].mean(1) - rows["audio"][0, :, -24:-4].mean(1)).max()
            < 1
        )  # type: ignore[index]


@pytest.mark.parametrize(
    ("half", "data", "kind"),
    [
        ("AudioWAV/1002_DFA_SAD_XX.wav", None, "without its sound file"),
        ("VideoFlash/1002_DFA_SAD_XX.flv", None, "without its video"),
        ("AudioWAV/1002_DFA_SAD_XX.wav", b"", "empty"),
        ("AudioWAV/1002_DFA_SAD_XX.wav", SILENT, "without sound"),
        ("VideoFlash/1002_DFA_SAD_XX.flv", MUTE, "without pictures"),
        ("VideoFlash/1002_DFA_SAD_XX.flv", b"<html>not found</html>", "unreadable"),
    ],
)
def test_incomplete_clip_is_reported_or_left_out(
    tmp_path: Path, src: Path, half: str, data: bytes | None, kind: str
) -> None:
    (src / half).unlink()
    if data is not None:
        (src / half).write_bytes(data)
    with refused(DataError, 1, "1002_DFA_SAD_XX", "--allow-incomplete", *[half] * bool(data)):
        import_cremad(src, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    summary = import_cremad(src, tmp_path / "out", allow_incomplete=True)
    assert summary["origin"]["left_out"] == {"1002_DFA_SAD_XX": kind}  # type: ignore[index, call-overload]
    assert sorted(read_samples(tmp_path / "out")) == sorted(set(clips()) - {"1002_DFA_SAD_XX"})


@pytest.mark.parametrize("allow_incomplete", [False, True])
def test_problems_that_allow_incomplete_does_not_allow_are_reported(
    tmp_path: Path, src: Path, allow_incomplete: bool
) -> None:
    for i in range(1001, 1005):
        (src / "VideoFlash" / f"{i}_DFA_NEU_XX.flv").write_bytes(LFS_POINTER)
        (src / "AudioWAV" / f"{i}_DFA_NEU_XX.wav").write_bytes(LFS_POINTER)
    make(src, ["1003_DFA_JOY_XX", "1092_DFA_ANG_XX", "1003_DFA_ANG"])
    make(src, ["1003_ABC_ANG_XX", "1003_DFA_ANG_ZZ"])
    (src / "AudioWAV" / "again").mkdir()
    (src / "AudioWAV" / "again" / "1001_DFA_ANG_XX.wav").write_bytes(WAV)
    (src / "VideoFlash" / "1005_DFA_ANG_XX.mp4").write_bytes(MP4)
    words = [
        "15",
        "8",
        "4",
        "1",
        "2",
        "6",
        "ANG",
        "DIS",
        "FEA",
        "HAP",
        "NEU",
        "SAD",
        "1003_DFA_JOY_XX",
        "1003_ABC_ANG_XX",
        "1001_DFA_ANG_XX",
    ]
    words += ["1005_DFA_ANG_XX", "1001_DFA_NEU_XX", "AudioWAV/1001_DFA_NEU_XX.wav"]
    words += [str(src / "AudioWAV" / f"{name}1001_DFA_ANG_XX.wav") for name in ("", "again/")]
    with refused(DataError, *words):
        import_cremad(src, tmp_path / "out", allow_incomplete=allow_incomplete)
    assert not (tmp_path / "out").exists()


def test_clips_of_the_authors_table_without_files(tmp_path: Path, src: Path) -> None:
    write_csv(
        src / "SentenceFilenames.csv",
        [["Stimulus_Number", "Filename"], ["1", "1001_DFA_ANG_XX"], ["2", "1091_TAI_HAP_XX"]],
    )
    with pytest.raises(DataError, match=r"(?s)(?=.*1091_TAI_HAP_XX)(?=.*SentenceFilenames\.csv)"):
        import_cremad(src, tmp_path / "out")
    summary = import_cremad(src, tmp_path / "out", allow_incomplete=True)
    assert summary["samples"] == 72


def test_misnamed_file_of_the_first_releases(tmp_path: Path, src: Path) -> None:
    make(src, ["1040_ITH_SAD_XX"])
    (src / "AudioWAV" / "1040_ITH_SAD_XX.wav").rename(src / "AudioWAV" / "1040_ITH_SAD_X.wav")
    import_cremad(src, tmp_path / "out")
    assert read_samples(tmp_path / "out")["1040_ITH_SAD_XX"][1].suffixes == {
        "json",
        "audio.wav",
        "video.flv",
    }


def test_videos_in_another_folder(tmp_path: Path) -> None:
    src = make(tmp_path / "src", clips(), video="VideoMP4", ending="mp4", data=MP4)
    import_cremad(src, tmp_path / "1")
    assert load(DecodeConfig, tmp_path / "1" / "decode.yaml").modalities["video"].member == (
        "video.mp4",
    )
    make(src, clips())
    with pytest.raises(InputError, match=r"(?s)(?=.*VideoFlash)(?=.*VideoMP4)(?=.*--video)"):
        import_cremad(src, tmp_path / "2")
    import_cremad(src, tmp_path / "2", video="VideoMP4")
    assert (tmp_path / "1" / "shard-000000.tar").read_bytes() == (
        tmp_path / "2" / "shard-000000.tar"
    ).read_bytes()
