"""Classifiers of torchvision as encoders of images."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import get_model

from trainer.models.weights import read_weights


def torchvision_encoder(
    shape: tuple[int, ...], name: str, pretrained: Path | None = None, **args: Any
) -> nn.Module:
    """Build a classifier without its last linear layer: (B, C, H, W) -> (B, out_dim).

    Args:
        shape: (C, H, W). If C is not 3, the weights of the first convolution are averaged over its
            channels and scaled to C of them.
        name: a model of torchvision.models.list_models(), such as resnet34.
        pretrained: a file of weights, with or without those of the last layer.
        args: keyword arguments of the model, such as image_size.
    """
    model: nn.Module = get_model(name, weights=None, **args)
    modules = dict(model.named_modules())
    head = [key for key, module in modules.items() if isinstance(module, nn.Linear)][-1]
    model.out_dim = modules[head].in_features
    model.set_submodule(head, nn.Identity())
    if pretrained:
        weights = read_weights(pretrained)
        for key in ("weight", "bias"):
            weights.pop(f"{head}.{key}", None)
        model.load_state_dict(weights)
    first = next(key for key, module in modules.items() if isinstance(module, nn.Conv2d))
    if shape[0] != 3:
        model.set_submodule(first, _with_channels(model.get_submodule(first), shape[0]))
    return model


def _with_channels(old: Any, channels: int) -> nn.Conv2d:
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,
        old.stride,
        old.padding,
        bias=old.bias is not None,
    )
    with torch.no_grad():
        new.weight.copy_(old.weight.mean(1, keepdim=True).expand_as(new.weight) * 3 / channels)
        if new.bias is not None:
            new.bias.copy_(old.bias)
    return new
