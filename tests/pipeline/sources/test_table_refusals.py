"""Import of invalid manifests and files: errors before anything is written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError, DataError, InputError, MissingError
from pipeline.sources.importers.table import import_table
from pipeline.sources.synthetic import encoding
from tests.support.media_tables import BOTH, LFS_POINTER, rows_of, table, write
from tests.support.refusals import refused
from tests.support.stores import read_samples


def test_unusable_files_are_counted_and_listed(
    tmp_path: Path,
) -> None:
    manifest = table(tmp_path, num=20)
    for i in (0, 1, 2, 6):
        (tmp_path / f"a/{i}.wav").unlink()
    (tmp_path / "a/3.wav").write_bytes(b"")
    (tmp_path / "a/4.wav").write_bytes(LFS_POINTER)
    (tmp_path / "b/5.PNG").unlink()
    (tmp_path / "b/5.PNG").mkdir()
    lines = {2: "a/0.wav", 3: "a/1.wav", 4: "a/2.wav", 5: "a/3.wav", 6: "a/4.wav", 7: "b/5.PNG"}
    words = [7, 1, 4, *lines, *(tmp_path / name for name in lines.values())]
    with refused(DataError, *words) as error:
        import_table(manifest, tmp_path / "out", modalities=BOTH)
    assert "6.wav" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "options", "kind", "words"),
    [
        ({}, {"label": "lable"}, InputError, "lable label"),
        ({}, {"modalities": {"audio": "sond"}}, InputError, "sond audio sound"),
        ({}, {"where": {"language": "en"}}, InputError, "language sample_id split"),
        ({}, {"split_by": "speakers", "validation_share": 0.2}, InputError, "speakers speaker"),
        ({}, {"where": {"speaker": "p9"}}, InputError, "speaker=p9"),
        ({}, {"modalities": {}}, InputError, "--modality"),
        ({}, {"modalities": {"all": "sound"}}, ConfigError, "all"),
        ({}, {"modalities": {"a b": "sound"}}, ConfigError, "a b"),
        ({}, {"modalities": {"A": "sound", "a": "picture"}}, InputError, "a"),
        ({}, {"kinds": {"sound": "audio"}}, InputError, "sound audio image"),
        ({}, {"kinds": {"audio": "noise"}}, InputError, "noise audio"),
        ({}, {"kinds": {"audio": "image"}}, InputError, "audio 12 image"),
        ({}, {"validation_share": 1.0}, InputError, "1.0"),
        ({}, {"split_by": "speaker"}, InputError, "speaker"),
        ({}, {"validation_share": 0.01}, InputError, "0.01 9"),
        ({}, {"num_shards": 13}, InputError, "shards 13 12"),
        ({}, {"num_shards": 0}, InputError, "shards 0 12"),
        (
            {"split": lambda i: "holdout" if i == 2 else "train"},
            {},
            DataError,
            "4 split holdout validation",
        ),
        ({"split": lambda i: "test"}, {"validation_share": 0.2}, InputError, "train"),
        (
            {"split": lambda i: "val" if i == 2 else "train"},
            {"validation_share": 0.2},
            InputError,
            "0.2 validation",
        ),
        (
            {"speaker": lambda i: "p" if i else ""},
            {"split_by": "speaker", "validation_share": 0.2},
            DataError,
            "2 speaker",
        ),
        (
            {"speaker": lambda i: "cat" if i % 2 else "dog"},
            {"split_by": "speaker", "validation_share": 0.6},
            InputError,
            "0.6 cat",
        ),
        (
            {"speaker": lambda i: "p"},
            {"split_by": "speaker", "validation_share": 0.2},
            InputError,
            "0.2 9 speaker",
        ),
        ({"label": lambda i: "" if i == 3 else "a"}, {}, DataError, "5 label"),
        ({"label": lambda i: "a"}, {}, DataError, "label a"),
        ({"sample_id": lambda i: "" if i == 3 else str(i)}, {}, DataError, "5 sample_id"),
        ({"sample_id": lambda i: "same" if i in (3, 7) else str(i)}, {}, DataError, "same 5 9"),
        ({"sound": lambda i: ""}, {}, DataError, "audio sound"),
        (
            {"sound": lambda i: "", "picture": lambda i: "b/1.PNG" if i else ""},
            {},
            DataError,
            "2 s000 audio image",
        ),
        ({"sound": lambda i: "a/1.wav" if i else "manifest.csv"}, {}, InputError, "audio csv"),
        ({"sound": lambda i: "a/1.wav" if i else "b/1.PNG"}, {}, InputError, "audio wav png"),
    ],
)
def test_invalid_tables_and_options_are_rejected(
    tmp_path: Path,
    change: dict[str, Callable[[int], str]],
    options: dict[str, object],
    kind: type[InputError],
    words: str,
) -> None:
    manifest = table(tmp_path, **change)
    with refused(kind, *words.split()):
        import_table(manifest, tmp_path / "out", **{"modalities": BOTH, **options})  # type: ignore[arg-type]
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (b"", InputError, ["m.csv", "sample_id"]),
        (b"sample_id,label,split,sound\n", InputError, ["m.csv"]),
        (b"sample_id,label,split,sound,sound\n1,a,train,x,y\n", DataError, ["m.csv", "sound"]),
        (b"sample_id,label,split,sound\n1,a,train\n", DataError, ["m.csv", "2", "4"]),
        (b"sample_id,label,split,sound\n1,a,train,x,y\n", DataError, ["m.csv", "2", "4"]),
        (b"sample_id,label,split,sound\n1,\xff,train,x\n", DataError, ["m.csv", "UTF-8"]),
        (b'sample_id,label,split,sound\n1,"a,train,x\n', DataError, ["m.csv"]),
    ],
)
def test_broken_manifests(
    tmp_path: Path, text: bytes, kind: type[InputError], words: list[str]
) -> None:
    (tmp_path / "m.csv").write_bytes(text)
    with refused(kind, *words):
        import_table(tmp_path / "m.csv", tmp_path / "out", modalities={"audio": "sound"})


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"\bm\.csv\b"):
        import_table(tmp_path / "m.csv", tmp_path / "out", modalities={"audio": "sound"})


def test_damaged_files_are_imported_unless_all_are_damaged(tmp_path: Path) -> None:
    manifest = table(tmp_path)
    (tmp_path / "a/0.wav").write_bytes(b"no sound at all")
    import_table(manifest, tmp_path / "out", modalities=BOTH)
    assert read_samples(tmp_path / "out")["s000"][1].members["audio.wav"] == b"no sound at all"
    for i in range(12):
        (tmp_path / f"a/{i}.wav").write_bytes(b"no sound at all")
    with pytest.raises(DataError, match=r"(?s)(?=.*\baudio\b)(?=.*\b12\b)(?=.*a/0\.wav)"):
        import_table(manifest, tmp_path / "again", modalities=BOTH)


def test_arrays_of_two_shapes(tmp_path: Path) -> None:
    files = {f"{i}.npy": encoding.npy(np.zeros((2, 3 + i // 2), np.float32)) for i in range(3)}
    manifest = write(tmp_path, rows_of(3, lambda i: {"x": f"{i}.npy"}), files)
    with refused(DataError, "x", "(2, 3)", "(2, 4)"):
        import_table(manifest, tmp_path / "out", modalities={"x": "x"})
