"""Importer of CREMA-D in the layout that its authors distribute.

Cao et al., "CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset", IEEE Trans. Affective
Computing 5(4), 2014;
https://github.com/CheyneyComputerScience/CREMA-D.
A clip is a pair of files, AudioWAV/NAME.wav and VideoFlash/NAME.flv. NAME is
ACTOR_SENTENCE_EMOTION_LEVEL, such as 1001_DFA_ANG_XX.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.decode.config import AudioSpec, DecodeConfig, ModalitySpec, VideoSpec
from pipeline.errors import DataError, MissingError
from pipeline.sources.checks import require
from pipeline.sources.importers.known_sets import (
    CURES,
    check_request,
    keep_complete,
    left_out,
    with_members,
)
from pipeline.sources.importers.manifest import Row, carve_splits, read_cells, read_lines
from pipeline.sources.importers.probing import media_below
from pipeline.sources.importers.rows import FileProblem, write_rows
from pipeline.sources.shard_writer import JsonValue, Progress

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
"""Usual preprocessing (OGM-GE, Peng et al., CVPR 2022): audio repeated and cut to 3 s, as a
spectrogram of 257 x 188; about one video frame per second, plus one."""

_CURES = CURES | {
    "misnamed": f"Names are ACTOR_SENTENCE_EMOTION_LEVEL with actors {ACTORS[0]} to {ACTORS[-1]},"
    f" {', '.join(SENTENCES)} and {', '.join(LEVELS)}.",
    "of an unknown emotion": f"Emotions are {', '.join(EMOTIONS)}.",
    "listed twice": "List each clip in one split only.",
    "mislabelled": "Use the label that is part of the clip's name.",
}
_CONTENT = "AudioWAV and VideoFlash"
Clips = dict[str, dict[str, Path]]
"""Files of each clip, by name and modality."""


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
    """Write CREMA-D as shards and return the content of shards.json.

    Args:
        src: folder that contains AudioWAV and VideoFlash.
        split: "actor", so that no actor is in two splits, or "lists", to read splits from files.
        lists: CSV files of the train, test and optionally validation clips, for "lists".
        video: folder of the videos below `src`, if several folders contain videos.
        allow_incomplete: leave out incomplete clips instead of raising an error.
        validation_share: fraction of the clips in the validation split, unless a list defines it.
        test_share: fraction of the clips in the test split, for "actor".
        num_shards: number of shards; by default one per 256 samples.
        seed: seed of the order and of the splits.
    Raises InputError before anything is written, or StoreError.
    """
    check_request(src, out, _CONTENT, validation_share, test_share)
    _check_split(split, lists)
    clips, problems = _find_clips(src, video)
    rows, more = _rows(src, clips)
    rows, removed = keep_complete(rows, problems + more, _CURES, allow_incomplete)
    if not rows:
        raise DataError(f"No complete clip in {src}", f"Pass the folder that contains {_CONTENT}.")
    num_clips = len(rows)
    if split == "actor":
        shares = {"test": test_share, "validation": validation_share}
        rows = carve_splits(rows, shares, "actor", seed)
    else:
        rows, unlisted = _listed(rows, lists, removed, allow_incomplete)
        removed |= unlisted
        # Validation should resemble test: it shares actors with train only if test does.
        by_actor = _actors(rows, "train").isdisjoint(_actors(rows, "test"))
        group = "actor" if by_actor else None
        rows = carve_splits(rows, {"validation": validation_share}, group, seed)
    origin: dict[str, JsonValue] = {
        "source": "cremad",
        "split": split,
        "lists": [path.name for path in lists],
        "validation_share": validation_share,
        "test_share": test_share if split == "actor" else None,
        "seed": seed,
        "num_unlisted": num_clips - len(rows),
        "left_out": removed,
    }
    decode = DecodeConfig(modalities=with_members(SPECS, rows))
    return write_rows(
        out, rows, decode=decode, origin=origin, seed=seed, num_shards=num_shards, progress=progress
    )


def _check_split(split: str, lists: Sequence[Path]) -> None:
    require(split in ("actor", "lists"), f"Invalid split: {split!r}", "Choose actor or lists.")
    require(
        len(lists) in ((2, 3) if split == "lists" else (0,)),
        f"Invalid number of lists for split {split!r}: {len(lists)}",
        "Pass --split lists TRAIN.csv TEST.csv, optionally with VAL.csv; or no list.",
    )


def clip_name(name: str) -> str:
    """Correct a clip's name.

    Until 2022 a file of 1040_ITH_SAD_XX was distributed as 1040_ITH_SAD_X (issue 6 of the authors'
    repository).
    """
    return f"{name}X" if name.endswith("_X") else name


def _find_clips(src: Path, video: str | None) -> tuple[Clips, list[FileProblem]]:
    """Find the files of each clip, and those that exist twice. Raises InputError."""
    clips: Clips = {}
    problems = []
    for kind, folder in (("audio", src / "AudioWAV"), ("video", _video_folder(src, video))):
        if not folder.is_dir():
            raise MissingError(
                f"Folder {folder.name} not found in {src}",
                f"Pass the folder that contains {_CONTENT}.",
            )
        for path in media_below(folder, kind):
            name = clip_name(path.stem)
            first = clips.setdefault(name, {}).setdefault(kind, path)
            if first != path:
                detail = f" ({first} and {path})"
                problems.append(FileProblem(name=name, kind="there twice", detail=detail))
    return clips, problems


def _video_folder(src: Path, video: str | None) -> Path:
    """Return the folder given by the user, or the only one with videos. Raises InputError."""
    if video:
        return src / video
    folders = sorted(
        path
        for path in src.iterdir()
        if path.is_dir() and path.name.lower().startswith("video") and media_below(path, "video")
    )
    require(
        len(folders) < 2,
        f"Several folders of {src} contain videos: {', '.join(path.name for path in folders)}",
        "Choose one with --video FOLDER.",
    )
    return folders[0] if folders else src / "VideoFlash"


def _name_problem(name: str) -> str:
    """Return the kind of problem of a clip's name, or "" if it is valid."""
    match name.split("_"):
        case [actor, sentence, emotion, level] if (
            actor in map(str, ACTORS) and sentence in SENTENCES and level in LEVELS
        ):
            return "" if emotion in EMOTIONS else "of an unknown emotion"
    return "misnamed"


