"""CREMA-D as its authors give it out -> shards.

Cao et al., "CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset", IEEE Trans. Affective Computing 5(4), 2014;
https://github.com/CheyneyComputerScience/CREMA-D.
A clip is AudioWAV/NAME.wav and VideoFlash/NAME.flv, where NAME is ACTOR_SENTENCE_EMOTION_LEVEL, such as 1001_DFA_ANG_XX.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.decode.config import AudioSpec, DecodeConfig, ModalitySpec, VideoSpec
from pipeline.errors import DataError, InputError, MissingError
from pipeline.shards.member_suffixes import KINDS_OF
from pipeline.sources.importers.manifest import Row, carve_splits, needing, read_cells, read_lines
from pipeline.sources.importers.probing import extension, lacks
from pipeline.sources.importers.rows import (
    POINTER,
    Problem,
    left_out,
    members_of,
    problem_with,
    write_rows,
)
from pipeline.sources.shard_writer import JsonValue, Progress, check_vacant

EMOTIONS = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
SENTENCES = ("DFA", "IEO", "IOM", "ITH", "ITS", "IWL", "IWW", "MTI", "TAI", "TIE", "TSI", "WSI")
LEVELS = ("HI", "LO", "MD", "XX")
ACTORS = range(1001, 1092)
SPECS: dict[str, ModalitySpec] = {
    "audio": AudioSpec(
        kind="audio",
        member=(),
        sample_rate=22_050,
        seconds=3,
        pad="repeat",
        features="log_spectrogram",
        n_fft=512,
        hop=353,
    ),
    "video": VideoSpec(kind="video", member=(), frames=4, size=224),
}
"""The field's preprocessing (OGM-GE, Peng et al., CVPR 2022): sound tiled and cut to 3 s, 257 x 188; about a frame a second is kept, and one more."""

_ABSENT = {"audio": "without its sound file", "video": "without its video"}
_LEAVE_OUT = "give --allow-incomplete to leave such clips out, or mend them"
_MISNAMED = f"names are ACTOR_SENTENCE_EMOTION_LEVEL with actors {ACTORS[0]} to {ACTORS[-1]}, {', '.join(SENTENCES)} and {', '.join(LEVELS)}"
_INCOMPLETE = (
    *_ABSENT.values(),
    "known by SentenceFilenames.csv alone",
    "not among the clips",
    "missing",
    "empty",
    "unreadable",
    "without sound",
    "without pictures",
)
_CURES = dict.fromkeys(_INCOMPLETE, _LEAVE_OUT) | {
    POINTER: "`git lfs install` and `git lfs pull` in the clone fetch what pointers stand for",
    "there twice": "keep one of them",
    "misnamed": _MISNAMED,
    "of an unknown emotion": f"emotions are {', '.join(EMOTIONS)}",
    "listed twice": "a clip belongs to one split",
    "mislabelled": "the label of a clip is in its name",
    "not a file": "remove it",
}
Files = dict[str, dict[str, list[Path]]]
"""The files of a clip by name and modality."""


def import_cremad(
    src: Path,
    out: Path,
    *,
    split: str = "actor",
    lists: Sequence[Path] = (),
    video: str | None = None,
    allow_incomplete: bool = False,
    validation_share: float = 0.1,
    test_share: float = 0.15,
    num_shards: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, JsonValue]:
    """Writes CREMA-D as shards and returns their counts: `split` is "actor", no actor on two sides, or "lists", by CSV files of train, test and,
    where there is one, validation; `video` is the folder of the videos where several hold some (raises InputError, StoreError).
    """
    check_vacant(out)
    _check(src, split, lists, validation_share, test_share)
    found = _find(src, video)
    problems = [*_naming(found), *_missing(src, found)]
    problems += [
        problem for name, files in sorted(found.items()) for problem in _looks(name, files)
    ]
    may_lack = _INCOMPLETE if allow_incomplete else ()
    out_of_it = left_out(problems, "clips", _CURES, may_lack)
    rows = _rows(
        src, {name: files for name, files in sorted(found.items()) if name not in out_of_it}
    )
    if not rows:
        raise DataError(
            f"{src} has no clip of which both halves are whole",
            "check that this is the folder that has AudioWAV and VideoFlash in it",
        )
    num_clips = len(rows)
    if split == "lists":
        rows, unlisted = _listed(rows, lists, out_of_it, may_lack)
        out_of_it |= unlisted
    rows = _split(rows, split, validation_share, test_share, seed)
    origin: dict[str, JsonValue] = {
        "source": "cremad",
        "split": split,
        "lists": [path.name for path in lists],
        "validation_share": validation_share,
        "test_share": test_share if split == "actor" else None,
        "seed": seed,
        "num_unlisted": num_clips - len(rows),
        "left_out": out_of_it,
    }
    members = members_of(rows)
    decode = DecodeConfig(
        modalities={
            name: spec.model_copy(update={"member": members[name]}) for name, spec in SPECS.items()
        }
    )
    return write_rows(
        out, rows, decode=decode, origin=origin, seed=seed, num_shards=num_shards, progress=progress
    )


