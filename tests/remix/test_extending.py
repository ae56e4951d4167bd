"""The examples of docs/extending.md train, from files in the current folder."""

import io
import json
import re
import sys
from functools import reduce
from pathlib import Path

import pytest
import timm
import yaml
from PIL import Image
from safetensors.torch import save_model

from pipeline.storage.store_path import StorePath
from tests.support.documentation import PAGES, blocks, section
from tests.support.media_files import write_shard
from tests.support.stores import Command, make_features, run_config
from tests.support.tokenizers import save_tokenizer
from trainer.config_values import merge
from trainer.run_directory import Run

PAGE = PAGES["extending.md"]
TOKENIZER = section(PAGE, "## Text through a tokenizer")
LIBRARIES = section(PAGE, "## A model of torchvision, timm or transformers")
SHAPES = {"audio": ((1, 8, 8), "float32"), "video": ((3, 32, 32), "uint8")}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_features(tmp_path / "store" / "features" / "words", SHAPES, num_rows=100)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


def extensions_of(command: Command, examples: list[str], name: str = "own") -> list[str]:
    """Train a run by YAML examples, merged, and return the keys of what it recorded."""
    small = run_config(Path(), train={"epochs": 2, "warmup_epochs": 1}).model_dump(
        mode="json", include={"train"}
    )
    config = reduce(merge, map(yaml.safe_load, examples), small)
    Path("own.yaml").write_text(yaml.safe_dump(config))
    code, _, errors = command("train", "own.yaml")
    assert code == 0, errors
    return list(Run.open(StorePath.at(f"store/runs/{name}")).metadata["extensions"])


def test_the_modules_of_the_page_train(command: Command) -> None:
    for block in blocks(PAGE, "python"):
        if name := re.match(r"# (\w+\.py)\n", block):
            with Path(name[1]).open("a") as file:
                file.write(block)
    examples = blocks(PAGE.replace(LIBRARIES, "").replace(TOKENIZER, ""), "yaml")
    assert extensions_of(command, examples) == [
        "my_models:AudioNet",
        "my_steps:HalfStep",
        "my_steps:cost",
    ]


def test_the_models_of_libraries_train(command: Command) -> None:
    save_model(timm.create_model("test_resnet"), "weights.safetensors")
    assert extensions_of(command, blocks(LIBRARIES, "yaml")) == [
        "timm:create_model",
        "torchvision.models:get_model",
        "model.encoders.video.pretrained",
    ]


def test_text_through_a_tokenizer_trains(command: Command, ray_cluster: None) -> None:
    save_tokenizer(Path("tokenizer"))
    picture = io.BytesIO()
    Image.new("RGB", (32, 32)).save(picture, "png")
    samples = {}
    for i in range(40):
        split = ["train", "train", "validation", "test"][i // 10]
        metadata = {"sample_id": str(i), "label": f"c{i % 2}", "split": split}
        samples[f"s{i:02}"] = {
            "json": json.dumps(metadata).encode(),
            "txt": b"red green",
            "png": picture.getvalue(),
        }
    write_shard(Path("a.tar"), samples)
    decode, train = blocks(TOKENIZER, "yaml")
    Path("decode.yaml").write_text(decode)
    code, _, errors = command(
        "decode", "a.tar", "--config", "decode.yaml", "--out", "store/features/tokens"
    )
    assert code == 0, errors
    assert extensions_of(command, [train], "tokens") == ["transformers:AutoModel"]
