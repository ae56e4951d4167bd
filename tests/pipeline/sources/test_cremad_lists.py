"""Import of CREMA-D with lists of clips; invalid lists, options and folders are rejected."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.errors import DataError, InputError, MissingError
from pipeline.sources.importers.cremad import import_cremad
from tests.support.cremad_folder import ACTORS, actors, clips, sides, write_csv
from tests.support.refusals import refused
from tests.support.stores import Command


def lists(
    folder: Path, train: Sequence[str], test: Sequence[str], *more: Sequence[str]
) -> list[Path]:
    names = [train, test, *more]
    return [
        write_csv(folder / f"{i}.csv", [[name, name.split("_")[2]] for name in clips_of_split])
        for i, clips_of_split in enumerate(names)
    ]


def test_lists_define_the_splits(tmp_path: Path, src: Path) -> None:
    names = clips()
    train, validation, test = names[::3], names[1::3], names[2:-3:3]
    summary = import_cremad(
        src, tmp_path / "out", split="lists", lists=lists(tmp_path, train, test, validation)
    )
    assert sides(tmp_path / "out") == {
        "train": set(train),
        "test": set(test),
        "validation": set(validation),
    }
    assert summary["origin"]["num_unlisted"] == 1  # type: ignore[index, call-overload]


def test_validation_shares_actors_with_train_only_if_test_does(tmp_path: Path, src: Path) -> None:
    names = clips()
    for name, train, test in (
        ("mixed", names[::2], names[1::2]),
        ("apart", clips(ACTORS[:8]), clips(ACTORS[8:])),
    ):
        both = {"split": "lists", "lists": lists(tmp_path, train, test)}
        import_cremad(src, tmp_path / name, validation_share=0.25, **both)
        found = sides(tmp_path / name)
        assert found["test"] == set(test)
        assert found["train"] | found["validation"] == set(train)
        assert len(found["validation"]) == len(train) // 4
        assert (name == "mixed") == bool(actors(found["train"]) & actors(found["validation"]))
    import_cremad(src, tmp_path / "none", validation_share=0, **both)
    assert sides(tmp_path / "none").keys() == {"train", "test"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1002_DFA_SAD_XX,SAD", ["1002_DFA_SAD_XX", "1.csv", "7"]),
        ("1003_DFA_SAD_XX,HAP", ["1003_DFA_SAD_XX", "1.csv", "7", "HAP"]),
        ("1020_DFA_SAD_XX,SAD", ["1020_DFA_SAD_XX", "1.csv", "7", "--allow-incomplete"]),
        ("name,label", ["name", "1.csv", "7"]),
        ("1003_DFA_JOY_XX,JOY", ["1003_DFA_JOY_XX", "1.csv", "7"]),
    ],
)
def test_invalid_lists(tmp_path: Path, src: Path, line: str, words: list[str]) -> None:
    found = lists(tmp_path, clips([1002]), clips([1004]))
    found[1].write_text(found[1].read_text() + line + "\n")
    words = ["1", *words]
    with refused(DataError, *words):
        import_cremad(src, tmp_path / "out", split="lists", lists=found)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"split": "speaker"}, InputError, "split speaker actor lists"),
        ({"split": "lists"}, InputError, "split lists 0"),
        ({"lists": [Path("a.csv"), Path("b.csv")]}, InputError, "split actor 2"),
        ({"split": "lists", "lists": [Path("no.csv"), Path("b.csv")]}, MissingError, "no.csv"),
        ({"validation_share": 0.6, "test_share": 0.4}, InputError, "0.6 0.4"),
        ({"test_share": 0.01}, InputError, "0.01 72"),
        ({"num_shards": 73}, InputError, "shards 73 72"),
        ({"video": "VideoAVI"}, MissingError, "VideoAVI"),
    ],
)
def test_invalid_options(
    tmp_path: Path, src: Path, options: dict[str, object], kind: type[InputError], words: str
) -> None:
    with refused(kind, *words.split()):
        import_cremad(src, tmp_path / "out", **options)  # type: ignore[arg-type]


def test_folder_that_is_not_cremad(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="AudioWAV"):
        import_cremad(tmp_path, tmp_path / "out")
    with pytest.raises(MissingError, match=str(tmp_path / "none")):
        import_cremad(tmp_path / "none", tmp_path / "out")


def test_command(tmp_path: Path, src: Path, command: Command) -> None:
    names = clips()
    (src / "VideoFlash" / f"{names[0]}.flv").unlink()
    train, test = lists(tmp_path, names[:40], names[40:-2])
    asked = ["import", "cremad", src, tmp_path / "out", "--split", "lists", train, test]
    code, _, err = command(*asked)
    assert code == 2
    assert names[0] in err
    assert "--allow-incomplete" in err
    code, out, _ = command(*asked, "--allow-incomplete")
    assert code == 0
    assert out.splitlines()[:3] == [
        "69 samples (30 test, 35 train, 4 validation); 1 left out, listed in shards.json;"
        f" 2 in no list: {tmp_path / 'out'}",
        "6 classes:",
        "  'ANG': 5 test, 5 train, 1 validation",
    ]
    code, out, _ = command(
        "import", "cremad", src, tmp_path / "actors", "--allow-incomplete", "--json"
    )
    assert code == 0
    assert json.loads(out)["samples"] == 71
