"""`remix lint` and `remix repair`: reports on folders of shards, unusable samples, and errors."""

import gzip
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import MissingError, StoreError
from pipeline.shards.discover import discover_shards
from pipeline.shards.lint import lint, repair
from pipeline.storage.store_path import StorePath
from remix.cli.data import lint_text
from tests.support.media_files import facts, make_tar
from tests.support.stores import Command

INTACT = make_tar(
    [
        (f"{key}.{suffix}", data)
        for key in "abc"
        for suffix, data in (("json", facts(key)), ("wav", key.encode() * 900))
    ]
)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def folder_of(path: Path, **shards: bytes) -> Path:
    path.mkdir()
    for name, data in shards.items():
        (path / f"{name}.tar").write_bytes(data)
    return path


def test_lint_reports_a_folder_with_totals(tmp_path: Path, command: Command) -> None:
    folder = folder_of(tmp_path / "in", one=INTACT, two=INTACT[: 7 * 512])
    seen: list[tuple[int, int]] = []
    report = lint(
        discover_shards([str(folder)]), progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 2), (2, 2)]
    assert [
        (shard["shard"], shard["samples_kept"], len(shard["lost"])) for shard in report["shards"]
    ] == [("one.tar", 3, 0), ("two.tar", 1, 2)]
    assert (report["samples_kept"], report["num_lost"], report["num_unusable"]) == (4, 2, 0)
    assert report["reasons"] == {"missing_member": 1, "truncated": 1}
    code, out, _ = command("lint", folder, "--json")
    assert (code, json.loads(out)) == (1, report)
    code, out, _ = command("lint", str(folder / "*.tar"))
    assert (code, out.strip()) == (1, lint_text(report))
    assert any(
        line.startswith("two.tar: b.json at byte 2560: missing_member: ") and "wav" in line
        for line in out.splitlines()
    )
    assert (
        out.splitlines()[-1]
        == "4 intact samples in 2 shards, 2 losses (missing_member 1, truncated 1)"
    )
    assert command("lint", folder / "one.tar")[:2] == (
        0,
        "3 intact samples in 1 shards, 0 losses\n",
    )


def test_empty_text_is_usable(tmp_path: Path) -> None:
    shard = make_tar({"a.json": facts("a"), "a.note.txt": b"", "a.wav": b"1"})
    report = lint(discover_shards([str(folder_of(tmp_path / "in", x=shard))]))
    assert (report["samples_kept"], report["num_unusable"]) == (1, 0)


@pytest.mark.parametrize(
    ("members", "reason", "detail"),
    [
        ({"json": facts("a"), "wav": b""}, "empty", "wav"),
        ({"json": facts("a"), "wav": LFS}, "lfs_pointer", "wav"),
        ({"json": b"{", "wav": b"1"}, "undecodable", "a.json"),
        ({"json": b"[]", "wav": b"1"}, "wrong_type", "json"),
        ({"json": b"{}", "wav": b"1"}, "missing_member", "label"),
    ],
)
def test_unusable_samples_are_reported_but_are_no_loss(
    tmp_path: Path, command: Command, members: dict[str, bytes], reason: str, detail: str
) -> None:
    folder = folder_of(
        tmp_path / "in",
        x=make_tar(
            [
                *((f"a.{suffix}", data) for suffix, data in members.items()),
                ("b.json", facts("b")),
                ("b.wav", b"1"),
            ]
        ),
    )
    code, out, _ = command("lint", folder, "--json")
    (unusable,) = json.loads(out)["shards"][0]["unusable"]
    assert (code, unusable["key"], unusable["reason"]) == (0, "a", reason)
    assert detail in unusable["detail"]
    assert json.loads(out)["num_unusable"] == 1
    code, out, _ = command("lint", folder)
    assert f"x.tar: sample a cannot be decoded: {reason}: " in out
    assert out.endswith(
        "2 intact samples in 1 shards, 0 losses, 1 samples that cannot be decoded\n"
    )


def test_limits_and_known_suffixes_come_from_the_configuration(
    tmp_path: Path, command: Command
) -> None:
    members = [
        ("a.json", facts("a")),
        ("a.odd", b"1" * 3000),
        ("b.json", facts("b")),
        ("b.odd", b"2"),
    ]
    folder = folder_of(tmp_path / "in", x=make_tar(members))
    assert json.loads(command("lint", folder, "--json")[1])["reasons"] == {"wrong_type": 2}
    config = tmp_path / "decode.yaml"
    modalities = {"touch": {"kind": "tensor", "member": "odd", "shape": [1]}}
    config.write_text(json.dumps({"modalities": modalities}))
    assert command("lint", folder, "--config", config)[0] == 0
    config.write_text(json.dumps({"modalities": modalities, "limits": {"member_bytes": 2000}}))
    code, out, _ = command("lint", folder, "--config", config, "--json")
    assert (code, json.loads(out)["reasons"]) == (1, {"oversize": 2})
    (folder / "decode.yaml").write_text(config.read_text())
    assert json.loads(command("lint", folder, "--json")[1])["reasons"] == {"oversize": 2}
    config.write_text(json.dumps({"modalities": modalities, "limits": {"member_byte": 2000}}))
    code, _, err = command("lint", folder, "--config", config)
    assert code == 2
    assert "member_byte" in err


