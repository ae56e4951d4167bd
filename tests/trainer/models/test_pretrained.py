"""Encoders of timm, torchvision and transformers, with weights of local files."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import remix
from pipeline.decode.media.shapes import Vocabulary
from pipeline.errors import ConfigError, MismatchError
from tests.support.stores import make_features, run_config, weights
from trainer.config import RunConfig
from trainer.launch import launch
from trainer.models.checkpoint import model_of
from trainer.models.encoder_config import EncoderConfig
from trainer.models.encoders import build_encoder
from trainer.models.model import model_for
from trainer.models.model_config import ModelConfig
from trainer.strategies.base import build_optimizer
from trainer.verification.verify import verify

SHAPES = {"sound": ((1, 32, 32), "float16"), "sight": ((2, 3, 32, 32), "uint8")}
TINY = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}
VIT = {**TINY, "image_size": 32, "patch_size": 16}
HUBERT = {**TINY, "conv_dim": [4] * 7, "num_conv_pos_embedding_groups": 2}
BERT = {**TINY, "vocab_size": 30, "pad_token_id": 1}


def save_timm(folder: Path, suffix: str = ".safetensors") -> Path:
    """Save the weights of a model of timm with its classifier of 1000 classes."""
    import timm
    from safetensors.torch import save_model

    torch.manual_seed(1)
    save_model(timm.create_model("test_resnet"), str(folder / f"timm{suffix}"))
    return folder / f"timm{suffix}"


def save_torchvision(folder: Path) -> Path:
    from torchvision.models import get_model

    torch.manual_seed(1)
    torch.save({"model": get_model("shufflenet_v2_x0_5").state_dict()}, folder / "vision.pth")
    return folder / "vision.pth"


def save_vit(folder: Path, seed: int = 1) -> Path:
    return save_transformers(folder / "vit", "vit", VIT, seed)


def save_transformers(folder: Path, name: str, args: dict[str, Any], seed: int = 1) -> Path:
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(seed)
    AutoModel.from_config(AutoConfig.for_model(name, **args)).save_pretrained(folder)
    return folder


LIBRARIES = [
    ({"kind": "timm", "name": "test_resnet"}, save_timm),
    ({"kind": "torchvision", "name": "shufflenet_v2_x0_5"}, save_torchvision),
    ({"kind": "transformers"}, save_vit),
]


def run_of(
    store: Path, encoder: dict[str, Any], *, assemble: bool = False, **train: Any
) -> RunConfig:
    """A run of two modalities with this encoder."""
    train = {"epochs": 2, "warmup_epochs": 1, **train}
    config = run_config(store, train=train, assemble=assemble)
    model = ModelConfig.model_validate({"encoders": {"sound": encoder, "sight": encoder}})
    return config.model_copy(update={"model": model})


def originals(name: str, path: Path) -> Callable[[Tensor], Tensor]:
    """The library's own model with the weights of a file, without its classifier."""
    if name == "timm":
        import timm

        overlay = {"file": str(path)}
        model = timm.create_model(
            "test_resnet", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0
        )
        return model.eval()
    if name == "torchvision":
        from torchvision.models import get_model

        model = get_model("shufflenet_v2_x0_5")
        model.load_state_dict(torch.load(path)["model"])
        model.fc = nn.Identity()
        return model.eval()
    from transformers import AutoModel

    model = AutoModel.from_pretrained(path).eval()
    return lambda x: model(pixel_values=x).pooler_output


@pytest.mark.parametrize(("encoder", "save"), LIBRARIES)
def test_an_encoder_with_weights_of_a_file_is_the_librarys_model(
    tmp_path: Path, encoder: dict[str, Any], save: Callable[[Path], Path]
) -> None:
    path = save(tmp_path)
    config = EncoderConfig.model_validate({**encoder, "pretrained": str(path)})
    built, dim = build_encoder(config, (3, 32, 32))
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = originals(encoder["kind"], path)(x)
        assert expected.shape == (2, dim)
        torch.testing.assert_close(built.eval()(x), expected)


@pytest.mark.parametrize(("encoder", "save"), LIBRARIES)
def test_a_run_needs_its_weights_only_to_begin(
    tmp_path: Path, encoder: dict[str, Any], save: Callable[[Path], Path]
) -> None:
    features = make_features(tmp_path / "features" / "made", SHAPES, num_rows=60)
    path = save(tmp_path)
    budget = {"budget": {"flops": 1e15}}  # FLOPs are counted without the weights
    config = run_of(tmp_path, {**encoder, "pretrained": str(path)}, assemble=True, **budget)
    run = launch(config)
    sha256 = run.metadata["extensions"]["model.encoders.sight.pretrained"]["sha256"]
    assert len(sha256) == 64
    moved = Path(shutil.move(path, tmp_path / f"moved{path.suffix}"))
    assert verify(run)["problems"] == []
    model_of(run.checkpoint("last"), features)
    remix.load_model(str(run.path / "checkpoints" / "model.pt"))
    with pytest.raises(ConfigError, match=path.name):
        launch(config, resume=True)
    elsewhere = run_of(tmp_path, {**encoder, "pretrained": str(moved)}, assemble=True, **budget)
    assert elsewhere.digest == run.digest
    assert launch(elsewhere, resume=True).metadata == run.metadata


