"""Import of CSV manifests: rows, files and splits."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import load
from pipeline.decode.config import AudioSpec, DecodeConfig, ImageSpec, TensorSpec, VideoSpec
from pipeline.errors import InputError
from pipeline.sources.importers.table import import_table
from pipeline.sources.synthetic import encoding
from tests.support.media_tables import BOTH, CLIP, picture, rows_of, table, wav, write
from tests.support.refusals import refused
from tests.support.stores import read_samples


def test_every_row_is_imported_with_files_and_metadata(tmp_path: Path) -> None:
    manifest = table(tmp_path)
    seen: list[tuple[int, int]] = []
    summary = import_table(
        manifest,
        tmp_path / "out",
        modalities=BOTH,
        num_shards=5,
        progress=lambda *done: seen.append(done),
    )
    samples = read_samples(tmp_path / "out")
    assert sorted(samples) == [f"s{i:03d}" for i in range(12)]
    for i in range(12):
        metadata, sample = samples[f"s{i:03d}"]
        assert sample.key == f"s{i:03d}"
        assert sample.suffixes == {"json", "audio.wav", "image.png"}
        assert sample.members["audio.wav"] == (tmp_path / f"a/{i}.wav").read_bytes()
        assert sample.members["image.png"] == (tmp_path / f"b/{i}.PNG").read_bytes()
        assert (metadata["label"], metadata["split"]) == (
            "cat" if i % 2 else "dog",
            "test" if i % 4 == 3 else "train",
        )
        assert metadata["columns"]["speaker"] == f"p{i % 5}"  # type: ignore[index]
    assert seen == [(i + 1, 12) for i in range(12)]
    assert len(summary["shards"]) == 5
    assert summary["splits"] == {
        "test": {"samples": 3, "labels": {"cat": 3}},
        "train": {"samples": 9, "labels": {"cat": 3, "dog": 6}},
    }


def test_output_is_deterministic_and_order_depends_on_seed(tmp_path: Path) -> None:
    manifest = table(tmp_path, num=40)
    for name, seed in (("1", 0), ("2", 0), ("3", 1)):
        import_table(manifest, tmp_path / name, modalities=BOTH, num_shards=2, seed=seed)
    trees = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "123"
    ]
    assert trees[0] == trees[1]
    orders = [list(read_samples(tmp_path / name)) for name in "123"]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) != orders[0]


def test_decode_yaml_is_inferred_from_files(tmp_path: Path) -> None:
    files = {
        f"{i}.{end}": data
        for i in range(4)
        for end, data in (
            ("wav", wav(0.5 + 0.1 * i, 8000)),
            ("mp4", CLIP),
            ("npy", encoding.npy(np.zeros((3, 5), np.float32))),
        )
    }
    rows = rows_of(4, lambda i: {end: f"{i}.{end}" for end in ("wav", "mp4", "npy")})
    manifest = write(tmp_path, rows, files)
    import_table(
        manifest, tmp_path / "out", modalities={"speech": "wav", "lips": "mp4", "trace": "npy"}
    )
    assert load(DecodeConfig, tmp_path / "out" / "decode.yaml").modalities == {
        "speech": AudioSpec(kind="audio", member=("speech.wav",), sample_rate=8000, seconds=0.8),
        "lips": VideoSpec(kind="video", member=("lips.mp4",), size=32),
        "trace": TensorSpec(kind="tensor", member=("trace.npy",), shape=(3, 5)),
    }


@pytest.mark.parametrize(
    ("mode", "width", "height", "size", "channels"),
    [("L", 48, 48, 48, 1), ("RGB", 48, 64, 48, 3), ("L", 400, 300, 112, 1), ("P", 20, 10, 10, 3)],
)
def test_image_size_and_channels_are_inferred(
    tmp_path: Path, mode: str, width: int, height: int, size: int, channels: int
) -> None:
    files = {"p.png": picture(mode, width, height)}
    manifest = write(tmp_path, rows_of(4, lambda i: {"p": "p.png"}), files)
    import_table(manifest, tmp_path / "out", modalities={"face": "p"})
    spec = load(DecodeConfig, tmp_path / "out" / "decode.yaml").modalities["face"]
    assert spec == ImageSpec(kind="image", member=("face.png",), size=size, channels=channels)  # type: ignore[arg-type]


def clips(folder: Path, columns: Sequence[str], paths: Callable[[int, str], str]) -> Path:
    rows = rows_of(4, lambda i: {name: paths(i, name) for name in columns})
    files = {path: CLIP + path.encode() for row in rows for name in columns if (path := row[name])}
    return write(folder, rows, files)


def test_shared_file_is_written_once(tmp_path: Path) -> None:
    manifest = clips(
        tmp_path, ("audio_path", "video_path"), lambda i, name: f"{i}.mp4" if i else f"{name}.mp4"
    )
    import_table(
        manifest, tmp_path / "out", modalities={"audio": "audio_path", "video": "video_path"}
    )
    specs = load(DecodeConfig, tmp_path / "out" / "decode.yaml").modalities
    assert {name: (spec.kind, spec.member) for name, spec in specs.items()} == {
        "audio": ("audio", ("audio.mp4", "mp4")),
        "video": ("video", ("mp4", "video.mp4")),
    }
    samples = read_samples(tmp_path / "out")
    assert samples["s0"][1].suffixes == {"json", "audio.mp4", "video.mp4"}
    assert all(samples[f"s{i}"][1].suffixes == {"json", "mp4"} for i in (1, 2, 3))


def test_ambiguous_kind_of_a_shared_file_is_rejected(tmp_path: Path) -> None:
    manifest = clips(tmp_path, ("path",), lambda i, _: f"{i}.mp4")
    names = {"SPEECH": "path", "video": "path"}
    with refused(InputError, "SPEECH", "video", "audio", "mp4", "--kind"):
        import_table(manifest, tmp_path / "out", modalities=names)
    import_table(manifest, tmp_path / "out", modalities=names, kinds={"SPEECH": "audio"})
    assert load(DecodeConfig, tmp_path / "out" / "decode.yaml").modalities["SPEECH"].kind == "audio"


@settings(max_examples=15)
@given(
    present=st.lists(
        st.lists(st.sampled_from(["", "x.mp4", "y.mp4", "z.wav"]), min_size=4, max_size=4).filter(
            any
        ),
        min_size=2,
        max_size=6,
    )
)
def test_each_modality_reads_its_own_file(
    tmp_path_factory: pytest.TempPathFactory, present: list[list[str]]
) -> None:
    folder = tmp_path_factory.mktemp("mixed")
    names = ["a", "b", "c", "d"]
    rows = rows_of(len(present), lambda i: dict(zip(names, present[i], strict=True)))
    files = {"x.mp4": CLIP + b"x", "y.mp4": CLIP + b"y", "z.wav": wav(0.1, 8000)}
    used = [name for name in names if any(row[name] for row in rows)]
    import_table(
        write(folder, rows, files),
        folder / "out",
        modalities={name: name for name in used},
        kinds=dict.fromkeys(used, "audio"),
    )
    specs = load(DecodeConfig, folder / "out" / "decode.yaml").modalities
    samples = read_samples(folder / "out")
    for row in rows:
        members = samples[row["sample_id"]][1].members
        for name in used:
            chosen = [members[suffix] for suffix in specs[name].member if suffix in members][:1]
            assert chosen == ([files[row[name]]] if row[name] else [])
        assert len(members) - 1 == len({row[name] for name in used} - {""})


def test_an_empty_cell_is_a_missing_modality(tmp_path: Path) -> None:
    manifest = table(tmp_path, picture=lambda i: "" if i % 3 == 0 else f"b/{i}.PNG")
    summary = import_table(manifest, tmp_path / "out", modalities=BOTH)
    assert summary["missing"] == {"audio": 0, "image": 4}
    assert [
        ("image.png" in sample.suffixes)
        for _, (_, sample) in sorted(read_samples(tmp_path / "out").items())
    ] == [i % 3 != 0 for i in range(12)]


@pytest.mark.parametrize("odd", ["a.b", "../b", "æ", "x" * 200, "000003"])
def test_ids_that_are_not_valid_keys_are_kept_in_json(tmp_path: Path, odd: str) -> None:
    import_table(
        table(tmp_path, sample_id=lambda i: odd if i == 5 else f"{i:06d}x"),
        tmp_path / "out",
        modalities=BOTH,
    )
    samples = read_samples(tmp_path / "out")
    assert set(samples) == {f"{i:06d}x" for i in range(12) if i != 5} | {odd}
    keys = {sample.key for _, sample in samples.values()}
    assert keys == (set(samples) if odd == "000003" else {f"{line:02d}" for line in range(2, 14)})
    assert samples[odd][1].members["audio.wav"] == (tmp_path / "a/5.wav").read_bytes()


def test_names_of_splits(tmp_path: Path) -> None:
    meant = {"train": "train", "val": "validation", "VALID": "validation", "dev": "validation"}
    meant |= {"validation": "validation", "Test ": "test"}
    manifest = table(tmp_path, split=lambda i: list(meant)[i % len(meant)])
    import_table(manifest, tmp_path / "out", modalities=BOTH)
    for i, split in enumerate(meant.values()):
        assert read_samples(tmp_path / "out")[f"s{i:03d}"][0]["split"] == split


def test_rows_excluded_by_where_may_be_invalid(tmp_path: Path) -> None:
    manifest = table(
        tmp_path,
        speaker=lambda i: "out" if i < 4 else "in",
        sound=lambda i: "missing.wav" if i < 4 else f"a/{i}.wav",
        split=lambda i: "?" if i < 4 else "train",
    )
    import_table(manifest, tmp_path / "out", modalities=BOTH, where={"speaker": "in"})
    assert set(read_samples(tmp_path / "out")) == {f"s{i:03d}" for i in range(4, 12)}


def test_paths_are_relative_to_root(tmp_path: Path) -> None:
    manifest = table(tmp_path / "data")
    elsewhere = tmp_path / "elsewhere.csv"
    manifest.rename(elsewhere)
    import_table(elsewhere, tmp_path / "out", modalities=BOTH, root=tmp_path / "data")
    assert len(read_samples(tmp_path / "out")) == 12


@pytest.mark.parametrize("split_by", [None, "speaker"])
def test_validation_is_created_from_train(tmp_path: Path, split_by: str | None) -> None:
    manifest = table(tmp_path, num=100, speaker=lambda i: f"p{i * i % 17}")
    results = []
    for name, seed in (("1", 0), ("2", 1)):
        import_table(
            manifest,
            tmp_path / name,
            modalities={"audio": "sound"},
            split_by=split_by,
            validation_share=0.2,
            seed=seed,
        )
        metadata = [metadata for metadata, _ in read_samples(tmp_path / name).values()]
        results.append(
            {
                row_metadata["sample_id"]
                for row_metadata in metadata
                if row_metadata["split"] == "validation"
            }
        )
        assert {
            row_metadata["sample_id"]
            for row_metadata in metadata
            if row_metadata["split"] == "test"
        } == {f"s{i:03d}" for i in range(3, 100, 4)}
        speakers = {
            split: {
                row_metadata["columns"]["speaker"]
                for row_metadata in metadata
                if row_metadata["split"] == split
            }
            for split in ("train", "validation")
        }  # type: ignore[index]
        assert (split_by is None) == bool(speakers["train"] & speakers["validation"])
        assert len(results[-1]) == 15 if split_by is None else 8 <= len(results[-1]) <= 22
        labels = Counter(
            row_metadata["label"]
            for row_metadata in metadata
            if row_metadata["split"] == "validation"
        )
        assert split_by or labels == {"cat": 5, "dog": 10}
    assert results[0] != results[1]


def test_avemo_grouped_by_speaker(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    summary = import_table(
        real_data("avemo") / "manifest.csv",
        tmp_path / "out",
        modalities={"audio": "audio_path", "image": "image_path"},
        label="emotion",
        where={"crema6": "1"},
        split_by="speaker",
        validation_share=0.15,
    )
    sizes = {
        name: (part["samples"], len(part["labels"])) for name, part in summary["splits"].items()
    }
    assert sizes == {"test": (264, 6), "train": (1953, 6), "validation": (396, 6)}
    sides: dict[str, set[str]] = {}
    for metadata, _ in read_samples(tmp_path / "out").values():
        sides.setdefault(metadata["columns"]["speaker"], set()).add(metadata["split"])  # type: ignore[index]
    assert all(len(splits) == 1 for splits in sides.values())
    spec = load(DecodeConfig, tmp_path / "out" / "decode.yaml").modalities["image"]
    assert spec == ImageSpec(kind="image", member=("image.jpg",), size=48, channels=1)