def test_repair_writes_only_complete_samples(tmp_path: Path, command: Command) -> None:
    (tmp_path / "in").mkdir()
    crossed = make_tar(
        [
            ("a.json", facts(1)),
            ("b.json", facts(2)),
            ("a.wav", b"1"),
            ("b.wav", b"2"),
            ("b.exe", b"3"),
        ]
    )
    (tmp_path / "in" / "x.tar.gz").write_bytes(gzip.compress(crossed)[:-8])
    long = "deep/" * 60 + "k"
    (tmp_path / "in" / "y.tar").write_bytes(
        make_tar({f"{long}.json": facts(1), f"{long}.wav": b"1"}, tarfile.PAX_FORMAT)[:-5000]
    )
    code, out, _ = command("repair", tmp_path / "in", "--out", tmp_path / "out", "--json")
    report = json.loads(out)
    assert code == 0
    assert (report["out"], report["samples_kept"], report["num_regrouped"]) == (
        str(tmp_path / "out"),
        3,
        2,
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["x.tar", "y.tar"]
    with tarfile.open(tmp_path / "out" / "x.tar") as tar:
        assert tar.getnames() == ["a.json", "a.wav", "b.json", "b.wav"]
        assert all((member.mtime, member.uid, member.mode) == (0, 0, 0o644) for member in tar)
    with tarfile.open(tmp_path / "out" / "y.tar") as tar:
        assert tar.getnames() == [f"{long}.json", f"{long}.wav"]
    assert command("lint", tmp_path / "out")[:2] == (0, "3 intact samples in 2 shards, 0 losses\n")
    code, out, _ = command("repair", tmp_path / "in", "--out", tmp_path / "again")
    assert out.splitlines()[-1].endswith(f": {tmp_path / 'again'}")
    assert all(
        (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
        for name in ("x.tar", "y.tar")
    )


def test_repair_overwrites_nothing(tmp_path: Path, command: Command) -> None:
    folder = folder_of(tmp_path / "in", x=INTACT[:-10_240])
    before = (folder / "x.tar").read_bytes()
    code, _, err = command("repair", folder, "--out", folder)
    assert (code, str(folder / "x.tar") in err) == (2, True)
    (folder / "x.tar.gz").write_bytes(gzip.compress(INTACT))
    code, _, err = command("repair", folder, "--out", tmp_path / "out")
    assert (code, str(tmp_path / "out" / "x.tar") in err) == (2, True)
    assert not (tmp_path / "out").exists()
    assert (folder / "x.tar").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["x.tar", "x.tar.gz"]


class Growing(pafs.FSSpecHandler):
    """A file system in which a shard grows each time it is opened."""

    def open_input_file(self, path: str) -> pa.PythonFile:
        with open(path, "ab") as file:
            file.write(b"x" * 512)
        return super().open_input_file(path)


def test_a_shard_that_changes_between_two_reads_is_not_repaired(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", x=INTACT)
    shard = StorePath(pafs.PyFileSystem(Growing(LocalFileSystem())), str(folder / "x.tar"))
    with pytest.raises(StoreError, match=r"x\.tar\b"):
        repair([shard], StorePath.at(tmp_path / "out"))
    assert not [*(tmp_path / "out").glob("**/*.tar*")]


def test_unreadable_input_and_unwritable_output_are_errors_that_name_the_path(
    tmp_path: Path, command: Command
) -> None:
    for name, options in (("lint", []), ("repair", ["--out", tmp_path / "out"])):
        code, _, err = command(name, tmp_path / "nothing", *options)
        assert (code, str(tmp_path / "nothing") in err) == (2, True)
    folder = folder_of(tmp_path / "in", w=INTACT, x=INTACT)
    shards = discover_shards([str(folder)])
    (folder / "w.tar").unlink()
    with pytest.raises(MissingError, match=r"w\.tar\b"):
        repair(shards, StorePath.at(tmp_path / "out"))
    with pytest.raises(StoreError, match=str(folder / "x.tar" / "below")):
        repair(shards[1:], StorePath.at(folder / "x.tar" / "below"))


@pytest.mark.parametrize(
    "data", [b"", bytes(1024), b"not a tar" * 300, b"\x1f\x8b", b"\x28\xb5\x2f\xfd\x00"]
)
def test_a_file_that_is_no_shard_has_losses_and_no_samples(
    tmp_path: Path, command: Command, data: bytes
) -> None:
    folder = folder_of(tmp_path / "in", x=data)
    code, out, _ = command("lint", folder, "--json")
    report = json.loads(out)
    assert report["samples_kept"] == 0
    assert code == (data != bytes(1024))
    assert (report["num_lost"] > 0) == code
