"""Import of CSV files as people have them: separators, paths, texts and labels."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from pipeline.config import load
from pipeline.decode.config import DecodeConfig, TextSpec
from pipeline.errors import DataError, InputError
from pipeline.sources.importers.table import import_table
from tests.support.media_tables import CLIP, wav
from tests.support.refusals import refused
from tests.support.stores import Command, read_samples

GIF = io.BytesIO()
Image.new("L", (16, 16)).save(GIF, "GIF")
HEADER = "sample_id,label,split,sound,note\n"


def write(folder: Path, text: str) -> Path:
    for name in ("x", "y"):
        (folder / f"{name}.wav").write_bytes(wav(0.1, 8000) + name.encode())
    (folder / "m.csv").write_text(text, encoding="utf-8")
    return folder / "m.csv"


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_separators(tmp_path: Path, mark: str) -> None:
    lines = ["sample_id,label,split,sound,note", "1,a,train,x.wav,X", "2,b,train,y.wav,Y"]
    text = "\n".join(lines).replace(",", mark).replace("X", '"a, b; c\td"')
    import_table(write(tmp_path, text), tmp_path / "out", modalities={"audio": "sound"})
    samples = read_samples(tmp_path / "out")
    assert samples["1"][0]["columns"]["note"] == "a, b; c\td"  # type: ignore[index]
    assert samples["2"][1].members["audio.wav"][-1:] == b"y"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("C:\\data\\y.wav", ["line 3", "C:\\data\\y.wav", "--root", "data/y.wav"]),
        ("C:/data/y.wav", ["line 3", "C:/data/y.wav", "--root", "data/y.wav"]),
        ("sub\\y.wav", ["line 3", "sub\\y.wav", "sub/y.wav"]),
        ("https://host/y.wav", ["line 3", "https://host/y.wav", "--root"]),
        ("s3://bucket/y.wav", ["line 3", "s3://bucket/y.wav", "--root"]),
    ],
)
def test_paths_that_are_not_local(tmp_path: Path, value: str, words: list[str]) -> None:
    manifest = write(tmp_path, f"{HEADER}1,a,train,x.wav,\n2,b,train,{value},\n")
    with refused(DataError, *words):
        import_table(manifest, tmp_path / "out", modalities={"audio": "sound"})
    assert not (tmp_path / "out").exists()


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    text = f"{HEADER}1,a,train,~/x.wav,\n2,b,train,~/y.wav,\n"
    (tmp_path / "elsewhere").mkdir()
    manifest = write(tmp_path, text).rename(tmp_path / "elsewhere/m.csv")
    import_table(manifest, tmp_path / "out", modalities={"audio": "sound"})
    assert read_samples(tmp_path / "out")["1"][1].members["audio.wav"][-1:] == b"x"


def test_a_column_of_texts(tmp_path: Path) -> None:
    text = f'{HEADER}1,a,train,x.wav,"né ""so"""\n2,b,train,y.wav, \n3,b,train,,{"long " * 10}\n'
    summary = import_table(
        write(tmp_path, text),
        tmp_path / "out",
        modalities={"audio": "sound", "said": "text:note"},
    )
    assert summary["missing"] == {"audio": 1, "said": 1}
    samples = read_samples(tmp_path / "out")
    assert samples["1"][1].members["said.txt"] == 'né "so"'.encode()
    assert samples["2"][1].suffixes == {"json", "audio.wav"}
    spec = load(DecodeConfig, tmp_path / "out/decode.yaml").modalities["said"]
    assert spec == TextSpec(kind="text", member=("said.txt",), length=48)


def test_blank_text_files_are_missing_modalities(tmp_path: Path) -> None:
    for name, data in (("1", b"hello"), ("2", b""), ("3", b"\xef\xbb\xbf \n"), ("4", b"\xff")):
        (tmp_path / f"{name}.txt").write_bytes(data)
    rows = [f"{i},{'ab'[i % 2]},train,x.wav,{i}.txt" for i in (1, 2, 3, 4)]
    manifest = write(tmp_path, HEADER + "\n".join(rows))
    both = {"audio": "sound", "said": "note"}
    assert import_table(manifest, tmp_path / "out", modalities=both)["missing"] == {
        "audio": 0,
        "said": 2,
    }
    with refused(DataError, "line 3", "said"):
        import_table(manifest, tmp_path / "other", modalities={"said": "note"})


def test_a_kind_that_is_given_is_used(tmp_path: Path) -> None:
    for name, data in (
        ("c.mp4", CLIP),
        ("n.md", b"note"),
        ("n.json", b"{}"),
        ("g.gif", GIF.getvalue()),
    ):
        (tmp_path / name).write_bytes(data)
    rows = [f"{i},{i},train,c.mp4,n.md" for i in (1, 2)]
    manifest = write(tmp_path, HEADER + "\n".join(rows))
    columns = {"face": "sound", "note": "note"}
    with refused(InputError, "note", "md", "--kind"):
        import_table(manifest, tmp_path / "out", modalities=columns)
    kinds = {"face": "audio", "note": "text"}
    import_table(manifest, tmp_path / "out", modalities=columns, kinds=kinds)
    specs = load(DecodeConfig, tmp_path / "out/decode.yaml").modalities
    assert {name: (spec.kind, spec.member) for name, spec in specs.items()} == {
        "face": ("audio", ("face.mp4",)),
        "note": ("text", ("note.md",)),
    }
    manifest.write_text(f"{HEADER}1,a,train,g.gif,n.json\n2,b,train,g.gif,n.json\n")
    import_table(manifest, tmp_path / "gif", modalities={"x": "sound"}, kinds={"x": "video"})
    assert load(DecodeConfig, tmp_path / "gif/decode.yaml").modalities["x"].kind == "video"
    with refused(InputError, "note", "json"):
        import_table(
            manifest, tmp_path / "json", modalities={"note": "note"}, kinds={"note": "text"}
        )


def test_an_empty_label_is_rejected(tmp_path: Path) -> None:
    manifest = write(tmp_path, f"{HEADER}1,a,train,x.wav,\n2, ,train,y.wav,\n")
    with refused(DataError, "line 3", "label"):
        import_table(manifest, tmp_path / "out", modalities={"audio": "sound"})


def test_classes_are_printed(tmp_path: Path, command: Command) -> None:
    labels = ["Cat"] * 3 + ["cat ", "caf\u00e9", "cafe\u0301", *(f"z{i:02d}" for i in range(18))]
    rows = [f"{i},{label},{'test' if i == 1 else 'train'},x.wav," for i, label in enumerate(labels)]
    manifest = write(tmp_path, HEADER + "\n".join(rows))
    options = (manifest, tmp_path / "out", "--modality", "audio=sound")
    code, out, err = command("import", "table", *options)
    assert code == 0, err
    lines = out.splitlines()
    assert "  'Cat': 1 test, 2 train" in lines
    assert sum(line.startswith("  '") for line in lines) == 20
    assert "  and 2 more" in lines
    assert any("'Cat' (3), 'cat ' (1)" in line for line in lines)
    assert any("'cafe\u0301' (1), 'caf\u00e9' (1)" in line for line in lines)
    origin = json.loads((tmp_path / "out/shards.json").read_text())["origin"]
    assert origin["similar_labels"] == [
        {"Cat": 3, "cat ": 1},
        {"cafe\u0301": 1, "caf\u00e9": 1},
    ]
