"""Text through a tokenizer of transformers: ids, manifest, fingerprint, and encoders of them."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

import remix
from pipeline.errors import ConfigError, DataError, MismatchError
from pipeline.features.manifest import check_manifest
from tests.support.media_files import write_shard
from tests.support.tokenizers import save_tokenizer
from trainer.models.checkpoint import model_of

TEXTS = ["\ufeffred  green\n", "green blue green red red"]
TINY = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}


def decode_config(tokenizer: Path, length: int = 4) -> dict[str, Any]:
    text = {"kind": "text", "member": "text.txt", "length": length, "tokenizer": str(tokenizer)}
    return {
        "modalities": {
            "text": text,
            "tensor": {"kind": "tensor", "member": "tensor.npy", "shape": [3]},
        }
    }


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    content = io.BytesIO()
    np.save(content, np.arange(3.0))
    samples = {}
    for i in range(40):
        split = ["train", "train", "validation", "test"][i // 10]
        metadata = {"sample_id": str(i), "label": f"c{i % 2}", "split": split}
        samples[f"s{i:02}"] = {
            "json": json.dumps(metadata).encode(),
            "text.txt": TEXTS[i % 2].encode(),
            "tensor.npy": content.getvalue(),
        }
    write_shard(tmp_path / "a.tar", samples)
    return tmp_path / "a.tar"


def test_text_becomes_the_ids_of_a_tokenizer(
    tmp_path: Path, shards: Path, ray_cluster: None
) -> None:
    folder = save_tokenizer(tmp_path / "words")
    out = tmp_path / "features" / "made"
    summary = remix.decode([shards], out, decode_config(folder))
    features = remix.FeatureSet.open(out)
    entry = features.manifest["modalities"]["text"]
    assert (entry["dtype"], entry["shape"], entry["mean"]) == ("int64", [4], [])
    assert (entry["tokenizer"]["size"], entry["tokenizer"]["pad"]) == (5, 2)
    ids = features.read("text", np.arange(40))
    assert ids[:2].tolist() == [[1, 3, 4, 2], [1, 4, 0, 4]]
    saved = Tokenizer.from_file(str(out / "text" / "tokenizer.json"))
    assert saved.encode(TEXTS[1]).ids == [1, 4, 0, 4]

    moved = Path(shutil.move(folder, tmp_path / "elsewhere"))
    again = remix.decode([shards], tmp_path / "again", decode_config(moved))
    assert again.fingerprint == summary.fingerprint
    assert remix.decode([shards], out, decode_config(moved)).unchanged
    other = save_tokenizer(tmp_path / "other", "blue")
    with pytest.raises(MismatchError, match="text"):
        remix.decode([shards], out, decode_config(other))

    for encoder in ({}, {"kind": "transformers", "name": "bert", "args": TINY}):
        run = remix.train(
            {
                "name": f"run{len(encoder)}",
                "features": "made",
                "store": str(tmp_path),
                "model": {"encoders": {"text": encoder}},
                "train": {"epochs": 1, "warmup_epochs": 0},
            }
        )
        model = remix.load_model(str(run.path / "checkpoints" / "model.pt"))
        assert model.predict({"text": ids[:3]}).shape == (3, 2)
    remix.decode([shards], tmp_path / "blue", decode_config(other))
    with pytest.raises(MismatchError, match="tokenizers"):
        model_of(run.checkpoint("last"), remix.FeatureSet.open(tmp_path / "blue"))


@pytest.mark.parametrize(("pad", "named"), [(None, "padding"), ("[PAD]", "absent")])
def test_a_tokenizer_that_cannot_be_used_is_refused_before_work(
    tmp_path: Path, shards: Path, pad: str | None, named: str, ray_cluster: None
) -> None:
    save_tokenizer(tmp_path / "padding", pad=pad)
    with pytest.raises(ConfigError, match=rf"modalities\.text\.tokenizer.*{named}"):
        remix.decode([shards], tmp_path / "made", decode_config(tmp_path / named))
    assert not (tmp_path / "made").exists()


def test_a_manifest_whose_padding_is_outside_the_vocabulary_is_refused() -> None:
    table = {
        "kind": "text",
        "shape": [4],
        "dtype": "int64",
        "num_rows": 0,
        "mean": [],
        "std": [],
        "tokenizer": {"sha256": "0" * 64, "size": 7, "pad": 7},
    }
    manifest = {
        "modalities": {"text": table},
        "classes": ["a"],
        "splits": {},
        "num_rows": 0,
        "batch_rows": 1,
        "parts": [],
        "fingerprint": "f",
    }
    with pytest.raises(DataError, match="tokenizer"):
        check_manifest(manifest, "manifest.json")
