"""Importer of Kinetics-Sounds, from clips in class folders or with the CSV files of Kinetics.

Arandjelović and Zisserman, "Look, Listen and Learn", ICCV 2017 (arXiv 1705.08168) selected 34
classes of Kinetics that are both visible and audible. 31 of them exist in Kinetics-400 and are
commonly used; the list is from AdaMML (Panda et al., ICCV 2021; issue 3 of IBM/AdaMML).
"""

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from pipeline.decode.config import AudioSpec, DecodeConfig, ModalitySpec, VideoSpec
from pipeline.errors import DataError, InputError
from pipeline.sources.importers.known_sets import CURES, check_request, keep_complete, with_members
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
"""Usual preprocessing: 1024 windows of 128 mel bins, 10 ms apart; one video frame per second."""
MAX_REJECTED_SHARE = 0.05

# A YouTube id has 11 characters, including underscores; start and end in seconds may follow.
_NAME = re.compile(r"(?P<id>[A-Za-z0-9_-]{11})(?:_(?P<start>\d+))?(?:_\d+)?")
_CURES = CURES | {"named twice": "Keep one of the lines."}
_Key = tuple[str, int | None]
"""YouTube id, or another name, and the start of the clip in seconds."""


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
    """Write Kinetics-Sounds as shards and return the content of shards.json.

    Splits that do not exist are created from train, stratified by class and grouped by YouTube id.

    Args:
        src: folder with clips in [SPLIT/]CLASS/, or at any depth if `csv` is given.
        out: folder to create.
        csv: CSV files of Kinetics with label, youtube_id, time_start and split.
        allow_missing_classes: continue if some of the 31 classes have no clips.
        allow_incomplete: leave out incomplete clips instead of raising an error.
        validation_share: fraction of the clips in a new validation split.
        test_share: fraction of the clips in a new test split.
        num_shards: number of shards; by default one per 256 samples.
        seed: seed of the order and of the splits.
        progress: called after each sample.
    Raises:
        InputError: an argument or a file is invalid; nothing was written.
        StoreError: a file cannot be read, or `out` cannot be written.
    """
    check_request(src, out, "the clips", validation_share, test_share)
    rows, problems = _by_csv(src, csv) if csv else _by_folder(src)
    rows, removed = keep_complete(rows, problems, _CURES, allow_incomplete)
    _check_classes(src, rows, allow_missing_classes)
    rows = _carve(rows, {"test": test_share, "validation": validation_share}, seed)
    labels = {row.label for row in rows}
    if untrained := sorted(labels - {row.label for row in rows if row.split == "train"}):
        raise DataError(
            f"Class {untrained[0]!r} has no train clip", "Add train clips or remove the class."
        )
    origin: dict[str, JsonValue] = {
        "source": "kinetics-sounds",
        "csv": [path.name for path in csv],
        "validation_share": validation_share,
        "test_share": test_share,
        "seed": seed,
        "missing_classes": [*sorted(set(CLASSES) - labels)],
        "left_out": removed,
    }
    decode = DecodeConfig(
        modalities=with_members(SPECS, rows), max_rejected_share=MAX_REJECTED_SHARE
    )
    return write_rows(
        out, rows, decode=decode, origin=origin, seed=seed, num_shards=num_shards, progress=progress
    )


def class_of(name: str) -> str:
    """Normalize the name of a class: lower case, with single spaces."""
    return " ".join(re.split(r"[\s_]+", name.strip().lower()))


def _key(path: Path) -> _Key:
    """Parse the name of a clip's file."""
    match = _NAME.fullmatch(path.stem)
    if not match:
        return path.stem, None
    return match["id"], int(match["start"]) if match["start"] else None


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
        folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith(".")
    )


