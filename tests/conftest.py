"""What the tests share: one local Ray cluster, and the real data where there is some."""

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)  # the models of the tests are small: threads only get into each other's way


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=512 * 2**20)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Unpacks a folder of REMIX_TEST_DATA once and returns where; the manifest lies beside the data."""
    root = os.environ.get("REMIX_TEST_DATA")
    unpacked: dict[str, Path] = {}

    def unpack(name: str) -> Path:
        if not root or not (Path(root) / name / "data.tar.gz").exists():
            pytest.skip(f"REMIX_TEST_DATA does not hold {name}: real data is not part of the project")
        if name not in unpacked:
            folder = tmp_path_factory.mktemp(name)
            with tarfile.open(Path(root) / name / "data.tar.gz") as tar:
                tar.extractall(folder, filter="data")
            (folder / "manifest.csv").write_bytes((Path(root) / name / "manifest.csv").read_bytes())
            unpacked[name] = folder
        return unpacked[name]

    return unpack
