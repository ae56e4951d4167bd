"""Each shard is read once, by its own task; what its version says; what only all shards show."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.fs as pafs
import pytest

from pipeline.decode.account import FOLDER, account_path
from pipeline.decode.config import DecodeConfig, TensorSpec
from pipeline.decode.job import decode
from pipeline.errors import DataError, InputError, MismatchError
from pipeline.features.feature_set import FeatureSet
from pipeline.shards.discover import discover_shards
from pipeline.shards.limits import Limits
from pipeline.storage.store_path import MANIFEST, StorePath
from tests.support.cached_features import wait_for
from tests.support.media_files import encode_npy, facts, write_shard
from tests.support.object_store import CountingProxy, S3Server, counted
from tests.support.refusals import refused

pytestmark = pytest.mark.usefixtures("ray_cluster")

SPLITS = ("train", "validation", "test")
NUM_SHARDS = 66
"""More than the first samples are read of: every second shard is skipped."""
CONFIG = DecodeConfig(modalities={"tensor": TensorSpec(kind="tensor", member="npy", shape=(2,))})


def sample(number: int, size: int = 2, **changes: object) -> dict[str, bytes]:
    data = encode_npy(np.full(size, number))
    return {"json": facts(number % 2, **{"split": SPLITS[number % 3], **changes}), "npy": data}


def write(folder: Path, number: int, **changes: object) -> None:
    write_shard(folder / f"{number:02d}.tar", {f"k{number:02d}": sample(number, **changes)})


@pytest.fixture
def many(tmp_path: Path) -> Path:
    for number in range(NUM_SHARDS):
        write(tmp_path / "in", number)
    return tmp_path / "in"


def test_what_only_all_shards_show_is_an_error_at_the_end(many: Path, tmp_path: Path) -> None:
    out = StorePath.at(tmp_path / "out")
    write(many, 7, sample_id="k33")
    with refused(DataError, "k33", "07.tar", "33.tar"):
        decode(discover_shards([str(many)]), out, CONFIG)
    assert not (out / MANIFEST).exists()
    write(many, 7, split="none")
    with refused(DataError, "none", "07.tar"):
        decode(discover_shards([str(many)]), out, CONFIG)
    write(many, 7)
    extra = TensorSpec(kind="tensor", member="x.npy", shape=(2,))
    with refused(InputError, "extra", "x.npy"):
        config = DecodeConfig(modalities={**CONFIG.modalities, "extra": extra})
        decode(discover_shards([str(many)]), StorePath.at(tmp_path / "other"), config)
    summary = decode(discover_shards([str(many)]), out, CONFIG)
    assert (summary.num_rows, summary.num_reused) == (NUM_SHARDS, NUM_SHARDS - 1)
    fresh = decode(discover_shards([str(many)]), StorePath.at(tmp_path / "fresh"), CONFIG)
    assert fresh.fingerprint == summary.fingerprint


def test_a_shard_is_known_by_size_and_version_unless_it_is_verified(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "in", number)
    shards, out = discover_shards([str(tmp_path / "in")]), StorePath.at(tmp_path / "out")
    decode(shards, out, CONFIG)
    path = tmp_path / "in" / "01.tar"
    before = path.stat().st_mtime_ns
    os.utime(path, ns=(before, before + 1))
    assert decode(shards, out, CONFIG).unchanged  # another version with the same content
    write_shard(path, {"k01": sample(3)})
    os.utime(path, ns=(before, before))
    assert decode(shards, out, CONFIG).unchanged  # not visible in size and version
    with refused(MismatchError, "01.tar"):
        decode(shards, out, CONFIG, verify=True)
    (out / MANIFEST).delete()
    assert decode(shards, out, CONFIG, verify=True).num_reused == 2
    (out / MANIFEST).delete()
    os.utime(path, ns=(before, before + 2))
    assert decode(shards, out, CONFIG).num_reused == 2
    assert decode(shards, out, CONFIG, verify=True).unchanged


def test_shards_of_which_nothing_can_be_used_are_an_error_with_the_reasons(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "in", number)
    options = {"limits": Limits(member_bytes=10), "max_rejected_share": 1.0}
    with refused(DataError, "oversize 3"):
        config = CONFIG.model_copy(update=options)
        decode(discover_shards([str(tmp_path / "in")]), StorePath.at(tmp_path / "out"), config)


class Slow(pafs.FSSpecHandler):  # type: ignore[misc]
    """A local file system in which shard 00 is not read before all others are decoded."""

    def __init__(self, out: StorePath) -> None:
        super().__init__(fsspec.filesystem("file"))
        self.out = out

    def __reduce__(self) -> tuple[Any, ...]:
        return Slow, (self.out,)

    def open_input_file(self, path: str) -> Any:
        started = (self.out / FOLDER / "started").exists()  # not when the first samples are read
        if started and path.endswith("00.tar"):
            others = [account_path(self.out, number) for number in range(1, 20)]
            wait_for(lambda: all(each.exists() for each in others))
        return super().open_input_file(path)


def test_a_slow_shard_does_not_hold_the_others(tmp_path: Path) -> None:
    out, names = StorePath.at(tmp_path / "out"), [f"{number:02d}.tar" for number in range(20)]
    for number in range(20):
        write(tmp_path / "in", number)
    slow = pafs.PyFileSystem(Slow(out))
    shards = [StorePath(slow, str(tmp_path / "in" / name)) for name in names]
    assert decode(shards, out, CONFIG).num_rows == 20
    features = FeatureSet.open(out)
    assert features.samples["shard"].to_pylist() == names


@pytest.fixture(scope="module")
def proxy() -> Iterator[tuple[S3Server, CountingProxy]]:
    server = S3Server()
    with counted(server) as made:
        yield server, made
    server.stop()


def test_a_shard_on_s3_is_read_once(proxy: tuple[S3Server, CountingProxy], tmp_path: Path) -> None:
    server, counter = proxy
    folder = StorePath.at(server.uri("bucket/shards", port=counter.port))
    total, size = 0, 60_000
    for shard in range(3):
        path = tmp_path / "in" / f"{shard}.tar"
        write_shard(path, {f"k{shard}{i}": sample(i, size) for i in range(6)})
        (folder / path.name).write_bytes(path.read_bytes())
        total += path.stat().st_size
    modality = TensorSpec(kind="tensor", member="npy", shape=(size,))
    config, out = DecodeConfig(modalities={"tensor": modality}), StorePath.at(tmp_path / "out")

    def sent(**options: bool) -> float:
        """Bytes that the server sent for a job, as a multiple of the shards' size."""
        before = counter.num_bytes
        shards = discover_shards([folder])
        assert decode(shards, out, config, **options).num_rows == 18
        return (counter.num_bytes - before) / total

    assert 1 <= sent() < 1.25  # the first samples are read without their media
    assert sent() < 0.05
    assert 1 <= sent(verify=True) < 1.1
    (out / MANIFEST).delete()
    assert sent() < 0.2
