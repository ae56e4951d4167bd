"""Places: what is written appears whole, or not at all."""

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


def test_a_file_appears_only_when_its_block_ends_well(tmp_path: Path) -> None:
    store_path = StorePath.at(tmp_path) / "a" / "b.bin"
    for before in (None, b"old"):
        if before is not None:
            assert store_path.write_bytes(before) == hashlib.sha256(before).hexdigest()
        with pytest.raises(RuntimeError), store_path.create() as file:
            file.write(b"half")
            raise RuntimeError
        assert [path.read_bytes() for path in (tmp_path / "a").iterdir()] == [before][
            : before is not None
        ]
        with store_path.create() as file:
            file.write(b"whole")
            assert store_path.exists() == (before is not None)
        assert store_path.read_bytes() == b"whole"


def test_listing_shows_visible_entries_in_order(tmp_path: Path) -> None:
    store_path = StorePath.at(tmp_path)
    for name in ("b", "a", ".hidden.tmp"):
        (store_path / name).write_bytes(b"")
    assert [entry.name for entry in store_path.list()] == ["a", "b"]
    assert (store_path / "nothing").list() == []


def test_a_uri_is_a_place_too(tmp_path: Path) -> None:
    store_path = StorePath.at(f"file://{tmp_path}") / "x.json"
    store_path.write_json({"b": 1, "a": [1, 2]})
    assert store_path.read_json() == {"a": [1, 2], "b": 1}
    assert StorePath.at(tmp_path / "x.json").read_bytes() == store_path.read_bytes()


def test_errors_name_the_place_and_a_cure(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"/nothing\b"):
        (StorePath.at(tmp_path) / "nothing").read_bytes()
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file/inside"):
        (StorePath.at(tmp_path) / "file" / "inside").write_bytes(b"")
    with pytest.raises(StoreError, match="nosuch://place"):
        StorePath.at("nosuch://place")
    with pytest.raises(StoreError, match="hf://nobody"):  # which needs a package that is not here
        StorePath.at("hf://nobody/nothing")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(StoreError, match=r"list\.json"):
        (StorePath.at(tmp_path) / "list.json").read_json()


def test_of_many_claims_one_holds(tmp_path: Path) -> None:
    store_path = StorePath.at(tmp_path) / "run" / "run.json"
    with ThreadPoolExecutor(8) as pool:
        held = list(pool.map(lambda i: store_path.claim(str(i).encode()), range(8)))
    assert held.count(True) == 1
    assert store_path.read_bytes() == str(held.index(True)).encode()
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["run.json"]


def test_a_lock_is_held_by_one_at_a_time_who_is_named(tmp_path: Path) -> None:
    lock = StorePath.at(tmp_path / "new" / ".lock")
    with lock.held("the folder is in use") as dead:
        assert dead is None
        owner = json.loads(lock.read_bytes())
        assert (owner["pid"], owner.keys()) == (os.getpid(), {"pid", "host", "since", "command"})
        named = ("the folder is in use", os.getpid(), platform.node(), owner["since"])
        with refused(InputError, *named), lock.held("the folder is in use"):
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


def test_a_lock_tells_who_died_with_it(tmp_path: Path) -> None:
    lock = StorePath.at(tmp_path) / ".lock"
    script = "import os, signal, sys; from pipeline.storage.store_path import StorePath\nwith StorePath.at(sys.argv[1]).held('in use'): os.kill(os.getpid(), signal.SIGKILL)"
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
        assert dead is None  # an error is a word


def test_a_lock_file_of_nonsense_is_a_lock_file(tmp_path: Path) -> None:
    lock = StorePath.at(tmp_path) / ".lock"
    for content in (b"{", b"[]", b"{}", b"\0" * 99, b"[" * 99_999, b'{"pid": "x", "host": ""}'):
        lock.write_bytes(content)
        with lock.held("in use") as dead:
            assert dead is None
        assert lock.read_bytes() == b""


def test_what_dead_writers_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    store_path = StorePath.at(tmp_path)
    store_path.sweep()
    (StorePath.at(tmp_path / "none")).sweep()
    (store_path / "whole").write_bytes(b"")
    (tmp_path / ".left").write_bytes(b"")
    (tmp_path / "a.0123abcd.tmp").write_bytes(b"")
    with (store_path / "whole").create() as file:
        file.write(b"x")
        (live,) = tmp_path.glob(".whole.*.tmp")
        for name in (".whole", ".other", "..whole.00000000.tmp", ".whole.more"):
            shutil.copy(live, tmp_path / f"{name}.{'ffffffff' if '0' in name else '0123abcd'}.tmp")
        (store_path / "other").check_writable()
        assert len(list(tmp_path.iterdir())) == 7
        store_path.sweep("whole")
        assert len(list(tmp_path.iterdir())) == 6
        store_path.sweep()
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            [".left", live.name, "a.0123abcd.tmp", "whole"]
        )
    assert (store_path / "whole").read_bytes() == b"x"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".left", "a.0123abcd.tmp", "whole"]


def test_what_a_killed_writer_left_is_swept_by_who_writes_it_again(tmp_path: Path) -> None:
    store_path = StorePath.at(tmp_path) / "x"
    script = "import os, signal, sys; from pipeline.storage.store_path import StorePath\nwith StorePath.at(sys.argv[1]).create() as f: os.kill(os.getpid(), signal.SIGKILL)"
    assert (
        subprocess.run([sys.executable, "-c", script, store_path.path]).returncode
        == -signal.SIGKILL
    )
    assert len(list(tmp_path.iterdir())) == 1
    store_path.check_writable()
    assert list(tmp_path.iterdir()) == []
