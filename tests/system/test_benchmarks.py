"""The epoch benchmark runs from a plain checkout with only the libraries that it names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pyarrow
import torch
import torchvision

ROOT = Path(__file__).parents[2]
MISSING = """pydantic pydantic_core yaml ray typer rich av torchaudio webdataset scipy tensorboard
    pandas matplotlib httpx"""


def test_an_epoch_needs_only_torch_torchvision_numpy_and_pyarrow(tmp_path: Path) -> None:
    given = (torch, torchvision, numpy, pyarrow)
    for folder in {Path(library.__path__[0]).parent for library in given}:
        for package in folder.iterdir():
            if package.stem not in MISSING.split():
                (tmp_path / package.name).symlink_to(package)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    # -S ignores .pth files, so that pipeline and trainer come from the checkout
    command = f"{sys.executable} -S {ROOT}/benchmarks/epoch.py --rows 8 --repeats 1".split()
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    (line,) = ended.stdout.splitlines()
    found = json.loads(line)
    assert (found["name"], found["stand_ins"]) == ("epoch", ["pydantic", "yaml"])
    assert found["ratio"] > 0
    assert found["joint"]["video_share"] == found["joint"]["audio_share"] == 1
    assert found["remix"]["video_share"] + found["remix"]["audio_share"] == 1
