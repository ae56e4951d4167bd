"""Import of Kinetics-Sounds from folders or CSV files: classes, splits, clips and errors."""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import load
from pipeline.decode.config import DecodeConfig
from pipeline.decode.media.sample import decode_sample
from pipeline.errors import DataError, InputError, MissingError
from pipeline.sources.importers import cremad
from pipeline.sources.importers.kinetics_sounds import (
    CLASSES,
    SPECS,
    class_of,
    import_kinetics_sounds,
)
from tests.support.media_files import encode_clip, tone
from tests.support.refusals import refused
from tests.support.stores import Command, read_samples
from trainer.config import load_run

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:c6f94b25\nsize 72862\n"
CLIP = encode_clip(6, sound=tone(440, 0.6))
MUTE = encode_clip(6)
FEW = CLASSES[:4]


def youtube_id(number: int) -> str:
    return f"-{number:04d}_aB-c_"


def put(folder: Path, numbers: Sequence[int], data: bytes = CLIP) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        (folder / f"{youtube_id(i)}_{i:06d}_{i + 10:06d}.mp4").write_bytes(data)


def tree(
    src: Path, classes: Sequence[str] = FEW, splits: Mapping[str, int] | None = None, num: int = 10
) -> Path:
    """Write clips in [SPLIT/]CLASS folders, half of the classes with underscores.

    `splits` has the number of clips per class of each split.
    """
    first = 0
    for split, num_clips in (splits or {"": num}).items():
        for i, name in enumerate(classes):
            put(
                src / split / (name.replace(" ", "_") if i % 2 else name),
                range(first, first + num_clips),
            )
            first += num_clips
    return src


def counts(folder: Path) -> Counter[object]:
    return Counter(metadata["split"] for metadata, _ in read_samples(folder).values())


def few(src: Path, out: Path, **options: object) -> dict[str, object]:
    return import_kinetics_sounds(src, out, allow_missing_classes=True, **options)  # type: ignore[arg-type, return-value]


def test_all_31_classes_by_folder(tmp_path: Path) -> None:
    src = tree(tmp_path / "src", CLASSES, num=3)
    tree(src, ["juggling balls"])
    summary = import_kinetics_sounds(src, tmp_path / "out")
    imported = read_samples(tmp_path / "out")
    assert len(CLASSES) == len(set(CLASSES)) == 31
    assert Counter(metadata["label"] for metadata, _ in imported.values()) == dict.fromkeys(
        CLASSES, 3
    )
    assert summary["origin"]["missing_classes"] == []  # type: ignore[index, call-overload]
    name = f"{youtube_id(4)}_000004_000014"
    metadata, sample = imported[name]
    assert (metadata["label"], metadata["columns"]) == (CLASSES[1], {"youtube_id": youtube_id(4)})
    assert sample.members["mp4"] == CLIP
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == again(
        src, tmp_path / "again"
    )


def again(src: Path, out: Path) -> dict[str, bytes]:
    import_kinetics_sounds(src, out)
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize(
    "name", ["playing bass guitar", "Playing_Bass_Guitar", " playing  bass_guitar"]
)
def test_names_of_classes(name: str) -> None:
    assert class_of(name) == "playing bass guitar"


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ({}, {"train": 30, "validation": 4, "test": 6}),
        ({"train": 8, "val": 1, "test": 1}, {"train": 32, "validation": 4, "test": 4}),
        ({"train": 9, "test": 1}, {"train": 32, "validation": 4, "test": 4}),
        ({"train": 9, "validate": 1}, {"train": 31, "validation": 4, "test": 5}),
    ],
)
def test_missing_splits_are_created_from_train(
    tmp_path: Path, splits: dict[str, int], expected: dict[str, int]
) -> None:
    few(tree(tmp_path / "src", splits=splits), tmp_path / "out")
    assert counts(tmp_path / "out") == expected


@pytest.mark.parametrize("seed", range(2))
def test_clips_of_a_video_are_in_one_split(tmp_path: Path, seed: int) -> None:
    src = tree(tmp_path / "src")
    for path in list(src.rglob("*.mp4")):
        for start in (200, 300):
            path.with_name(f"{path.stem[:11]}_{start:06d}_{start + 10:06d}.mp4").write_bytes(CLIP)
    few(src, tmp_path / "out", seed=seed, test_share=0.3, validation_share=0.2)
    imported: dict[str, set[str]] = {}
    for metadata, _ in read_samples(tmp_path / "out").values():
        imported.setdefault(metadata["columns"]["youtube_id"], set()).add(str(metadata["split"]))  # type: ignore[index]
    assert len(imported) == 40
    assert all(len(splits) == 1 for splits in imported.values())
    assert set().union(*imported.values()) == {"train", "validation", "test"}