def test_other_weights_are_another_run(tmp_path: Path) -> None:
    make_features(tmp_path / "features" / "made", SHAPES, num_rows=60)
    config = run_of(tmp_path, {"kind": "transformers", "pretrained": str(save_vit(tmp_path))})
    run = launch(config)
    save_vit(tmp_path, seed=2)
    assert config.digest != run.digest
    with pytest.raises(MismatchError, match=r"model\.encoders\.sound\.pretrained"):
        launch(config, resume=True)


def test_a_frozen_encoder_keeps_weights_and_statistics(tmp_path: Path) -> None:
    features = make_features(tmp_path / "features" / "made", SHAPES, num_rows=60)
    frozen = {"kind": "timm", "name": "test_resnet", "pretrained": str(save_timm(tmp_path))}
    config = run_of(tmp_path, {**frozen, "freeze": True}, diagnostics=True)
    before = model_for(config.model, features, config.seed).state_dict()
    run = launch(config)
    changed = {key for key, x in weights(run).items() if not x.equal(before[key])}
    assert any(key.startswith("heads.") for key in changed)
    assert [key for key in changed if key.startswith("encoders.")] == []


def test_the_learning_rate_of_an_encoder_is_scaled(tmp_path: Path) -> None:
    features = make_features(tmp_path / "made")
    config = run_config(
        tmp_path, model={"encoders": {"touch": {"kind": "mlp", "hidden": 16, "lr_scale": 0.1}}}
    )
    model = model_for(config.model, features, 0)
    groups = build_optimizer(config.optimizer, model).param_groups
    rates = {id(x): group["lr"] for group in groups for x in group["params"]}
    own = {id(x) for x in model.encoder("touch").parameters()}
    assert {rates[x] for x in own} == {0.1 * config.optimizer.lr}
    assert {rate for x, rate in rates.items() if x not in own} == {config.optimizer.lr}
    make_features(tmp_path / "features" / "made")
    assert launch(config).metadata["status"] == "finished"


@pytest.mark.parametrize(
    ("name", "args", "shape", "vocabulary"),
    [
        ("bert", BERT, (6,), Vocabulary(30, 1)),
        ("gpt2", {"n_embd": 8, "n_layer": 1, "n_head": 2}, (6,), Vocabulary(30, 0)),
        ("audio-spectrogram-transformer", TINY, (1, 32, 32), None),
        ("hubert", HUBERT, (800,), None),
        ("vit", {**TINY, "patch_size": 16}, (1, 32, 32), None),
        ("vit", {**TINY, "patch_size": 16}, (2, 3, 32, 32), None),
    ],
)
def test_models_of_transformers_encode_text_sounds_and_images(
    name: str, args: dict[str, Any], shape: tuple[int, ...], vocabulary: Vocabulary | None
) -> None:
    config = EncoderConfig(kind="transformers", name=name, args=args)
    encoder, dim = build_encoder(config, shape, vocabulary)
    rows = (torch.rand(3, *shape) * 20).long() + 2 if vocabulary else torch.rand(3, *shape)
    output = encoder.eval()(rows)
    assert output.shape == (3, dim)
    assert torch.pdist(output).min() > 0


def test_padding_does_not_change_the_feature_of_a_text() -> None:
    config = EncoderConfig(kind="transformers", name="bert", args=TINY)
    encoder, _ = build_encoder(config, (9,), Vocabulary(30, 1))
    short = torch.tensor([[5, 6, 7, 1]])
    padded = torch.tensor([[5, 6, 7, 1, 1, 1, 1, 1, 1]])
    torch.testing.assert_close(encoder.eval()(short), encoder(padded))


@pytest.mark.parametrize(
    ("encoder", "named"),
    [
        ({"kind": "timm", "name": "test_resnet", "pretrained": "absent.pt"}, "absent.pt"),
        ({"kind": "timm", "name": "resnet0"}, "resnet0"),
        ({"kind": "timm", "name": "test_vit", "pretrained": "OTHER"}, "weights"),
        ({"kind": "torchvision", "name": "resnet18", "pretrained": "OTHER"}, "resnet18"),
        ({"kind": "transformers", "name": "bert", "args": TINY}, "input_ids"),
    ],
)
def test_weights_and_models_that_do_not_fit_are_refused(
    tmp_path: Path, encoder: dict[str, Any], named: str
) -> None:
    if encoder.get("pretrained") == "OTHER":
        encoder = {**encoder, "pretrained": str(save_timm(tmp_path))}
    with pytest.raises(ConfigError, match=named):
        build_encoder(EncoderConfig.model_validate(encoder), (3, 32, 32))


def test_a_missing_package_is_refused_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    make_features(tmp_path / "features" / "made", SHAPES, num_rows=60)
    monkeypatch.setitem(sys.modules, "timm", None)
    config = run_of(tmp_path, {"kind": "timm", "name": "test_resnet"})
    with pytest.raises(ConfigError, match=r"data-remixing\[timm\]"):
        launch(config)
    assert not config.run_path.exists()


def test_hub_ids_of_the_local_cache_are_read_and_others_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "hub" / "models--own--vit"
    save_transformers(snapshot / "snapshots" / "abc", "vit", VIT)
    (snapshot / "refs").mkdir()
    (snapshot / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cached, other = (
        EncoderConfig(kind="transformers", pretrained=f"own/{name}") for name in ("vit", "other")
    )
    assert build_encoder(cached, (3, 32, 32))[1] == 8
    with pytest.raises(ConfigError, match="own/other"):
        build_encoder(other, (3, 32, 32))
