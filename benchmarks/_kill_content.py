"""What a command left, without its clocks, and whether it is what it should be."""

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

CLOCKS = ("_seconds", "samples_per_second")


def finished(out: Path) -> bool:
    """Whether it is a run that has ended."""
    return (out / "run.json").exists() and Run(StorePath.at(out)).metadata["status"] == "finished"


def names(out: Path) -> set[str]:
    """All that is below a folder, hidden or not; it may be changing."""
    return {
        os.path.join(folder, name)
        for folder, folders, files in os.walk(out)
        for name in (*folders, *files)
    }


def is_begun(out: Path) -> bool:
    """Whether there is a file."""
    return any(files for _, _, files in os.walk(out))


def content(out: Path, *, partial: bool = False) -> dict[str, str]:
    """The hash of each file without its clocks, by its path; `partial` leaves out what has a hidden name (raises where one is not whole)."""
    found = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = path.relative_to(out).as_posix()
        if (
            name.startswith("tensorboard/")
            or path.name == ".lock"
            or (partial and path.name.startswith("."))
            or is_inside_temporary(name, partial)
        ):
            continue
        found[name] = hashlib.sha256(b"".join(READERS.get(path.suffix, read)(path))).hexdigest()
    return found


def is_inside_temporary(name: str, partial: bool) -> bool:
    return partial and any(part.endswith(".tmp") for part in Path(name).parts)


def read(path: Path) -> list[bytes]:
    return [path.read_bytes()]


def read_arrow(path: Path) -> list[bytes]:
    """The file, or of one with clocks the other columns."""
    table = read_table(StorePath.at(path), trusted=False)
    clocks = [name for name in table.column_names if name.endswith(CLOCKS)]
    return [json.dumps(table.drop_columns(clocks).to_pylist()).encode()] if clocks else read(path)


def read_json(path: Path) -> list[bytes]:
    """The file, or of one with clocks and places the other entries."""
    value = json.loads(path.read_bytes())
    if path.name == "run.json":
        value = {**value, "config": {**value["config"], "store": ""}, "took_over": None}
    elif path.name.endswith(".times.json"):
        value = list(value)
    else:
        return read(path)
    return [json.dumps(value, sort_keys=True).encode()]


def read_checkpoint(path: Path) -> list[bytes]:
    """All values of a checkpoint, whose file depends on how its tensors lay in memory."""
    return list(values(checkpoints.load(StorePath.at(path))))


def values(value: Any) -> Iterator[bytes]:
    """The values in nested plain data, in order."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in items:
            yield repr(key).encode()
            yield from values(each)
    else:
        yield value.numpy().tobytes() if hasattr(value, "numpy") else repr(value).encode()


def read_report(path: Path) -> list[bytes]:
    data = path.read_bytes()
    assert data.rstrip().endswith(b"</html>"), f"{path} is cut"
    return [data]


READERS: dict[str, Callable[[Path], list[bytes]]] = {
    ".arrow": read_arrow,
    ".json": read_json,
    ".pt": read_checkpoint,
    ".html": read_report,
}


def check_same(found: dict[str, str], expected: dict[str, str]) -> None:
    """Raises AssertionError where files are missing, too many or others."""
    assert found == expected, {
        "missing": sorted(expected.keys() - found.keys()),
        "left": sorted(found.keys() - expected.keys()),
        "other": sorted(
            name for name in found.keys() & expected.keys() if found[name] != expected[name]
        ),
    }


def check_run(out: Path, stage: str) -> None:
    """Raises AssertionError where a run's artifacts contradict each other."""
    if stage == "train" and (out / "run.json").exists():
        told = verify(Run(StorePath.at(out)))
        assert told["ok"], told["problems"]
