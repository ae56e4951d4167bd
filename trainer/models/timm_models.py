"""Models of timm as encoders of images."""

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from trainer.models.weights import read_weights


def timm_encoder(
    shape: tuple[int, ...], name: str, pretrained: Path | None = None, **args: Any
) -> nn.Module:
    """Build a model without its classifier: (B, C, H, W) -> (B, out_dim), its pooled features.

    Args:
        shape: (C, H, W); timm adapts the first convolution to C channels.
        name: a model of timm.list_models(), such as resnet18.
        pretrained: a file of weights, with or without those of the classifier.
        args: keyword arguments of timm.create_model, such as img_size.
    """
    generator = torch.get_rng_state()
    model: nn.Module = timm.create_model(name, num_classes=0, in_chans=shape[0], **args)
    if pretrained:
        initial = model
        torch.set_rng_state(generator)
        model = timm.create_model(
            name,
            pretrained=True,
            pretrained_cfg_overlay={"state_dict": read_weights(pretrained), "custom_load": False},
            num_classes=0,
            in_chans=shape[0],
            **args,
        )
        _check_loaded(model, initial, pretrained)
    with torch.no_grad():
        model.out_dim = model.eval()(torch.zeros(2, *shape)).shape[1]
    return model.train()


def _check_loaded(model: nn.Module, initial: nn.Module, path: Path) -> None:
    """Check that no random weights are left, since timm skips what a file lacks."""
    before = dict(initial.named_parameters())
    for key, weights in model.named_parameters():
        is_random = weights.min() < weights.max()
        if is_random and weights.equal(before[key]):
            raise ValueError(f"{path} has no weights {key!r}")