@pytest.mark.filterwarnings(
    "ignore:At least one mel filterbank"
)  # 128 mel bins of 257, the usual setting
def test_decoded_shapes(tmp_path: Path) -> None:
    few(tree(tmp_path / "src"), tmp_path / "out")
    config = load(DecodeConfig, tmp_path / "out" / "decode.yaml")
    rows = decode_sample(
        next(iter(read_samples(tmp_path / "out").values()))[1].members,
        config.modalities,
        config.limits,
    )
    assert rows["audio"].shape == (1, 128, 1024)  # type: ignore[union-attr]
    assert rows["video"].shape == (10, 3, 224, 224)  # type: ignore[union-attr]
    assert np.ptp(rows["video"].mean((1, 2, 3))) > 30, "the grey of the frames rises"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "specs", "members"),
    [
        ("kinetics-sounds", SPECS, {"mp4"}),
        ("kinetics-sounds-honest", SPECS, {"mp4"}),
        ("cremad", cremad.SPECS, {"audio.wav", "video.flv"}),
        ("cremad-honest", cremad.SPECS, {"audio.wav", "video.flv"}),
    ],
)
def test_deployed_jobs_decode_as_the_importers_do(
    name: str, specs: Mapping[str, object], members: set[str]
) -> None:
    source = load_run(Path(__file__).parents[3] / "deploy" / "jobs" / f"{name}.yaml").source
    assert source is not None
    assert source.decode is not None
    modalities = source.decode.modalities.items()
    assert {name: spec.model_copy(update={"member": ()}) for name, spec in modalities} == specs
    assert members <= source.decode.members


def test_missing_classes_are_reported(tmp_path: Path) -> None:
    src = tree(
        tmp_path / "src",
        [name for name in CLASSES if name not in ("tickling", "singing", "tapping pen")],
        num=2,
    )
    (src / "singing").mkdir()
    put(src / "tapping pens", [900])
    words = [3, 31, src, "singing", "tapping pen", "tickling", "tapping pens"]
    with refused(DataError, *words, "--allow-missing-classes"):
        import_kinetics_sounds(src, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    summary = few(src, tmp_path / "out")
    assert summary["origin"]["missing_classes"] == ["singing", "tapping pen", "tickling"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (MUTE, "without sound"),
        (b"", "empty"),
        (CLIP[:100], "unreadable"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "unreadable"),
    ],
    ids=["mute", "empty", "cut", "playlist"],
)
def test_incomplete_clips_are_reported_or_left_out(tmp_path: Path, data: bytes, kind: str) -> None:
    src = tree(tmp_path / "src")
    put(src / "bowling", [20, 21], data)
    name = f"{youtube_id(20)}_000020_000030"
    words = ["2", name, f"{youtube_id(21)}_000021_000031", "bowling", "--allow-incomplete"]
    with refused(DataError, *words):
        few(src, tmp_path / "out")
    summary = few(src, tmp_path / "out", allow_incomplete=True)
    assert summary["origin"]["left_out"] == {name: kind, f"{youtube_id(21)}_000021_000031": kind}  # type: ignore[index]
    assert len(read_samples(tmp_path / "out")) == 38


def test_problems_that_allow_incomplete_does_not_allow(tmp_path: Path) -> None:
    src, name = tree(tmp_path / "src"), f"{youtube_id(0)}_000000_000010.mp4"
    put(src / "chopping_wood", [0])
    twice = (f"blowing nose/{name}", f"chopping_wood/{name}")
    with refused(DataError, 1, name.removesuffix(".mp4"), *twice):
        few(src, tmp_path / "out", allow_incomplete=True)
    (src / "chopping_wood" / name).unlink()
    put(src / "bowling", [20], LFS_POINTER)
    with refused(DataError, 1, f"{youtube_id(20)}_000020_000030", "bowling"):
        few(src, tmp_path / "out", allow_incomplete=True)


