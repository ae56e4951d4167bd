"""Compares the files that commands wrote, without times, with those of an undisturbed command."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _report  # noqa: F401, before pipeline

from pipeline.storage.arrow_files import read_table
from pipeline.storage.store_path import StorePath
from trainer.models import checkpoint as checkpoints
from trainer.run_directory import Run
from trainer.verification.verify import verify

TIME_COLUMNS = ("_seconds", "samples_per_second")


def finished(out: Path) -> bool:
    """Whether the folder contains a finished run."""
    return (out / "run.json").exists() and Run(StorePath.at(out)).metadata["status"] == "finished"


def names(out: Path) -> set[str]:
    """Paths of all files and folders below a folder, hidden ones included."""
    return {
        os.path.join(folder, name)
        for folder, folders, files in os.walk(out)
        for name in (*folders, *files)
    }


def is_begun(out: Path) -> bool:
    """Whether the folder contains a file, at any depth."""
    return any(files for _, _, files in os.walk(out))


def content(out: Path, *, partial: bool = False) -> dict[str, str]:
    """Hash of each file, without times, by path; `partial` skips hidden and temporary files.

    Raises an exception if a file is incomplete.
    """
    hashes = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = path.relative_to(out).as_posix()
        if (
            name.startswith("tensorboard/")
            or path.name == ".lock"
            or (partial and path.name.startswith("."))
            or is_inside_temporary(name, partial)
        ):
            continue
        hashes[name] = hashlib.sha256(b"".join(READERS.get(path.suffix, read)(path))).hexdigest()
    return hashes


def is_inside_temporary(name: str, partial: bool) -> bool:
    return partial and any(part.endswith(".tmp") for part in Path(name).parts)


def read(path: Path) -> list[bytes]:
    return [path.read_bytes()]


def read_arrow(path: Path) -> list[bytes]:
    """The bytes of the file; if it has time columns, the other columns."""
    table = read_table(StorePath.at(path), trusted=False)
    times = [name for name in table.column_names if name.endswith(TIME_COLUMNS)]
    return [json.dumps(table.drop_columns(times).to_pylist()).encode()] if times else read(path)


def read_json(path: Path) -> list[bytes]:
    """The bytes of the file; if it has times or local paths, the other entries."""
    value = json.loads(path.read_bytes())
    if path.name == "run.json":
        value = {**value, "config": {**value["config"], "store": ""}}
        value = {**value, "took_over": None, "updated": None}
    elif path.name.endswith(".times.json"):
        value = list(value)
    else:
        return read(path)
    return [json.dumps(value, sort_keys=True).encode()]


def read_checkpoint(path: Path) -> list[bytes]:
    """The values of a checkpoint; its bytes depend on the memory layout of the tensors."""
    return list(values(checkpoints.load(StorePath.at(path))))


def values(value: Any) -> Iterator[bytes]:
    """The values in nested containers, in order."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield repr(key).encode()
            yield from values(item)
    else:
        yield value.numpy().tobytes() if hasattr(value, "numpy") else repr(value).encode()


def read_report(path: Path) -> list[bytes]:
    data = path.read_bytes()
    assert data.rstrip().endswith(b"</html>"), f"Incomplete report: {path}"
    return [data]


READERS: dict[str, Callable[[Path], list[bytes]]] = {
    ".arrow": read_arrow,
    ".json": read_json,
    ".pt": read_checkpoint,
    ".html": read_report,
}


def check_same(actual: dict[str, str], expected: dict[str, str]) -> None:
    """Raise AssertionError if files are missing, unexpected or different."""
    assert actual == expected, {
        "missing": sorted(expected.keys() - actual.keys()),
        "left": sorted(actual.keys() - expected.keys()),
        "other": sorted(
            name for name in actual.keys() & expected.keys() if actual[name] != expected[name]
        ),
    }


def check_run(out: Path, stage: str) -> None:
    """Raise AssertionError if the artifacts of a run are inconsistent."""
    if stage == "train" and (out / "run.json").exists():
        verification = verify(Run(StorePath.at(out)))
        assert verification["ok"], verification["problems"]
