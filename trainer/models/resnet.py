"""ResNet-18 of torchvision as an encoder."""

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from trainer.models.encoder import NORMS, Encoder
from trainer.models.encoder_config import EncoderConfig


class ResNet18(Encoder, ResNet):  # type: ignore[misc]
    """torchvision's ResNet-18 without its classifier: (B, C, H, W) -> (B, 512)."""

    def __init__(self, config: EncoderConfig, channels: int) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], norm_layer=NORMS[config.norm])
        if channels != 3:
            self.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.fc = nn.Identity()
        self.channels = (64, 128, 256, 512)

    def stage(self, number: int, x: Tensor) -> Tensor:
        if number == 0:
            for first in ("conv1", "bn1", "relu", "maxpool"):
                x = self.get_submodule(first)(x)
        output: Tensor = self.get_submodule(f"layer{number + 1}")(x)
        return output