def kinetics(path: Path, lines: Sequence[tuple[str, int, str]]) -> Path:
    """Write a CSV file of Kinetics from (label, number of the clip, split)."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "youtube_id", "time_start", "time_end", "split", "is_cc"])
        writer.writerows([label, youtube_id(i), i, i + 10, split, 0] for label, i, split in lines)
    return path


def lines(splits: Mapping[str, range]) -> list[tuple[str, int, str]]:
    return [
        ((*FEW, "juggling balls")[i % 5], i, split)
        for split, numbers in splits.items()
        for i in numbers
    ]


def test_import_with_csv_files(tmp_path: Path) -> None:
    put(tmp_path / "src" / "anywhere", range(30))
    put(tmp_path / "src" / "else", range(30, 50))
    (tmp_path / "src" / "else" / f"{youtube_id(49)}_000049_000059.mp4").rename(
        tmp_path / "src" / f"{youtube_id(49)}.mp4"
    )
    train = kinetics(tmp_path / "train.csv", lines({"train": range(40)}))
    test = kinetics(tmp_path / "test.csv", lines({"test": range(40, 50)}))
    few(tmp_path / "src", tmp_path / "out", csv=[train, test])
    imported = read_samples(tmp_path / "out")
    assert len(imported) == 40, "juggling balls is not one of the classes"
    assert counts(tmp_path / "out") == {"train": 29, "validation": 3, "test": 8}
    assert imported[f"{youtube_id(6)}_000006_000016"][0]["label"] == FEW[1]


def test_lines_without_a_clip_and_clips_without_a_line(tmp_path: Path) -> None:
    put(tmp_path / "src", range(41))
    file = kinetics(
        tmp_path / "k.csv",
        [*lines({"train": range(1, 40), "test": range(40, 43)}), (FEW[1], 1, "test")],
    )
    words = [4, "k.csv", f"{youtube_id(41)}_41", 42, f"{youtube_id(1)}_1", 44]
    words.append(f"{youtube_id(0)}_000000_000010")
    with refused(DataError, *words):
        few(tmp_path / "src", tmp_path / "out", csv=[file])
    kinetics(file, lines({"train": range(1, 40), "test": range(40, 43)}))
    summary = few(tmp_path / "src", tmp_path / "out", csv=[file], allow_incomplete=True)
    assert set(summary["origin"]["left_out"].values()) == {"in no CSV", "missing"}  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("label,youtube_id,time_start\n", ["k.csv", "split"]),
        ("label,youtube_id,time_start,split\nbowling,a,1,holdout\n", ["2", "holdout", "validate"]),
        ("label,youtube_id,time_start,split\nbowling,a,soon,test\n", ["2", "soon", "time_start"]),
        ("label,youtube_id,time_start,split\nbowling,a\n", ["2", "4"]),
    ],
)
def test_broken_csv_files(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "k.csv").write_text(text)
    with refused(DataError, *words):
        few(tree(tmp_path / "src"), tmp_path / "out", csv=[tmp_path / "k.csv"])


def test_invalid_folders_and_options(tmp_path: Path) -> None:
    src = tree(tmp_path / "src", splits={"train": 4})
    (src / "val").mkdir()
    (src / "train" / "chopping_wood").rename(src / "val" / "chopping_wood")
    with pytest.raises(DataError, match=r"(?s)(?=.*\bchopping wood\b)(?=.*\btrain\b)"):
        few(src, tmp_path / "out")
    put(src / "bowling", [7])
    with pytest.raises(InputError, match=r"(?s)(?=.*\btrain\b)(?=.*\bbowling\b)"):
        few(src, tmp_path / "out")
    with pytest.raises(InputError, match=r"(?s)(\b0\.5\b.*){2}"):
        few(src, tmp_path / "out", validation_share=0.5, test_share=0.5)
    with pytest.raises(MissingError, match=str(tmp_path / "none")):
        few(tmp_path / "none", tmp_path / "out")
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match=rf"(?s)(?=.*\b31\b)(?=.*{tmp_path}/void)"):
        few(tmp_path / "void", tmp_path / "out")


def test_command(tmp_path: Path, command: Command) -> None:
    src = tree(tmp_path / "src", num=5)
    put(src / "bowling", [100], MUTE)
    asked = ["import", "kinetics-sounds", src, tmp_path / "out", "--allow-missing-classes"]
    code, _, err = command(*asked)
    assert code == 2
    assert f"{youtube_id(100)}_000100_000110" in err
    assert "bowling" in err
    code, out, _ = command(*asked, "--allow-incomplete")
    assert code == 0
    assert out.startswith(
        "20 samples (3 test, 15 train, 2 validation); 1 left out, listed in shards.json;"
        " without dribbling basketball, laughing, "
    )
    write = kinetics(tmp_path / "k.csv", [(FEW[i % 4], i, "train") for i in range(20)])
    put(tmp_path / "flat", range(20))
    code, out, err = command(
        "import",
        "kinetics-sounds",
        tmp_path / "flat",
        tmp_path / "csv",
        "--csv",
        write,
        "--allow-missing-classes",
        "--json",
    )
    assert code == 0, err
    assert json.loads(out)["origin"]["csv"] == ["k.csv"]
