"""Encoders of this project: a CNN for images, an MLP for arrays, convolutions for text."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.decode.media.shapes import Vocabulary
from trainer.models.encoder import NORMS, Encoder, Stages, gated
from trainer.models.encoder_config import EncoderConfig


class Blocks(Encoder, nn.Sequential):
    """A sequence of layers; three form a stage."""

    def stage(self, number: int, x: Tensor) -> Tensor:
        for layer in list(self)[3 * number : 3 * number + 3]:
            x = layer(x)
        return x


class Cnn(Blocks):
    """Four blocks of a 3x3 convolution of stride 2, norm and ReLU, then global average pooling.

    (B, C, H, W) -> (B, 8 * width).
    """

    def __init__(self, config: EncoderConfig, channels: int) -> None:
        widths = [channels] + [config.width * 2**i for i in range(4)]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [
                nn.Conv2d(before, after, 3, 2, 1, bias=config.norm == "none"),
                NORMS[config.norm](after),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.channels = tuple(widths[1:])
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


class Mlp(Blocks):
    """Two linear layers with LayerNorm and ReLU: (B, ...) -> (B, hidden).

    LayerNorm allows batches of one row.
    """

    def __init__(self, config: EncoderConfig, num_inputs: int) -> None:
        super().__init__()
        self.channels = (config.hidden, config.hidden)
        for before in (num_inputs, config.hidden):
            linear = nn.Linear(before, config.hidden)
            self.extend([linear, nn.LayerNorm(config.hidden), nn.ReLU(inplace=True)])

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = super().forward(x.reshape(len(x), -1))  # type: ignore[no-untyped-call]
        return features

    def stage(self, number: int, x: Tensor) -> Tensor:
        return super().stage(number, x.flatten(1))


class Text(Encoder):
    """Token embedding, two blocks of convolution, LayerNorm and ReLU, then average pooling.

    Token ids (B, L) -> (B, 8 * width). Padding is zero in every convolution and is left out
    of the mean, so that a feature depends neither on L nor on other rows.
    """

    def __init__(self, config: EncoderConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.pad = vocabulary.pad
        widths = [config.width, 4 * config.width, 8 * config.width]
        self.embedding = nn.Embedding(vocabulary.size, config.width, self.pad)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, 5, padding=2) for before, after in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths[1:])
        self.channels = tuple(widths[1:])

    def forward(self, ids: Tensor) -> Tensor:  # (B, L) integers -> (B, 8 * width)
        x, is_text = self._embedded(ids)
        for number in range(len(self.channels)):
            x = self.stage(number, x) * is_text
        total: Tensor = x.sum(2)
        return total / is_text.sum(2).clamp_min(1)

    def stage(self, number: int, x: Tensor) -> Tensor:  # (B, C, L) -> (B, C', L)
        normed = self.norms[number](self.convolutions[number](x).transpose(1, 2))
        return F.relu(normed).transpose(1, 2)

    def stages(self, ids: Tensor) -> Stages:
        x, is_text = self._embedded(ids)
        num = is_text.sum(2).clamp_min(1)
        for number in range(len(self.channels)):
            x = self.stage(number, x) * is_text
            x = gated(x, (yield x.sum(2) / num))
        total: Tensor = x.sum(2)
        return total / num

    def _embedded(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding (B, C, L), and which positions are not padding, (B, 1, L)."""
        return self.embedding(ids).transpose(1, 2), (ids != self.pad).unsqueeze(1)
