"""The model: masks, fusions, missing modalities, empty and one-row batches, encoders, seeds."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import ConfigError
from trainer.models.encoder_config import EncoderConfig
from trainer.models.encoders import build_encoder
from trainer.models.fusion import FUSIONS
from trainer.models.midfusion import MIDFUSIONS
from trainer.models.model import MultimodalModel, build_model
from trainer.models.model_config import ModelConfig

SHAPES: dict[str, tuple[int, ...]] = {
    "values": (2, 3, 16, 16),
    "type": (1, 12, 9),
    "sensor-3": (5, 2),
    "zz_top": (3, 16, 16),
}
"""Modality names that are also attributes of modules, with all shapes of rows."""
CLASSES = 5
MASKS = ("skip", "feature", "input")
over_all_fusions = pytest.mark.parametrize("fusion", [*FUSIONS, *MIDFUSIONS])

Batch = tuple[dict[str, Tensor], dict[str, Tensor], Tensor]


def make(
    num: int, fusion: str = "concat", mask: str = "skip", norm: str = "batch", seed: int = 0
) -> MultimodalModel:
    config = ModelConfig.model_validate(
        {
            "fusion": fusion,
            "mask": mask,
            "hidden": 16,
            "encoder": {"width": 8, "hidden": 16, "norm": norm},
        }
    )
    return build_model(config, dict(list(SHAPES.items())[:num]), CLASSES, seed)


def batch(num: int, size: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    names = list(SHAPES)[:num]
    inputs = {name: torch.randn(size, *SHAPES[name], generator=generator) for name in names}
    present = {name: torch.ones(size, dtype=torch.bool) for name in names}
    return inputs, present, torch.randint(CLASSES, (size,), generator=generator)


def bits(x: Tensor) -> Tensor:
    return x.detach().view(torch.int32 if x.dtype == torch.float32 else torch.int16)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("training", [False, True])
@over_all_fusions
def test_masks_skip_and_feature_agree_bit_for_bit(
    fusion: str, training: bool, autocast: bool
) -> None:
    inputs, present, _ = batch(3, 6)
    present["sensor-3"] = torch.arange(6) < 4
    for train in inputs:
        skip, feature = (make(3, fusion, mask).train(training) for mask in MASKS[:2])
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            only = skip({train: inputs[train]}, present, train)
            ran, joint = feature(inputs, present, train), feature(inputs, present, "all")
        assert only.fused.shape == (6, CLASSES)
        assert set(only.unimodal) == set(ran.unimodal) == {train}
        assert torch.equal(bits(only.fused), bits(ran.fused))
        assert torch.equal(bits(only.unimodal[train]), bits(ran.unimodal[train]))
        assert not torch.equal(ran.fused, joint.fused)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_mask_input_uses_the_encoders_output_for_zeros(fusion: str) -> None:
    inputs, present, _ = batch(2, 6)
    zeroed, skip = make(2, fusion, "input", norm="none"), make(2, fusion, "skip", norm="none")
    expected = zeroed({**inputs, "type": torch.zeros_like(inputs["type"])}, present, "all").fused
    assert torch.equal(zeroed(inputs, present, "values").fused, expected)
    assert not torch.equal(skip(inputs, present, "values").fused, expected)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_row_without_a_modality_has_a_feature_of_zeros(fusion: str) -> None:
    inputs, present, _ = batch(3, 6)
    model = make(3, fusion).eval()
    present["type"] = torch.tensor([True, False, True, True, False, True])
    whole = model(inputs, present).fused
    inputs["type"][~present["type"]] = float("nan")
    assert torch.equal(model(inputs, present).fused, whole)
    masked = model(inputs, {**present, "type": torch.zeros(6, dtype=torch.bool)}).fused
    torch.testing.assert_close(whole[~present["type"]], masked[~present["type"]])
    assert not torch.allclose(whole[present["type"]], masked[present["type"]])


def test_an_encoder_sees_only_the_rows_that_have_its_modality() -> None:
    inputs, present, _ = batch(2, 6)
    seen: list[int] = []
    model = make(2)
    model.encoder("type").register_forward_hook(
        lambda module, given, out: seen.append(len(given[0]))
    )
    for num_present in (6, 4, 0):
        present["type"] = torch.arange(6) < num_present
        model(inputs, present).fused.sum().backward()
    assert seen == [6, 4]


@pytest.mark.parametrize("mask", MASKS)
@over_all_fusions
def test_an_empty_slice_steps_without_touching_statistics(fusion: str, mask: str) -> None:
    model = make(3, fusion, mask)
    before = [b.clone() for b in model.buffers()]
    inputs, present, _ = batch(3, 0)
    for train in ("all", *inputs):
        outputs = model(inputs, present, train)
        assert outputs.fused.shape == (0, CLASSES) and all(
            x.shape == (0, CLASSES) for x in outputs.unimodal.values()
        )
        (outputs.fused.sum() + sum(x.sum() for x in outputs.unimodal.values())).backward()
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("kind", ["cnn", "resnet18"])
def test_a_batch_of_one_row_trains(kind: str, norm: str) -> None:
    config = ModelConfig.model_validate({"encoder": {"kind": kind, "width": 8, "norm": norm}})
    model = build_model(config, {"picture": (3, 16, 16), "trace": (7,)}, CLASSES, 0)
    inputs = {"picture": torch.randn(1, 3, 16, 16), "trace": torch.randn(1, 7)}
    outputs = model(inputs, {name: torch.ones(1, dtype=torch.bool) for name in inputs})
    sum(x.sum() for x in (outputs.fused, *outputs.unimodal.values())).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(b.isfinite().all() for b in model.buffers())


@pytest.mark.parametrize("train", ["all", "values"])
@over_all_fusions
def test_the_gradients_of_slices_add_up(fusion: str, train: str) -> None:
    inputs, present, labels = batch(3, 7)
    present["values"][2:4] = False

    def gradients(slices: list[slice]) -> list[Tensor | None]:
        model = make(3, fusion, norm="group")
        for part in slices:
            outputs = model(
                {name: x[part] for name, x in inputs.items()},
                {name: x[part] for name, x in present.items()},
                train,
            )
            (F.cross_entropy(outputs.fused, labels[part], reduction="sum") / len(labels)).backward()
        return [p.grad for p in model.parameters()]

    whole, parts = (
        gradients([slice(None)]),
        gradients([slice(0, 2), slice(2, 2), slice(2, 4), slice(4, 7)]),
    )
    assert any(g is not None and g.any() for g in whole)
    for a, b in zip(whole, parts, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
@pytest.mark.parametrize("kind", ["resnet18", "cnn"])
def test_the_first_convolution_fits_the_channels(kind: str, channels: int) -> None:
    encoder, feature_dim = build_encoder(EncoderConfig(kind=kind, width=8), (channels, 20, 24))
    first = next(module for module in encoder.modules() if isinstance(module, nn.Conv2d))
    assert first.in_channels == channels
    assert encoder(torch.randn(2, channels, 20, 24)).shape == (2, feature_dim)
    assert feature_dim == (512 if kind == "resnet18" else 64)
    assert encoder.eval()(torch.empty(0, channels, 20, 24)).shape == (0, feature_dim)


@pytest.mark.parametrize("kind", ["resnet18", "cnn"])
def test_features_of_frames_are_their_mean(kind: str) -> None:
    encoder, _ = build_encoder(EncoderConfig(kind=kind, width=8), (3, 3, 32, 32))
    encoder.eval()
    frames = torch.randn(2, 3, 3, 32, 32)
    alone = torch.stack([encoder(frames[:, t : t + 1]) for t in range(3)]).mean(0)
    torch.testing.assert_close(encoder(frames), alone, rtol=1e-4, atol=1e-5)


def test_norm_none_and_group_have_no_statistics_and_look_at_one_row() -> None:
    for norm in ("group", "none"):
        for kind in ("resnet18", "cnn"):
            encoder, _ = build_encoder(EncoderConfig(kind=kind, width=8, norm=norm), (3, 32, 32))
            x = torch.randn(4, 3, 32, 32)
            assert not list(encoder.buffers())
            torch.testing.assert_close(encoder(x)[:1], encoder(x[:1]), rtol=1e-3, atol=1e-4)


def test_weights_depend_on_seed_and_name_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    two = make(2).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    again, three, other = make(2).state_dict(), make(3).state_dict(), make(2, seed=1).state_dict()
    torch.set_num_threads(threads)
    assert all(torch.equal(two[key], again[key]) for key in two)
    parts = [key for key in two if key.startswith(("encoders", "heads"))]
    assert parts and all(torch.equal(two[key], three[key]) for key in parts)
    assert not any(torch.equal(two[key], other[key]) for key in parts if "head" in key)


def test_errors_name_the_modality_and_value() -> None:
    with pytest.raises(ConfigError, match=r"(?=.*\bnose\b)(?=.*\bvalues\b)"):
        build_model(
            ModelConfig(encoders={"nose": EncoderConfig()}), {"values": (4,), "type": (4,)}, 2, 0
        )
    with pytest.raises(ConfigError, match=r"(?=.*\btype\b)(?=.*\bcnn\b)(?=.*\(4,\))(?=.*\bmlp\b)"):
        build_model(
            ModelConfig(encoders={"type": EncoderConfig(kind="cnn")}),
            {"values": (4,), "type": (4,)},
            2,
            0,
        )
    with pytest.raises(ConfigError, match=r"(?=.*\bframes\b)(?=.*\b9\b)(?=.*\b2\b)"):
        build_model(
            ModelConfig(encoder=EncoderConfig(frames=9)),
            {"values": (2, 3, 8, 8), "type": (4,)},
            2,
            0,
        )