def _by_folder(src: Path) -> tuple[list[Row], list[FileProblem]]:
    """Rows of the clips in [SPLIT/]CLASS folders, and clips that exist twice. Raises InputError."""
    folders = _folders(src)
    splits = {
        path: SPLIT_NAMES[path.name.lower()] for path in folders if path.name.lower() in SPLIT_NAMES
    }
    if splits and (classes := [path for path in folders if class_of(path.name) in CLASSES]):
        raise InputError(
            f"{src} contains both split {next(iter(splits)).name} and class {classes[0].name}",
            "Move the class folders into split folders, or use no split folders.",
        )
    clips = [
        (path, class_of(folder.name), split)
        for parent, split in (splits or {src: "train"}).items()
        for folder in _folders(parent)
        if class_of(folder.name) in CLASSES
        for path in media_below(folder, "video")
    ]
    _, problems = _unique((path.stem, path) for path, _, _ in clips)
    return [_row(*clip) for clip in clips], problems


def _by_csv(src: Path, csv: Sequence[Path]) -> tuple[list[Row], list[FileProblem]]:
    """Rows of the clips that the CSV files list, and problems.

    Problems are lines without a clip, clips without a line, and duplicates. Raises DataError.
    """
    paths, problems = _unique((_key(path), path) for path in media_below(src, "video"))
    rows, known = [], set()
    for listed, label, split, where in (entry for file in csv for entry in _entries(file)):
        key = listed if listed in paths else (listed[0], None)
        if label in CLASSES and (key in known or key not in paths):
            kind = "named twice" if key in known else "missing"
            problems.append(FileProblem(name="_".join(map(str, listed)), kind=kind, detail=where))
        elif label in CLASSES:
            rows.append(_row(paths[key], label, split))
        known.add(key)
    return rows, problems + [
        FileProblem(name=path.stem, kind="in no CSV", detail=f" ({path})")
        for key, path in paths.items()
        if key not in known
    ]


def _unique(paths: Iterable[tuple[Key, Path]]) -> tuple[dict[Key, Path], list[FileProblem]]:
    """Return the first path of each key, and a problem for each further one."""
    first: dict[Key, Path] = {}
    problems = []
    for key, path in paths:
        if key in first:
            detail = f" ({first[key]} and {path})"
            problems.append(FileProblem(name=path.stem, kind="there twice", detail=detail))
        first.setdefault(key, path)
    return first, problems


def _entries(file: Path) -> Iterator[tuple[_Key, str, str, str]]:
    """Yield key, label, split and location of each line of a CSV file. Raises DataError."""
    columns = ("label", "youtube_id", "time_start", "split")
    for line, cells in read_cells(file, dict.fromkeys(columns, "as in the files of Kinetics")):
        where = f"{file}, line {line}"
        try:
            start = int(float(cells["time_start"]))
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"{where}: invalid time_start {cells['time_start']!r}", "Use seconds."
            ) from error
        split = split_of(cells["split"], where)
        location = f" ({file.name}, line {line})"
        yield (cells["youtube_id"], start), class_of(cells["label"]), split, location


def _check_classes(src: Path, rows: Sequence[Row], allow_missing: bool) -> None:
    """Raise DataError if classes without clips are not allowed, or fewer than two have clips."""
    missing = sorted(set(CLASSES) - {row.label for row in rows})
    if missing and not (allow_missing and len(missing) <= len(CLASSES) - 2):
        folders = {class_of(path.name) for path in src.rglob("*") if path.is_dir()}
        others = sorted(folders - {*CLASSES, *SPLIT_NAMES})
        close = [
            f"Did you mean the folder {match[0]!r} for {name!r}?"
            for name in missing
            if (match := get_close_matches(name, others, n=1, cutoff=0.8))
        ]
        cure = (
            "Add clips of at least two classes."
            if allow_missing
            else "Add clips, or pass --allow-missing-classes to continue without."
        )
        raise DataError(
            f"{len(missing)} of the {len(CLASSES)} classes have no clip in {src}:"
            f" {', '.join(missing)}",
            " ".join([*close, cure]),
        )


def _carve(rows: list[Row], shares: Mapping[str, float], seed: int) -> list[Row]:
    """Create missing splits of `shares`, stratified by class and grouped by YouTube id."""
    # One clip represents all clips of its video.
    representatives = {(row.cells["youtube_id"], row.split): row for row in rows}
    carved = carve_splits([*representatives.values()], shares, None, seed)
    splits = {video: row.split for video, row in zip(representatives, carved, strict=True)}
    return [replace(row, split=splits[row.cells["youtube_id"], row.split]) for row in rows]
