"""A feature set in a store that pretends to be remote and counts its requests."""

import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs as pafs

from pipeline.features.feature_set import FeatureSet
from pipeline.storage.node_cache import NodeCache
from pipeline.storage.store_path import StorePath


class Remote(pafs.FSSpecHandler):  # type: ignore[misc]
    """A local folder that pretends to be remote and logs each opening to a shared file.

    An opening may be slow, blocked, or fail.
    """

    def __init__(self, root: Path, seconds: float = 0.0) -> None:
        super().__init__(fsspec.filesystem("dir", path=str(root), target_protocol="file"))
        self.root, self.seconds = root, seconds
        self.before_open: Callable[[], object] = lambda: None

    def __reduce__(self) -> tuple[Any, ...]:
        return Remote, (self.root, self.seconds)

    def open_input_file(self, path: str) -> Any:
        with (self.root.parent / "opened").open("a") as file:
            file.write(f"{path}\n")
        time.sleep(self.seconds)
        self.before_open()
        return super().open_input_file(path)


def remote(
    features: FeatureSet, cache: NodeCache | None = None, seconds: float = 0.0
) -> FeatureSet:
    """The same feature set, in an object store."""
    assert features.path.local
    path = StorePath(pafs.PyFileSystem(Remote(features.path.local, seconds)), "")
    return FeatureSet(path, features.manifest, cache)


def downloads(features: FeatureSet) -> dict[str, int]:
    """How often each part was opened in the remote store."""
    opened = Path(features.path.fs.handler.root.parent / "opened")
    return (
        Counter(line for line in opened.read_text().split() if "part-" in line)
        if opened.exists()
        else Counter()
    )


def part_bytes(features: FeatureSet) -> int:
    """Size of the largest part."""
    return max(
        features.file_of(name, part).num_bytes
        for name in features.modalities
        for part in range(len(features.manifest["parts"]))
    )


def damaged(made: FeatureSet, folder: Path, part: int, cut: int = 0) -> FeatureSet:
    """A copy with one byte of a part of `sound` changed and its last `cut` bytes removed."""
    assert made.path.local
    shutil.copytree(made.path.local, folder)
    path = folder / "sound" / f"part-{part:05d}.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data[: len(data) - cut])
    return FeatureSet(StorePath.at(folder), made.manifest)


def wait_for(ask: Callable[[], object]) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + 30
    while not ask():
        assert time.monotonic() < end
        time.sleep(0.01)
