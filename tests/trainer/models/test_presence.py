"""A fusion is passed which modalities a row has; it does not infer that from zero features."""

import torch
from torch import nn

from trainer.loop import step_seed
from trainer.models.model import MultimodalModel, build_model
from trainer.models.model_config import ModelConfig


def model_whose_first_features_are_zeros() -> MultimodalModel:
    """Modality `a` has features of zeros for every row, as a ReLU encoder may have."""
    config = ModelConfig.model_validate(
        {"fusion": "entropy", "encoder": {"kind": "mlp", "hidden": 8}}
    )
    model = build_model(config, {"a": (4,), "b": (4,)}, 3, 0)
    for layer in model.encoder("a").modules():
        if isinstance(layer, nn.LayerNorm):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, -1.0)
    return model.eval()


def test_zeros_of_an_encoder_are_not_a_missing_modality() -> None:
    model, inputs = model_whose_first_features_are_zeros(), {k: torch.ones(2, 4) for k in "ab"}
    with torch.no_grad():
        outputs = model(inputs, {"a": torch.tensor([True, False]), "b": torch.tensor([True, True])})
    assert not outputs.features["a"].any()
    logits = torch.stack([outputs.unimodal[name][0] for name in "ab"])
    p = logits.softmax(1)
    weights = (p * p.log()).sum(1).softmax(0)  # the more certain head counts more
    torch.testing.assert_close(outputs.fused[0], weights @ logits)
    torch.testing.assert_close(outputs.fused[1], outputs.unimodal["b"][1])


def test_ranks_draw_differently_in_a_step() -> None:
    assert len({step_seed(0, 1, 2, rank) for rank in range(8)}) == 8
