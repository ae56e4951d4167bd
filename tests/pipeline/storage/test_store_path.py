"""StorePath: atomic writes, claims, locks and cleanup."""

import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import InputError, MissingError, StoreError
from pipeline.storage.store_path import StorePath
from tests.support.refusals import refused

KILLED_INSIDE = """
import os, signal, sys
from pipeline.storage.store_path import StorePath
with StorePath.at(sys.argv[1]).{}:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_file_appears_only_if_its_block_succeeds(tmp_path: Path) -> None:
    path = StorePath.at(tmp_path) / "a" / "b.bin"
    for before in (None, b"old"):
        if before is not None:
            assert path.write_bytes(before) == hashlib.sha256(before).hexdigest()
        with pytest.raises(RuntimeError), path.create() as file:
            file.write(b"half")
            raise RuntimeError
        assert [entry.read_bytes() for entry in (tmp_path / "a").iterdir()] == [before][
            : before is not None
        ]
        with path.create() as file:
            file.write(b"whole")
            assert path.exists() == (before is not None)
        assert path.read_bytes() == b"whole"


def test_listing_shows_visible_entries_in_order(tmp_path: Path) -> None:
    path = StorePath.at(tmp_path)
    for name in ("b", "a", ".hidden.tmp"):
        (path / name).write_bytes(b"")
    assert [entry.name for entry in path.list()] == ["a", "b"]
    assert (path / "nothing").list() == []


def test_a_uri_and_a_local_path_are_equivalent(tmp_path: Path) -> None:
    path = StorePath.at(f"file://{tmp_path}") / "x.json"
    path.write_json({"b": 1, "a": [1, 2]})
    assert path.read_json() == {"a": [1, 2], "b": 1}
    assert StorePath.at(tmp_path / "x.json").read_bytes() == path.read_bytes()


def test_errors_name_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingError, match=r"/nothing\b"):
        (StorePath.at(tmp_path) / "nothing").read_bytes()
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file/inside"):
        (StorePath.at(tmp_path) / "file" / "inside").write_bytes(b"")
    with pytest.raises(StoreError, match="nosuch://place"):
        StorePath.at("nosuch://place")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as if it were not installed
    with pytest.raises(StoreError, match="hf://nobody"):
        StorePath.at("hf://nobody/nothing")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(StoreError, match=r"list\.json"):
        (StorePath.at(tmp_path) / "list.json").read_json()


def test_exactly_one_of_many_claims_succeeds(tmp_path: Path) -> None:
    path = StorePath.at(tmp_path) / "run" / "run.json"
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda i: path.claim(str(i).encode()), range(8)))
    assert claimed.count(True) == 1
    assert path.read_bytes() == str(claimed.index(True)).encode()
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["run.json"]


def test_a_lock_has_one_owner_at_a_time_who_is_named_in_the_error(tmp_path: Path) -> None:
    lock = StorePath.at(tmp_path / "new" / ".lock")
    with lock.held("the folder is in use") as dead:
        assert dead is None
        owner = json.loads(lock.read_bytes())
        assert (owner["pid"], owner.keys()) == (os.getpid(), {"pid", "host", "since", "command"})
        words = ("the folder is in use", os.getpid(), platform.node(), owner["since"])
        with refused(InputError, *words), lock.held("the folder is in use"):
            pass
    assert lock.read_bytes() == b""
    with lock.held("the folder is in use") as dead:
        assert dead is None
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreError, match=r"file/\.lock"),
        (StorePath.at(tmp_path / "file") / ".lock").held("in use"),
    ):
        pass


def test_a_lock_names_the_process_that_died_while_holding_it(tmp_path: Path) -> None:
    lock = StorePath.at(tmp_path) / ".lock"
    script = KILLED_INSIDE.format("held('in use')")
    died = subprocess.Popen(
        [sys.executable, "-c", script, lock.path, "s3://me:secret@bucket/x?key=1"]
    )
    assert died.wait() == -signal.SIGKILL
    with lock.held("in use") as dead:
        assert dead
        assert (dead.pid, dead.host) == (died.pid, platform.node())
        assert dead.command.endswith(".lock s3://bucket/x")
        assert re.search(rf"\b{died.pid}\b", str(dead))
    with lock.held("in use") as dead:
        assert dead is None
    with pytest.raises(RuntimeError), lock.held("in use"):
        raise RuntimeError
    with lock.held("in use") as dead:
        assert dead is None  # an exception releases the lock


def test_an_unreadable_lock_file_can_be_locked(tmp_path: Path) -> None:
    lock = StorePath.at(tmp_path) / ".lock"
    for content in (b"{", b"[]", b"{}", b"\0" * 99, b"[" * 99_999, b'{"pid": "x", "host": ""}'):
        lock.write_bytes(content)
        with lock.held("in use") as dead:
            assert dead is None
        assert lock.read_bytes() == b""


def test_sweep_deletes_only_unfinished_files_of_dead_writers(tmp_path: Path) -> None:
    path = StorePath.at(tmp_path)
    path.sweep()
    (StorePath.at(tmp_path / "none")).sweep()
    (path / "whole").write_bytes(b"")
    (tmp_path / ".left").write_bytes(b"")
    (tmp_path / "a.0123abcd.tmp").write_bytes(b"")
    with (path / "whole").create() as file:
        file.write(b"x")
        (live,) = tmp_path.glob(".whole.*.tmp")
        for name in (".whole", ".other", "..whole.00000000.tmp", ".whole.more"):
            shutil.copy(live, tmp_path / f"{name}.{'ffffffff' if '0' in name else '0123abcd'}.tmp")
        (path / "other").check_writable()
        assert len(list(tmp_path.iterdir())) == 7
        path.sweep("whole")
        assert len(list(tmp_path.iterdir())) == 6
        path.sweep()
        assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(
            [".left", live.name, "a.0123abcd.tmp", "whole"]
        )
    assert (path / "whole").read_bytes() == b"x"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        ".left",
        "a.0123abcd.tmp",
        "whole",
    ]


def test_the_unfinished_file_of_a_killed_writer_is_deleted_by_the_next(tmp_path: Path) -> None:
    path = StorePath.at(tmp_path) / "x"
    script = KILLED_INSIDE.format("create()")
    assert subprocess.run([sys.executable, "-c", script, path.path]).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    path.check_writable()
    assert list(tmp_path.iterdir()) == []