def _check(
    src: Path, split: str, lists: Sequence[Path], validation_share: float, test_share: float
) -> None:
    if not src.is_dir():
        raise MissingError(
            f"SRC {src} is no folder", "give the folder that has AudioWAV and VideoFlash in it"
        )
    if split not in ("actor", "lists"):
        raise InputError(f"split is {split!r}", "choose actor or lists")
    if (split == "lists") != bool(lists) or len(lists) not in (0, 2, 3):
        raise InputError(
            f"split is {split!r} with {len(lists)} lists",
            "give --split lists TRAIN.csv TEST.csv, and VAL.csv where there is one; or no list",
        )
    if min(validation_share, test_share) < 0 or validation_share + test_share >= 1:
        raise InputError(
            f"shares of validation and test are {validation_share} and {test_share}",
            "give numbers from 0 up whose sum is below 1",
        )


def clip_name(name: str) -> str:
    """The name as it should be: until 2022 the authors gave 1040_ITH_SAD_XX out as 1040_ITH_SAD_X (issue 6 of their repository)."""
    return f"{name}X" if re.fullmatch(r".+_X", name) else name


def _find(src: Path, video: str | None) -> Files:
    folders = sorted(
        path for path in src.iterdir() if path.is_dir() and path.name.lower().startswith("video")
    )
    folders = (
        [src / video] if video else [path for path in folders if next(_media(path, "video"), None)]
    )
    if len(folders) > 1:
        raise InputError(
            f"{' and '.join(path.name for path in folders)} in {src} hold videos",
            f"say which: --video {folders[0].name}",
        )
    for folder in (src / "AudioWAV", *(folders or [src / "VideoFlash"])):
        if not folder.is_dir():
            raise MissingError(
                f"{src} has no folder {folder.name}",
                "give the folder that has AudioWAV and VideoFlash in it",
            )
    found: Files = {}
    for kind, folder in (("audio", src / "AudioWAV"), *(("video", folder) for folder in folders)):
        for path in sorted(_media(folder, kind)):
            found.setdefault(clip_name(path.stem), {}).setdefault(kind, []).append(path)
    return found


def _media(folder: Path, kind: str) -> Iterator[Path]:
    wanted = {ending for ending, kinds in KINDS_OF.items() if kinds[0] == kind}
    return (
        path
        for path in folder.rglob("*")
        if extension(path) in wanted and not path.name.startswith(".")
    )


def _naming(found: Files) -> Iterator[Problem]:
    for name, files in sorted(found.items()):
        for paths in files.values():
            if len(paths) > 1:
                yield Problem(
                    name=name, kind="there twice", detail=f" ({' and '.join(map(str, paths))})"
                )
        if kind := _misnamed(name):
            yield Problem(name=name, kind=kind)


def _misnamed(name: str) -> str:
    parts = name.split("_")
    if (
        len(parts) != 4
        or parts[0] not in map(str, ACTORS)
        or parts[1] not in SENTENCES
        or parts[3] not in LEVELS
    ):
        return "misnamed"
    return "" if parts[2] in EMOTIONS else "of an unknown emotion"


