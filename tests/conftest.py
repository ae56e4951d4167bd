"""Fixtures for all tests: one local Ray cluster, a trained store, an S3 server, and real data."""

import functools
import os
import signal
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from remix.cli import app as command_line
from tests.support.stores import Command, make_features, run_config

hypothesis.settings.register_profile(
    "untimed", deadline=None
)  # the time of an example depends on the load of the machine
hypothesis.settings.load_profile("untimed")
# a shell starts background jobs with SIGINT ignored, which the processes of tests would inherit
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
# read when huggingface_hub is imported, so `remix import hf` would be too late in this process
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# an actor of each Ray Train run that watches for nodes that the cloud takes back
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
# the file system remembers what killed processes wrote; only a machine's failure needs the sync
os.fsync = lambda descriptor: None
# the models of the tests are small: more threads only add overhead
torch.set_num_threads(1)


class ByFile(LoadScopeScheduling):
    """Gives each process of `pytest -n` complete files, so that fixtures of a module are made once.

    All files that use the shared Ray cluster go to one process.
    """

    # not --dist loadgroup: pytest 9.2 has broken it without a word (pytest-xdist issue 1386)
    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "ray" if _uses_ray(self.config.rootpath / file) else file


@functools.cache
def _uses_ray(file: Path) -> bool:
    return "ray_cluster" in file.read_text()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no process waits for another at the end.

    The last are the many short files of `pipeline`.
    """
    items.sort(
        key=lambda item: (
            not (_uses_ray(item.path) or item.path.name == "test_jobs.py"),
            "pipeline" in item.path.relative_to(item.config.rootpath).parts,
        )
    )


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return ByFile(config, log)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    import ray

    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=512 * 2**20
    )
    yield
    ray.shutdown()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `remix ...` in this process and returns exit code, output and errors."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["remix", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, " ".join(err.split())

    return run


@pytest.fixture(scope="session")
def trained_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A read-only store: features, a joint, a unimodal and a remixed run, and their comparison."""
    from trainer.comparison.compare import compare
    from trainer.launch import launch

    store = tmp_path_factory.mktemp("trained")
    make_features(store / "features" / "made", missing=0.2)
    config = run_config(store, name="demo", assemble=True)
    compare(config, ["joint", "unimodal", "remix"], [0], launch)
    return store


@pytest.fixture(scope="session")
def s3() -> Iterator[Callable[[], str]]:
    """Returns the URI of a new bucket; tests that stop a server start one of their own."""
    from tests.support.object_store import S3Server

    server = S3Server()
    yield server.uri
    server.stop()


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Unpacks a folder of REMIX_TEST_DATA once and returns the folder, with its manifest."""
    root = os.environ.get("REMIX_TEST_DATA")
    unpacked: dict[str, Path] = {}

    def unpack(name: str) -> Path:
        if not root or not (Path(root) / name / "data.tar.gz").exists():
            pytest.skip(
                f"REMIX_TEST_DATA does not hold {name}: real data is not part of the project"
            )
        if name not in unpacked:
            folder = tmp_path_factory.mktemp(name)
            with tarfile.open(Path(root) / name / "data.tar.gz") as tar:
                tar.extractall(folder, filter="data")
            (folder / "manifest.csv").write_bytes((Path(root) / name / "manifest.csv").read_bytes())
            unpacked[name] = folder
        return unpacked[name]

    return unpack
