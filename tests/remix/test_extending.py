"""The encoder, policy and strategy of docs/extending.md train, from files in the current folder."""

import re
import sys
from functools import reduce
from pathlib import Path

import pytest
import yaml

from pipeline.storage.store_path import StorePath
from tests.support.documentation import PAGES, blocks
from tests.support.stores import Command, make_features, run_config
from trainer.config import merge
from trainer.run_directory import Run

PAGE = PAGES["extending.md"]
SHAPES = {"audio": ((1, 8, 8), "float32"), "video": ((3, 32, 32), "uint8")}


def test_the_modules_of_the_page_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    make_features(tmp_path / "store" / "features" / "words", SHAPES, num_rows=100)
    for block in blocks(PAGE, "python"):
        if name := re.match(r"# (\w+\.py)\n", block):
            with (tmp_path / name[1]).open("a") as file:
                file.write(block)
    small = run_config(tmp_path, train={"epochs": 2, "warmup_epochs": 1}).model_dump(
        mode="json", include={"train"}
    )
    examples = [yaml.safe_load(block) for block in blocks(PAGE, "yaml")]
    config = reduce(merge, examples, small)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    code, _, errors = command("train", "own.yaml")
    assert code == 0, errors
    run = Run.open(StorePath.at(tmp_path / "store" / "runs" / "own"))
    assert list(run.metadata["extensions"]) == [
        "my_models:AudioNet",
        "my_steps:HalfStep",
        "my_steps:cost",
        "torchvision.models:get_model",
    ]