def _missing(src: Path, found: Files) -> Iterator[Problem]:
    for name, files in sorted(found.items()):
        yield from (
            Problem(name=name, kind=absent) for kind, absent in _ABSENT.items() if kind not in files
        )
    yield from (
        Problem(name=name, kind="known by SentenceFilenames.csv alone")
        for name in sorted(_numbers(src).keys() - found.keys())
    )


def _looks(name: str, files: Mapping[str, Sequence[Path]]) -> Iterator[Problem]:
    for kind, paths in files.items():
        for path in paths:
            if problem := problem_with(path) or lacks(path, [kind]):
                yield Problem(name=name, kind=problem, detail=f" ({path.parent.name}/{path.name})")


def _rows(src: Path, found: Files) -> list[Row]:
    numbers, people = _numbers(src), _people(src)
    rows = []
    for line, (name, files) in enumerate(found.items(), 1):
        actor, sentence, emotion, level = name.split("_")
        cells = {
            "actor": actor,
            "sentence": sentence,
            "level": level,
            "number": numbers.get(name, ""),
            **people.get(actor, {}),
        }
        paths = {kind: paths[0] for kind, paths in files.items()}
        rows.append(
            Row(line=line, sample_id=name, label=emotion, split="train", files=paths, cells=cells)
        )
    return rows


def _numbers(src: Path) -> dict[str, str]:
    """The authors' number of each clip, where SentenceFilenames.csv is there."""
    path = src / "SentenceFilenames.csv"
    cells = (
        [
            cells
            for _, cells in read_cells(path, "list", needing(path, "Stimulus_Number", "Filename"))
        ]
        if path.exists()
        else []
    )
    return {clip_name(each["Filename"]): each["Stimulus_Number"] for each in cells}


def _people(src: Path) -> dict[str, dict[str, str]]:
    """Age, sex, race and ethnicity of each actor, where VideoDemographics.csv is there."""
    path, columns = src / "VideoDemographics.csv", ("Age", "Sex", "Race", "Ethnicity")
    cells = (
        [cells for _, cells in read_cells(path, "list", needing(path, "ActorID", *columns))]
        if path.exists()
        else []
    )
    return {each["ActorID"]: {column.lower(): each[column] for column in columns} for each in cells}


def _listed(
    rows: Sequence[Row],
    lists: Sequence[Path],
    out_of_it: Mapping[str, JsonValue],
    may_lack: Sequence[str],
) -> tuple[list[Row], dict[str, JsonValue]]:
    """The rows that are in the lists, in the splits that those say, and what of the lists is not among the rows."""
    row_of, splits = {row.sample_id: row for row in rows}, {}
    problems = []
    for path, split in zip(lists, ("train", "test", "validation"), strict=False):
        for line, cells in read_lines(path, "list"):
            name, where = clip_name(cells[0].strip()), f" ({path.name}, line {line})"
            kind = _misnamed(name) or ("listed twice" if name in splits else "")
            if not kind and len(cells) > 1 and cells[1].strip() != name.split("_")[2]:
                kind, where = "mislabelled", f" ({path.name}, line {line}: {cells[1]!r})"
            if not kind and name not in row_of and name not in out_of_it:
                kind = "not among the clips"
            splits[name] = split
            problems += [Problem(name=name, kind=kind, detail=where)] if kind else []
    lost = left_out(problems, "entries of the lists", _CURES, may_lack)
    return [
        replace(row_of[name], split=split)
        for name, split in sorted(splits.items())
        if name in row_of
    ], lost


def _split(
    rows: list[Row], split: str, validation_share: float, test_share: float, seed: int
) -> list[Row]:
    if split == "actor":
        return carve_splits(
            rows, {"test": test_share, "validation": validation_share}, "actor", seed
        )
    # Validation is to train what test is: it shares actors with train where the lists do.
    actors = {
        side: {row.cells["actor"] for row in rows if row.split == side}
        for side in ("train", "test")
    }
    return carve_splits(
        rows,
        {"validation": validation_share},
        None if actors["train"] & actors["test"] else "actor",
        seed,
    )
