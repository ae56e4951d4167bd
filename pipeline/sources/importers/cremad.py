"""CREMA-D as its authors give it out -> shards.

Cao et al., "CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset", IEEE Trans. Affective Computing 5(4), 2014;
https://github.com/CheyneyComputerScience/CREMA-D.
A clip is AudioWAV/NAME.wav and VideoFlash/NAME.flv, where NAME is ACTOR_SENTENCE_EMOTION_LEVEL, such as 1001_DFA_ANG_XX.
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
    keep_whole,
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
"""The field's preprocessing (OGM-GE, Peng et al., CVPR 2022): sound tiled and cut to 3 s, 257 x 188; about a frame a second is kept, and one more."""

_CURES = CURES | {
    "misnamed": f"names are ACTOR_SENTENCE_EMOTION_LEVEL with actors {ACTORS[0]} to {ACTORS[-1]}, {', '.join(SENTENCES)} and {', '.join(LEVELS)}",
    "of an unknown emotion": f"emotions are {', '.join(EMOTIONS)}",
    "listed twice": "a clip belongs to one split",
    "mislabelled": "the label of a clip is in its name",
}
_HOLDS = "AudioWAV and VideoFlash"
Clips = dict[str, dict[str, Path]]
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
    check_request(src, out, _HOLDS, validation_share, test_share)
    require(split in ("actor", "lists"), f"split is {split!r}", "choose actor or lists")
    require(
        len(lists) in ((2, 3) if split == "lists" else (0,)),
        f"split is {split!r} with {len(lists)} lists",
        "give --split lists TRAIN.csv TEST.csv, and VAL.csv where there is one; or no list",
    )
    clips, problems = _find(src, video)
    rows, more = _rows(src, clips)
    rows, lost = keep_whole(rows, problems + more, _CURES, allow_incomplete)
    if not rows:
        raise DataError(
            f"{src} has no clip of which both halves are whole",
            f"check that this is the folder that has {_HOLDS} in it",
        )
    num_clips = len(rows)
    if split == "actor":
        shares, split_by = {"test": test_share, "validation": validation_share}, "actor"
        rows = carve_splits(rows, shares, split_by, seed)
    else:
        rows, unlisted = _listed(rows, lists, lost, allow_incomplete)
        lost |= unlisted
        # Validation is to train what test is: it shares actors with train where the lists do.
        apart = _actors(rows, "train").isdisjoint(_actors(rows, "test"))
        rows = carve_splits(
            rows, {"validation": validation_share}, "actor" if apart else None, seed
        )
    origin: dict[str, JsonValue] = {
        "source": "cremad",
        "split": split,
        "lists": [path.name for path in lists],
        "validation_share": validation_share,
        "test_share": test_share if split == "actor" else None,
        "seed": seed,
        "num_unlisted": num_clips - len(rows),
        "left_out": lost,
    }
    decode = DecodeConfig(modalities=with_members(SPECS, rows))
    return write_rows(
        out, rows, decode=decode, origin=origin, seed=seed, num_shards=num_shards, progress=progress
    )


def clip_name(name: str) -> str:
    """The name as it should be: until 2022 the authors gave 1040_ITH_SAD_XX out as 1040_ITH_SAD_X (issue 6 of their repository)."""
    return f"{name}X" if name.endswith("_X") else name


def _find(src: Path, video: str | None) -> tuple[Clips, list[FileProblem]]:
    clips: Clips = {}
    problems = []
    for kind, folder in (("audio", src / "AudioWAV"), ("video", _video_folder(src, video))):
        if not folder.is_dir():
            raise MissingError(
                f"{src} has no folder {folder.name}", f"give the folder that has {_HOLDS} in it"
            )
        for path in media_below(folder, kind):
            name = clip_name(path.stem)
            first = clips.setdefault(name, {}).setdefault(kind, path)
            if first != path:
                detail = f" ({first} and {path})"
                problems.append(FileProblem(name=name, kind="there twice", detail=detail))
    return clips, problems


def _video_folder(src: Path, video: str | None) -> Path:
    if video:
        return src / video
    folders = sorted(
        path
        for path in src.iterdir()
        if path.is_dir() and path.name.lower().startswith("video") and media_below(path, "video")
    )
    require(
        len(folders) < 2,
        f"{' and '.join(path.name for path in folders)} in {src} hold videos",
        "say which: --video FOLDER",
    )
    return folders[0] if folders else src / "VideoFlash"


def _misnamed(name: str) -> str:
    """What kind of problem a clip's name is, "" where it is none."""
    match name.split("_"):
        case [actor, sentence, emotion, level] if (
            actor in map(str, ACTORS) and sentence in SENTENCES and level in LEVELS
        ):
            return "" if emotion in EMOTIONS else "of an unknown emotion"
    return "misnamed"


def _rows(src: Path, clips: Clips) -> tuple[list[Row], list[FileProblem]]:
    """The clips that are named rightly, with what the authors' tables say of them, and what is wrong with names and halves."""
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
        if kind := _misnamed(name):
            problems.append(FileProblem(name=name, kind=kind))
            continue
        if len(files) < len(SPECS):
            absent = "without its video" if "audio" in files else "without its sound file"
            problems.append(FileProblem(name=name, kind=absent))
        actor, sentence, emotion, level = name.split("_")
        cells = {"actor": actor, "sentence": sentence, "level": level, "number": ""}
        cells |= {**numbers.get(name, {}), **people.get(actor, {})}
        rows.append(Row(sample_id=name, label=emotion, split="train", files=files, cells=cells))
    alone = sorted(numbers.keys() - clips.keys())
    kind = "known by SentenceFilenames.csv alone"
    return rows, [*problems, *(FileProblem(name=name, kind=kind) for name in alone)]


def _authors_table(path: Path, key: str, columns: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What a table says of each clip or actor, under our names of its columns; nothing where the table is not there."""
    if not path.exists():
        return {}
    purposes = dict.fromkeys((key, *columns), "as the authors give it out")
    return {
        clip_name(cells[key]): {ours: cells[theirs] for theirs, ours in columns.items()}
        for _, cells in read_cells(path, purposes)
    }


def _listed(
    rows: Sequence[Row],
    lists: Sequence[Path],
    lost: Mapping[str, JsonValue],
    allow_incomplete: bool,
) -> tuple[list[Row], dict[str, JsonValue]]:
    """The rows that are in the lists, in the splits that those say, and what of the lists is not among the rows."""
    row_of = {row.sample_id: row for row in rows}
    splits: dict[str, str] = {}
    problems = []
    for path, split in zip(lists, ("train", "test", "validation"), strict=False):
        for line, cells in read_lines(path):
            name, where = clip_name(cells[0].strip()), f"{path.name}, line {line}"
            kind = _misnamed(name)
            if not kind and name in splits:
                kind = "listed twice"
            elif not kind and len(cells) > 1 and cells[1].strip() != name.split("_")[2]:
                kind, where = "mislabelled", f"{where}: {cells[1]!r}"
            elif not kind and name not in row_of and name not in lost:
                kind = "not among the clips"
            splits[name] = split
            problems += [FileProblem(name=name, kind=kind, detail=f" ({where})")] if kind else []
    unlisted = left_out(problems, "entries of the lists", _CURES, allow_incomplete)
    found = [name for name in sorted(splits) if name in row_of]
    return [replace(row_of[name], split=splits[name]) for name in found], unlisted


def _actors(rows: Sequence[Row], split: str) -> set[str]:
    return {row.cells["actor"] for row in rows if row.split == split}
