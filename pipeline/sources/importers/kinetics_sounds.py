"""Kinetics-Sounds, clips of Kinetics in class folders or with Kinetics' CSV files -> shards.

Arandjelović and Zisserman, "Look, Listen and Learn", ICCV 2017 (arXiv 1705.08168) chose 34 classes of Kinetics that can be both seen and heard. Of these 31 are
left under the names of Kinetics-400, and the field uses them: the list is that of AdaMML (Panda et al., ICCV 2021; issue 3 of IBM/AdaMML).
"""

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from pipeline.decode.config import AudioSpec, DecodeConfig, ModalitySpec, VideoSpec
from pipeline.errors import DataError, InputError
from pipeline.sources.importers.known_sets import CURES, check_request, keep_whole, with_members
from pipeline.sources.importers.manifest import SPLIT_NAMES, Row, carve_splits, read_cells, split_of
from pipeline.sources.importers.probing import media_below
from pipeline.sources.importers.rows import FileProblem, write_rows
from pipeline.sources.shard_writer import JsonValue, Progress

Key = TypeVar("Key", bound=Hashable)

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

# An id of YouTube has 11 characters, of which any may be an underscore; times in seconds may follow it.
_NAME = re.compile(r"(?P<id>[A-Za-z0-9_-]{11})(?:_(?P<start>\d+))?(?:_\d+)?")
_CURES = CURES | {"named twice": "keep one of the lines"}
_Key = tuple[str, int | None]
"""A YouTube id, or a name that holds none, and the second at which the clip starts."""


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
    check_request(src, out, "the clips", validation_share, test_share)
    rows, problems = _by_csv(src, csv) if csv else _by_folder(src)
    rows, lost = keep_whole(rows, problems, _CURES, allow_incomplete)
    _check_classes(src, rows, allow_missing_classes)
    rows = _carve(rows, {"test": test_share, "validation": validation_share}, seed)
    labels = {row.label for row in rows}
    if untrained := sorted(labels - {row.label for row in rows if row.split == "train"}):
        raise DataError(
            f"class {untrained[0]!r} has no clip in train", "add some, or remove the class"
        )
    origin: dict[str, JsonValue] = {
        "source": "kinetics-sounds",
        "csv": [path.name for path in csv],
        "validation_share": validation_share,
        "test_share": test_share,
        "seed": seed,
        "missing_classes": [*sorted(set(CLASSES) - labels)],
        "left_out": lost,
    }
    decode = DecodeConfig(
        modalities=with_members(SPECS, rows), max_rejected_share=MAX_REJECTED_SHARE
    )
    return write_rows(
        out, rows, decode=decode, origin=origin, seed=seed, num_shards=num_shards, progress=progress
    )


def class_of(name: str) -> str:
    """The class that a folder or a label names, in small letters with spaces."""
    return " ".join(re.split(r"[\s_]+", name.strip().lower()))


def _key(path: Path) -> _Key:
    named = _NAME.fullmatch(path.stem)
    if not named:
        return path.stem, None
    return named["id"], int(named["start"]) if named["start"] else None


def _row(path: Path, label: str, split: str) -> Row:
    return Row(
        sample_id=path.stem,
        label=label,
        split=split,
        files={"audio": path, "video": path},
        cells={"youtube_id": _key(path)[0]},
    )


def _folders(path: Path) -> list[Path]:
    return sorted(
        each for each in path.iterdir() if each.is_dir() and not each.name.startswith(".")
    )


def _by_folder(src: Path) -> tuple[list[Row], list[FileProblem]]:
    folders = _folders(src)
    splits = {
        path: SPLIT_NAMES[path.name.lower()] for path in folders if path.name.lower() in SPLIT_NAMES
    }
    if splits and (apart := [path for path in folders if class_of(path.name) in CLASSES]):
        raise InputError(
            f"{src} has both the split {next(iter(splits)).name} and the class {apart[0].name}",
            "have classes in each split, or no splits",
        )
    rows = [
        _row(path, class_of(folder.name), split)
        for parent, split in (splits or {src: "train"}).items()
        for folder in _folders(parent)
        if class_of(folder.name) in CLASSES
        for path in media_below(folder, "video")
    ]
    _, problems = _each_once((row.sample_id, row.files["video"]) for row in rows)
    return rows, problems


def _by_csv(src: Path, csv: Sequence[Path]) -> tuple[list[Row], list[FileProblem]]:
    """The clips of our classes that the CSV files name, and what is amiss: lines without a clip and clips without a line."""
    paths, problems = _each_once((_key(path), path) for path in media_below(src, "video"))
    rows, known = [], set()
    for asked, label, split, where in (entry for file in csv for entry in _entries(file)):
        key = asked if asked in paths else (asked[0], None)
        if label in CLASSES and (key in known or key not in paths):
            kind = "named twice" if key in known else "missing"
            problems.append(FileProblem(name="_".join(map(str, asked)), kind=kind, detail=where))
        elif label in CLASSES:
            rows.append(_row(paths[key], label, split))
        known.add(key)
    return rows, problems + [
        FileProblem(name=path.stem, kind="in no CSV", detail=f" ({path})")
        for key, path in paths.items()
        if key not in known
    ]


def _each_once(paths: Iterable[tuple[Key, Path]]) -> tuple[dict[Key, Path], list[FileProblem]]:
    """The paths by their keys, and those whose key another has."""
    first: dict[Key, Path] = {}
    problems = []
    for key, path in paths:
        if key in first:
            detail = f" ({first[key]} and {path})"
            problems.append(FileProblem(name=path.stem, kind="there twice", detail=detail))
        first.setdefault(key, path)
    return first, problems


def _entries(file: Path) -> Iterator[tuple[_Key, str, str, str]]:
    """Key, label, split and place of each line of a CSV file."""
    columns = ("label", "youtube_id", "time_start", "split")
    for line, cells in read_cells(file, dict.fromkeys(columns, "as Kinetics has it")):
        where = f"{file}, line {line}"
        try:
            start = int(float(cells["time_start"]))
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"{where}: time_start is {cells['time_start']!r}", "give seconds"
            ) from error
        split = split_of(cells["split"], where)
        path = f" ({file.name}, line {line})"
        yield (cells["youtube_id"], start), class_of(cells["label"]), split, path


def _check_classes(src: Path, rows: Sequence[Row], allow_missing: bool) -> None:
    lost = sorted(set(CLASSES) - {row.label for row in rows})
    if lost and not (allow_missing and len(lost) <= len(CLASSES) - 2):
        folders = {class_of(path.name) for path in src.rglob("*") if path.is_dir()}
        others = sorted(folders - {*CLASSES, *SPLIT_NAMES})
        close = [
            f"did you mean the folder {match[0]!r} for {name!r}?"
            for name in lost
            if (match := get_close_matches(name, others, n=1, cutoff=0.8))
        ]
        cure = "have clips of two" if allow_missing else "--allow-missing-classes goes on without"
        raise DataError(
            f"{len(lost)} of the {len(CLASSES)} classes have no clip in {src}: {', '.join(lost)}",
            " ".join([*close, cure]),
        )


def _carve(rows: list[Row], shares: Mapping[str, float], seed: int) -> list[Row]:
    """The rows with the splits of `shares` that there are not yet, of every class its part; one clip speaks for all of its video."""
    heads = {(row.cells["youtube_id"], row.split): row for row in rows}
    carved = carve_splits([*heads.values()], shares, None, seed)
    splits = {video: row.split for video, row in zip(heads, carved, strict=True)}
    return [replace(row, split=splits[row.cells["youtube_id"], row.split]) for row in rows]
