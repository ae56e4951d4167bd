"""Text as a modality: decoding to ids, the text encoder, and runs that use them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.config import load, parse
from pipeline.decode.config import DecodeConfig, TensorSpec, TextSpec
from pipeline.decode.media.sample import decode_sample
from pipeline.decode.media.shapes import BYTES
from pipeline.errors import ConfigError, DataError, SampleError
from pipeline.features.feature_set import FeatureSet
from pipeline.shards.limits import Limits
from pipeline.sources.importers.table import import_table
from pipeline.sources.synthetic.generate import generate
from pipeline.sources.synthetic.plain import SPECS
from pipeline.storage.arrow_files import read_table
from tests.support.media_files import encode_npy, write_shard
from trainer.config import RunConfig
from trainer.data.inputs import Inputs
from trainer.launch import launch
from trainer.models import checkpoint as checkpoints
from trainer.models.encoder_config import EncoderConfig
from trainer.models.encoders import build_encoder
from trainer.models.model import build_model
from trainer.models.model_config import ModelConfig

BOM = b"\xef\xbb\xbf"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), min_size=1).filter(
    str.strip
)


def decode(data: bytes, length: int) -> np.ndarray:
    array = decode_sample(
        {"txt": data}, {"note": TextSpec(kind="text", member="txt", length=length)}, Limits()
    )["note"]
    assert array is not None
    assert (array.shape, array.dtype) == ((length,), np.int16)
    return array


def ids_of(*texts: str, length: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([decode(text.encode(), length) for text in texts])).long()


@given(text=TEXTS, length=st.integers(4, 40), marked=st.booleans())
@example(text="a" * 3 + "\U0001f600", length=6, marked=False)
@example(text="ßßß", length=6, marked=True)
def test_ids_are_bytes_up_to_the_last_complete_character(
    text: str, length: int, marked: bool
) -> None:
    ids = decode(BOM * marked + text.encode(), length)
    num = int((ids != 0).sum())
    assert not ids[num:].any()
    kept = bytes((ids[:num] - 1).astype(np.uint8)).decode()
    assert text.startswith(kept)
    assert kept == text or num + len(text[len(kept)].encode()) > length


@pytest.mark.parametrize("data", [b"", BOM, b" \n\t", "\u00a0\u3000\r\n".encode()])
def test_blank_text_is_a_missing_modality(data: bytes) -> None:
    specs = {
        "note": TextSpec(kind="text", member=("note.txt", "caption"), length=8),
        "tensor": TensorSpec(kind="tensor", member="npy", shape=(2,)),
    }
    npy = encode_npy(np.array([3, 4]))
    for suffix in ("note.txt", "caption"):
        arrays = decode_sample({suffix: data, "npy": npy}, specs, Limits())
        assert arrays["note"] is None
        assert arrays["tensor"].tolist() == [3, 4]


@given(data=st.one_of(st.binary(max_size=12), TEXTS.map(lambda text: text.encode()[:-1])))
def test_invalid_text_is_rejected_and_valid_text_is_decoded(data: bytes) -> None:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    specs = {"note": TextSpec(kind="text", member="txt", length=64)}
    if "\0" in text:
        with pytest.raises(SampleError) as caught:
            decode_sample({"txt": data}, specs, Limits())
        assert caught.value.reason in ("undecodable", "truncated", "wrong_type")
    else:
        ids = decode_sample({"txt": data}, specs, Limits())["note"]
        assert (ids is not None and ids.any()) == bool(text.strip())


@pytest.mark.parametrize(
    ("data", "reason", "named"),
    [
        (b"a\xff", "undecodable", "1"),
        (b"fa\xe7ade", "undecodable", "2"),
        (
            b"abcdefgh" + b"\xed\xa0\x80",
            "undecodable",
            "8",
        ),  # half of a surrogate pair, behind the cap
        ("naïve é".encode()[:-1], "truncated", "7"),
        ("hi".encode("utf-16-le"), "wrong_type", "1"),
        (LFS, "lfs_pointer", "txt"),
    ],
)
def test_rejections_name_modality_member_and_position(data: bytes, reason: str, named: str) -> None:
    with pytest.raises(SampleError) as caught:
        decode(data, 8)
    assert (
        caught.value.reason,
        {"note", "txt", named} <= set(re.findall(r"\w+", caught.value.detail)),
    ) == (reason, True), caught.value


@pytest.mark.parametrize("length", [3, 65_537])
def test_length_out_of_range_is_rejected(length: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"(?s)(?=.*\bmodalities\.note\.length\b)(?=.*\b{length}\b)"
    ):
        parse(
            DecodeConfig,
            {"modalities": {"note": {"kind": "text", "member": "txt", "length": length}}},
            "decode.yaml",
        )


def test_feature_depends_only_on_the_text() -> None:
    torch.manual_seed(0)
    encoder, feature_dim = build_encoder(EncoderConfig(width=8), (40,), BYTES)
    texts = ["a", "naïve", "one two three", "eerht owt eno", "x" * 40]
    features = encoder(ids_of(*texts, length=40))
    assert features.shape == (5, feature_dim) == (5, 64)
    torch.testing.assert_close(encoder(ids_of(*texts, length=97)), features)
    for i, text in enumerate(texts):
        torch.testing.assert_close(encoder(ids_of(text, length=40))[0], features[i])
    assert torch.pdist(features).min() > 0.1
    assert not encoder(torch.zeros(2, 40, dtype=torch.long)).any()


def test_training_leaves_padding_zero() -> None:
    encoder, _ = build_encoder(EncoderConfig(width=4), (20,), BYTES)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.1)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    for _ in range(3):
        optimizer.zero_grad()
        encoder(ids_of("one", "another", length=20)).square().sum().backward()
        optimizer.step()
    after = encoder.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in after)
    assert not after["embedding.weight"][0].any()


def test_text_encoder_is_used_for_text_only() -> None:
    shapes = {"picture": (3, 16, 16), "trace": (12,), "note": (12,)}
    model = build_model(
        ModelConfig(encoder=EncoderConfig(kind="cnn", width=8)), shapes, 2, 0, ids={"note": BYTES}
    )
    assert [type(model.encoder(name)).__name__ for name in shapes] == ["Cnn", "Mlp", "Text"]
    assert model.head("note").in_features == model.head("picture").in_features
    for name, kind in (("note", "mlp"), ("note", "cnn"), ("trace", "text"), ("picture", "text")):
        with pytest.raises(ConfigError, match=rf"(?s)(?=.*\b{name}\b)(?=.*\b{kind}\b)"):
            build_model(
                ModelConfig(encoders={name: EncoderConfig(kind=kind)}),
                shapes,
                2,
                0,
                ids={"note": BYTES},
            )  # type: ignore[arg-type]


@pytest.mark.parametrize("mask", ["skip", "feature", "input"])
def test_text_is_masked_like_other_modalities(mask: str) -> None:
    model = build_model(
        ModelConfig(mask=mask, encoder=EncoderConfig(norm="group", width=8)),
        {"picture": (1, 8, 8), "note": (9,)},
        2,
        0,
        ids={"note": BYTES},
    )  # type: ignore[arg-type]
    inputs = {"picture": torch.rand(3, 1, 8, 8), "note": ids_of("a", "b", "c", length=9)}
    other = {**inputs, "note": ids_of("d", "e", "f", length=9)}
    has = dict.fromkeys(inputs, torch.ones(3, dtype=torch.bool))
    assert torch.equal(
        model(inputs, has, active="picture").fused, model(other, has, active="picture").fused
    )
    assert not torch.equal(model(inputs, has).fused, model(other, has).fused)


@pytest.mark.parametrize("wrong", [-1, 257])
def test_invalid_ids_are_rejected_before_the_model(wrong: int) -> None:
    facts = {"note": {"dtype": "int16", "mean": [], "std": []}}
    inputs = Inputs({"model": {}, "shapes": {"note": [4]}, "facts": facts}, 0, torch.device("cpu"))
    rows = torch.tensor([[1, 256, 0, 0]], dtype=torch.int16)
    assert torch.equal(inputs({"note": rows}, np.arange(1), training=True)["note"], rows.long())
    rows[0, 2] = wrong
    with pytest.raises(DataError, match=r"(?s)(?=.*\bnote\b)(?=.*\b256\b)"):
        inputs({"note": rows}, np.arange(1), training=True)


def test_import_infers_length_from_files(tmp_path: Path) -> None:
    lines = ["sample_id,label,split,words,note"]
    for i in range(20):
        (tmp_path / f"{i}.txt").write_bytes(BOM + "é".encode() * (10 + i))
        (tmp_path / f"{i}-bad.txt").write_bytes(b"\xff")
        lines.append(f"s{i},{i % 2},train,{i}.txt,{i}-bad.txt")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    import_table(
        tmp_path / "manifest.csv",
        tmp_path / "out",
        modalities={"words": "words"},
        kinds={"words": "text"},
    )
    assert load(DecodeConfig, tmp_path / "out" / "decode.yaml").modalities == {
        "words": TextSpec(kind="text", member=("words.txt",), length=57)
    }
    with pytest.raises(DataError, match=r"(?s)(?=.*\bnote\b)(?=.*\b20\b)"):
        import_table(
            tmp_path / "manifest.csv",
            tmp_path / "other",
            modalities={"words": "words", "note": "note"},
        )


def test_training_on_image_and_text(tmp_path: Path, ray_cluster: None) -> None:
    generate(
        tmp_path / "shards" / "made",
        samples=160,
        classes=2,
        shards=2,
        seed=0,
        modalities=("image", "text"),
    )
    facts = json.dumps({"sample_id": "bad", "label": "class-00", "split": "train"}).encode()
    write_shard(tmp_path / "shards" / "bad.tar", {"k": {"json": facts, "text.txt": b"\xff"}})
    decode = {"modalities": {name: SPECS[name].model_dump() for name in ("image", "text")}}
    asked = {
        "name": "run",
        "features": "made",
        "store": str(tmp_path),
        "source": {"shards": ["shards/made", "shards/bad.tar"], "decode": decode},
    }
    model, train = (
        {"encoder": {"kind": "cnn", "width": 8, "norm": "group"}},
        {"epochs": 5, "warmup_epochs": 3, "batch_size": 16},
    )
    run = launch(
        parse(
            RunConfig, {**asked, "model": model, "train": train, "optimizer": {"lr": 0.005}}, "test"
        )
    )
    features = FeatureSet.open(run.path.parent.parent / "features" / "made")
    told = features.manifest["modalities"]["text"]
    assert (told["kind"], told["shape"], told["dtype"], told["mean"], told["std"]) == (
        "text",
        [96],
        "int16",
        [],
        [],
    )
    assert features.num_rows == 160
    rejected = read_table(features.path / "rejected.arrow").to_pylist()
    assert [(row["sample_id"], row["reason"], "text.txt" in row["error"]) for row in rejected] == [
        ("bad", "undecodable", True)
    ]
    assert run.metadata["result"]["test_accuracy"]["text"] > 0.75
    best, _ = checkpoints.model_of(run.checkpoint("best"), features)
    assert type(best.encoder("text")).__name__ == "Text"
