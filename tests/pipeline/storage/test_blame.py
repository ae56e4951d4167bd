"""An error names the file that failed, not the one that is being written meanwhile."""

import io
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from pipeline.errors import StoreError
from pipeline.shards.lint import repair
from pipeline.storage.arrow_files import read_table, write_table
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.store_path import StorePath
from tests.support.media_files import make_tar


def test_an_error_of_another_file_is_unchanged_and_nothing_is_left(tmp_path: Path) -> None:
    with (
        pytest.raises(PermissionError, match="source"),
        StorePath.at(tmp_path / "out").create() as file,
    ):
        file.write(b"half")
        raise PermissionError(13, "Permission denied", "source")
    assert list(tmp_path.iterdir()) == []


class Failing(io.RawIOBase):
    """A file whose disk fails after its first bytes."""

    def __init__(self, data: bytes, num_bytes: int) -> None:
        self._file, self._left = io.BytesIO(data), num_bytes

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._left <= 0:
            raise OSError(5, "Input/output error")
        data = self._file.read(min(size, self._left) if size >= 0 else self._left)
        self._left -= len(data)
        return data


class Remote(pafs.FSSpecHandler):  # type: ignore[misc]
    """A local folder that acts as a remote one; from the second opening on its disk fails."""

    def __init__(self, root: Path) -> None:
        super().__init__(fsspec.filesystem("dir", path=str(root), target_protocol="file"))
        self.root, self.num_opened = root, 0

    def open_input_file(self, path: str) -> Any:
        self.num_opened += 1
        data = (self.root / path).read_bytes()
        limit = len(data) + 1 if self.num_opened < 2 else 1024
        return pa.PythonFile(Failing(data, limit), mode="r")


def test_a_shard_that_fails_while_its_clean_copy_is_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    members = {}
    for i in range(100):
        members |= {f"k{i}.json": b'{"label": "a"}', f"k{i}.txt": b"x" * 5000}
    (tmp_path / "in" / "source.tar").write_bytes(make_tar(members))
    shard = StorePath(pafs.PyFileSystem(Remote(tmp_path / "in")), "source.tar")
    with pytest.raises(StoreError, match=r"source\.tar") as caught:
        repair([shard], StorePath.at(tmp_path / "out"))
    assert str(tmp_path / "out") not in str(caught.value)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


class BrokenOff(io.BytesIO):
    """A file whose remote store breaks off each response."""

    def read(self, size: int | None = -1) -> bytes:
        raise OSError("AWS Error INTERNAL_FAILURE during GetObject operation")


class Flaky(pafs.FSSpecHandler):  # type: ignore[misc]
    """A local folder that acts as a remote one, which breaks off."""

    def open_input_file(self, path: str) -> Any:
        return pa.PythonFile(BrokenOff(Path(path).read_bytes()), mode="r")


def test_a_response_that_a_remote_store_breaks_off_is_not_blamed_on_the_file(
    tmp_path: Path,
) -> None:
    local = StorePath.at(tmp_path / "x.arrow")
    write_table(local, pa.table({"row": [0, 1]}))
    remote = StorePath(pafs.PyFileSystem(Flaky(fsspec.filesystem("file"))), str(local))
    for read in (read_table, BatchFile):
        with pytest.raises(StoreError, match="INTERNAL_FAILURE"):
            read(remote)