def _rows(src: Path, clips: Clips) -> tuple[list[Row], list[FileProblem]]:
    """Return a row per validly named clip, with the authors' metadata, and all problems."""
    numbers = _authors_table(
        src / "SentenceFilenames.csv", "Filename", {"Stimulus_Number": "number"}
    )
    people = _authors_table(
        src / "VideoDemographics.csv",
        "ActorID",
        {column: column.lower() for column in ("Age", "Sex", "Race", "Ethnicity")},
    )
    rows, problems = [], []
    for name, files in sorted(clips.items()):
        if kind := _name_problem(name):
            problems.append(FileProblem(name=name, kind=kind))
            continue
        if len(files) < len(SPECS):
            absent = "without its video" if "audio" in files else "without its sound file"
            problems.append(FileProblem(name=name, kind=absent))
        actor, sentence, emotion, level = name.split("_")
        cells = {"actor": actor, "sentence": sentence, "level": level, "number": ""}
        cells |= {**numbers.get(name, {}), **people.get(actor, {})}
        rows.append(Row(sample_id=name, label=emotion, split="train", files=files, cells=cells))
    missing = sorted(numbers.keys() - clips.keys())
    kind = "known by SentenceFilenames.csv alone"
    return rows, [*problems, *(FileProblem(name=name, kind=kind) for name in missing)]


def _authors_table(path: Path, key: str, columns: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Read a table of the authors: cells by clip or actor, under the new column names.

    Returns {} if the table does not exist.
    """
    if not path.exists():
        return {}
    purposes = dict.fromkeys((key, *columns), "as distributed by the authors")
    return {
        clip_name(cells[key]): {new: cells[old] for old, new in columns.items()}
        for _, cells in read_cells(path, purposes)
    }


def _listed(
    rows: Sequence[Row],
    lists: Sequence[Path],
    removed: Mapping[str, JsonValue],
    allow_incomplete: bool,
) -> tuple[list[Row], dict[str, JsonValue]]:
    """Assign the splits of the lists.

    Returns the listed rows, and the kind of problem for each listed name without a clip. Raises
    DataError.
    """
    row_of = {row.sample_id: row for row in rows}
    splits: dict[str, str] = {}
    problems = []
    for path, split in zip(lists, ("train", "test", "validation"), strict=False):
        for line, cells in read_lines(path):
            name, where = clip_name(cells[0].strip()), f"{path.name}, line {line}"
            kind = _name_problem(name)
            if not kind and name in splits:
                kind = "listed twice"
            elif not kind and len(cells) > 1 and cells[1].strip() != name.split("_")[2]:
                kind, where = "mislabelled", f"{where}: {cells[1]!r}"
            elif not kind and name not in row_of and name not in removed:
                kind = "not among the clips"
            splits[name] = split
            problems += [FileProblem(name=name, kind=kind, detail=f" ({where})")] if kind else []
    unlisted = left_out(problems, "entries of the lists", _CURES, allow_incomplete)
    listed = [name for name in sorted(splits) if name in row_of]
    return [replace(row_of[name], split=splits[name]) for name in listed], unlisted


def _actors(rows: Sequence[Row], split: str) -> set[str]:
    return {row.cells["actor"] for row in rows if row.split == split}
