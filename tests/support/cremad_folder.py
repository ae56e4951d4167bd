"""A small generated folder in the layout of CREMA-D."""

import csv
from collections.abc import Sequence
from pathlib import Path

from pipeline.sources.importers.cremad import EMOTIONS
from tests.support.media_files import encode_clip, encode_wav, tone
from tests.support.stores import read_samples

WAV = encode_wav(tone(440, 0.5))
FLV = encode_clip(12, container="flv", codec="flv1")
MP4 = encode_clip(12)

ACTORS = range(1001, 1013)
PEOPLE = ["ActorID", "Age", "Sex", "Race", "Ethnicity"]


def clips(actors: Sequence[int] = ACTORS) -> list[str]:
    """Names of a clip per actor and emotion."""
    return [f"{actor}_DFA_{emotion}_XX" for actor in actors for emotion in EMOTIONS]


def write_csv(path: Path, lines: Sequence[Sequence[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return path


def make(
    src: Path,
    names: Sequence[str],
    video: str = "VideoFlash",
    ending: str = "flv",
    data: bytes = FLV,
) -> Path:
    for folder, suffix, media in (("AudioWAV", "wav", WAV), (video, ending, data)):
        (src / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            (src / folder / f"{name}.{suffix}").write_bytes(media)
    return src


def sides(folder: Path) -> dict[str, set[str]]:
    """The sample ids of each split."""
    ids: dict[str, set[str]] = {}
    for name, (metadata, _) in read_samples(folder).items():
        ids.setdefault(str(metadata["split"]), set()).add(name)
    return ids


def actors(names: set[str]) -> set[str]:
    return {name.split("_")[0] for name in names}
