"""CSV manifests with the files that they list."""

import csv
import io
import wave
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.sources.synthetic import encoding

Row = dict[str, str]
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
CLIP = encoding.mp4(np.zeros((3, 32, 48, 3), np.uint8), 10, np.zeros(8000, np.float32), 16_000)


def wav(seconds: float, rate: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(bytes(2 * int(seconds * rate)))
    return file.getvalue()


def picture(mode: str, width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, "PNG")
    return file.getvalue()


def write(folder: Path, rows: Sequence[Row], files: Mapping[str, bytes]) -> Path:
    """Write a manifest with its files next to it."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


def table(folder: Path, num: int = 12, **changes: Callable[[int], str]) -> Path:
    """Write a manifest of audio and greyscale images.

    `changes` maps columns to functions of the row number.
    """
    columns: dict[str, Callable[[int], str]] = {
        "sample_id": lambda i: f"s{i:03d}",
        "split": lambda i: "test" if i % 4 == 3 else "train",
        "label": lambda i: "cat" if i % 2 else "dog",
        "speaker": lambda i: f"p{i % 5}",
        "sound": lambda i: f"a/{i}.wav",
        "picture": lambda i: f"b/{i}.PNG",
    } | changes
    files = {f"a/{i}.wav": wav(0.5, 22_050) + bytes([i]) for i in range(num)} | {
        f"b/{i}.PNG": picture("L", 40, 30 + i) for i in range(num)
    }
    return write(
        folder, [{name: value(i) for name, value in columns.items()} for i in range(num)], files
    )


def rows_of(num: int, files: Callable[[int], Mapping[str, str]]) -> list[Row]:
    """Training rows of two labels; `files` returns the file columns of a row number."""
    return [
        {"sample_id": f"s{i}", "label": str(i % 2), "split": "train", **files(i)}
        for i in range(num)
    ]


BOTH = {"audio": "sound", "image": "picture"}
