"""Kinetics-Sounds, clips of Kinetics in class folders or with Kinetics' CSV files -> shards.

Arandjelović and Zisserman, "Look, Listen and Learn", ICCV 2017 (arXiv 1705.08168) chose 34 classes of Kinetics that can be both seen and heard. Of these 31 are
left under the names of Kinetics-400, and the field uses them: the list is that of AdaMML (Panda et al., ICCV 2021; issue 3 of IBM/AdaMML).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from pipeline.decode.config import AudioSpec, DecodeConfig, ModalitySpec, VideoSpec
from pipeline.errors import DataError, InputError, MissingError
from pipeline.shards.member_suffixes import KINDS_OF
from pipeline.sources.importers.manifest import SPLIT_NAMES, Row, carve_splits, needing, read_cells
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

CLASSES = (
    "blowing nose",
    "blowing out candles",
    "bowling",
    "chopping wood",
    "dribbling basketball",
    "laughing",
    "mowing lawn",
    "playing accordion",
    "playing bagpipes",
    "playing bass guitar",
    "playing clarinet",
    "playing drums",
    "playing guitar",
    "playing harmonica",
    "playing keyboard",
    "playing organ",
    "playing piano",
    "playing saxophone",
    "playing trombone",
    "playing trumpet",
    "playing violin",
    "playing xylophone",
    "ripping paper",
    "shoveling snow",
    "shuffling cards",
    "singing",
    "stomping grapes",
    "tap dancing",
    "tapping guitar",
    "tapping pen",
    "tickling",
)
SPECS: dict[str, ModalitySpec] = {
    "audio": AudioSpec(
        kind="audio",
        member=(),
        sample_rate=16_000,
        seconds=10.23,
        features="log_mel",
        num_mels=128,
        n_fft=512,
        hop=160,
    ),
    "video": VideoSpec(kind="video", member=(), frames=10, size=224),
}
"""The field's preprocessing: 128 mel bins every 10 ms, 1024 of them; a frame a second."""
MAX_REJECTED_SHARE = 0.05

_SPLITS = SPLIT_NAMES | {"validate": "validation"}
# An id of YouTube has 11 characters, of which any may be an underscore; times in seconds may follow it.
_NAME = re.compile(r"(?P<id>[A-Za-z0-9_-]{11})(?:_(?P<start>\d+))?(?:_\d+)?")
_INCOMPLETE = ("missing", "in no CSV", "empty", "unreadable", "without sound", "without pictures")
_CURES = dict.fromkeys(
    _INCOMPLETE, "give --allow-incomplete to leave such clips out, or mend them"
) | {
    POINTER: "`git lfs pull` fetches what pointers stand for",
    "there twice": "keep one of them",
    "named twice": "keep one of the lines",
    "not a file": "remove it",
}


_Key = tuple[str, int | None]
"""A YouTube id and the second at which the clip starts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """A line of a CSV file."""

    key: _Key
    label: str
    split: str
    where: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Clip:
    """`split` is empty where neither folder nor CSV names one."""

    path: Path
    label: str
    split: str

    @property
    def youtube_id(self) -> str:
        """Of the video that the clip is cut out of; the whole name where it holds no such id."""
        named = _NAME.fullmatch(self.path.stem)
        return named["id"] if named else self.path.stem


def import_kinetics_sounds(
    src: Path,
    out: Path,
    *,
    csv: Sequence[Path] = (),
    allow_missing_classes: bool = False,
    allow_incomplete: bool = False,
    validation_share: float = 0.1,
    test_share: float = 0.15,
    num_shards: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, JsonValue]:
    """Writes Kinetics-Sounds as shards and returns their counts: clips lie in SRC/[SPLIT/]CLASS, or anywhere below SRC with Kinetics' files `csv`;
    a split that there is not is carved out of train, no YouTube id on two sides of it (raises InputError, StoreError).
    """
    check_vacant(out)
    if not src.is_dir():
        raise MissingError(f"SRC {src} is no folder", "give the folder that the clips lie in")
    if min(validation_share, test_share) < 0 or validation_share + test_share >= 1:
        raise InputError(
            f"shares of validation and test are {validation_share} and {test_share}",
            "give numbers from 0 up whose sum is below 1",
        )
    clips, problems = _by_csv(src, csv) if csv else (_by_folder(src), [])
    problems += [*_twice(clips), *_looks(clips)]
    out_of_it = left_out(problems, "clips", _CURES, _INCOMPLETE if allow_incomplete else ())
    clips = [clip for clip in clips if clip.path.stem not in out_of_it]
    _check_classes(src, clips, allow_missing_classes)
    rows = _carve(_rows(clips), {"test": test_share, "validation": validation_share}, seed)
    if lost := sorted(
        {row.label for row in rows} - {row.label for row in rows if row.split == "train"}
    ):
        raise DataError(f"class {lost[0]!r} has no clip in train", "add some, or remove the class")
    origin: dict[str, JsonValue] = {
        "source": "kinetics-sounds",
        "csv": [path.name for path in csv],
        "validation_share": validation_share,
        "test_share": test_share,
        "seed": seed,
        "missing_classes": [*sorted(set(CLASSES) - {row.label for row in rows})],
        "left_out": out_of_it,
    }
    members = members_of(rows)
    specs = {
        name: spec.model_copy(update={"member": members[name]}) for name, spec in SPECS.items()
    }
    decode = DecodeConfig(modalities=specs, max_rejected_share=MAX_REJECTED_SHARE)
    return write_rows(
        out, rows, decode=decode, origin=origin, seed=seed, num_shards=num_shards, progress=progress
    )


def class_of(name: str) -> str:
    """The class that a folder or a label names, in small letters with spaces."""
    return " ".join(re.split(r"[\s_]+", name.strip().lower()))


def _folders(path: Path) -> list[Path]:
    return sorted(
        each for each in path.iterdir() if each.is_dir() and not each.name.startswith(".")
    )


def _media(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if "video" in KINDS_OF.get(extension(path), ()) and not path.name.startswith(".")
    )


def _by_folder(src: Path) -> list[_Clip]:
    splits = {
        path: _SPLITS[path.name.lower()] for path in _folders(src) if path.name.lower() in _SPLITS
    }
    if splits and (apart := [path for path in _folders(src) if class_of(path.name) in CLASSES]):
        raise InputError(
            f"{src} has both the split {next(iter(splits)).name} and the class {apart[0].name}",
            "have classes in each split, or no splits",
        )
    places = [
        (folder, split)
        for split_folder, split in (splits or {src: ""}).items()
        for folder in _folders(split_folder)
    ]
    return [
        _Clip(path=path, label=class_of(folder.name), split=split)
        for folder, split in places
        if class_of(folder.name) in CLASSES
        for path in _media(folder)
    ]


def _by_csv(src: Path, csv: Sequence[Path]) -> tuple[list[_Clip], list[Problem]]:
    """The clips of our classes that the CSV files name, and what is amiss: lines without a clip and clips without a line."""
    paths, problems = _by_name(src)
    clips, known = [], set()
    for entry in (entry for path in csv for entry in _entries(path)):
        key = entry.key if entry.key in paths else (entry.key[0], None)
        if entry.label in CLASSES and (key in known or key not in paths):
            kind = "named twice" if key in known else "missing"
            problems.append(
                Problem(name="_".join(map(str, entry.key)), kind=kind, detail=entry.where)
            )
        elif entry.label in CLASSES:
            clips.append(_Clip(path=paths[key], label=entry.label, split=entry.split))
        known.add(key)
    return clips, problems + [
        Problem(name=path.stem, kind="in no CSV", detail=f" ({path})")
        for key, path in paths.items()
        if key not in known
    ]


def _by_name(src: Path) -> tuple[dict[_Key, Path], list[Problem]]:
    paths: dict[_Key, Path] = {}
    problems = []
    for path in _media(src):
        named = _NAME.fullmatch(path.stem)
        key = (
            (named["id"], int(named["start"]) if named["start"] else None)
            if named
            else (path.stem, None)
        )
        if key in paths:
            problems.append(
                Problem(name=path.stem, kind="there twice", detail=f" ({paths[key]} and {path})")
            )
        paths[key] = path
    return paths, problems


def _entries(file: Path) -> Iterator[_Entry]:
    for line, cells in read_cells(
        file, "CSV", needing(file, "label", "youtube_id", "time_start", "split")
    ):
        split = cells["split"].strip().lower()
        if split not in _SPLITS:
            raise DataError(
                f"{file}, line {line}: split is {cells['split']!r}",
                f"write one of {', '.join(_SPLITS)}",
            )
        try:
            start = int(float(cells["time_start"]))
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"{file}, line {line}: time_start is {cells['time_start']!r}", "give seconds"
            ) from error
        yield _Entry(
            key=(cells["youtube_id"], start),
            label=class_of(cells["label"]),
            split=_SPLITS[split],
            where=f" ({file.name}, line {line})",
        )


def _twice(clips: Sequence[_Clip]) -> Iterator[Problem]:
    first: dict[str, _Clip] = {}
    for clip in clips:
        other = first.setdefault(clip.path.stem, clip)
        if other is not clip:
            yield Problem(
                name=clip.path.stem, kind="there twice", detail=f" ({other.path} and {clip.path})"
            )


def _looks(clips: Sequence[_Clip]) -> Iterator[Problem]:
    for clip in clips:
        if problem := problem_with(clip.path) or lacks(clip.path, ["audio", "video"]):
            yield Problem(name=clip.path.stem, kind=problem, detail=f" ({clip.label})")


def _check_classes(src: Path, clips: Sequence[_Clip], allow_missing: bool) -> None:
    lost = sorted(set(CLASSES) - {clip.label for clip in clips})
    others = sorted(
        {class_of(path.name) for path in src.rglob("*") if path.is_dir()} - {*CLASSES, *_SPLITS}
    )
    if lost and not (allow_missing and len(lost) <= len(CLASSES) - 2):
        close = [
            f"did you mean the folder {match[0]!r} for {name!r}?"
            for name in lost
            if (match := get_close_matches(name, others, n=1, cutoff=0.8))
        ]
        cure = (
            "have clips of two at least"
            if allow_missing
            else "--allow-missing-classes goes on without"
        )
        raise DataError(
            f"{len(lost)} of the {len(CLASSES)} classes have no clip in {src}: {', '.join(lost)}",
            " ".join([*close, cure]),
        )


def _rows(clips: Sequence[_Clip]) -> list[Row]:
    return [
        Row(
            line=line,
            sample_id=clip.path.stem,
            label=clip.label,
            split=clip.split or "train",
            files={"audio": clip.path, "video": clip.path},
            cells={"youtube_id": clip.youtube_id},
        )
        for line, clip in enumerate(sorted(clips, key=lambda clip: clip.path.stem), 1)
    ]


def _carve(rows: list[Row], shares: Mapping[str, float], seed: int) -> list[Row]:
    """The rows with the splits of `shares` that there are not yet, of every class its part; one clip speaks for all of its video."""
    heads = list({(row.cells["youtube_id"], row.split): row for row in rows}.values())
    carved = {
        row.cells["youtube_id"]: row.split
        for head, row in zip(heads, carve_splits(heads, shares, None, seed), strict=True)
        if head.split == "train"
    }
    return [
        replace(row, split=carved[row.cells["youtube_id"]]) if row.split == "train" else row
        for row in rows
    ]
