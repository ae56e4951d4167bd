"""From stored rows to the encoder's input, a whole batch at a time, on the batch's device.

What is random for a row is a hash of (seed, epoch, row): it depends neither on the batch that the row is in nor on rank or
world size. That is why torchvision's v2 transforms do not serve: they draw once for a whole batch, from a global generator.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.counter_rng import Purpose, hashes, key_of, uniform
from trainer.models.encoders import EncoderConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LOG_RATIO = float(np.log(4 / 3))
"""A crop's width by height lies between 3/4 and 4/3."""

Rows = npt.NDArray[np.int64]
Uniforms = npt.NDArray[np.float64]


def prepare(
    batch: Tensor,
    facts: Mapping[str, Sequence[float]],
    config: EncoderConfig,
    rows: Rows,
    *,
    seed: int,
    epoch: int,
    training: bool,
) -> Tensor:
    """Stored rows (B, ...) as float32, normalised by the facts `mean` and `std` in stored units, and in training augmented.

    mean and std have one number per channel: axis -3 of pictures, spectrograms and frames, the first axis of other rows.
    Frames (B, T, C, H, W) become (B, config.frames, C, H, W). Modalities of one seed share a row's draws: two cameras are cropped alike.
    """
    if batch.ndim == 5 and config.frames is not None:
        chosen = frame_indices(batch.shape[1], config.frames, rows, seed, epoch, training=training)
        batch = batch[
            torch.arange(len(batch), device=batch.device)[:, None],
            torch.from_numpy(chosen).to(batch.device),
        ]
    picture = batch.dtype == torch.uint8 and batch.ndim >= 4
    x = batch.float()
    if training and picture and config.crop:
        x = _crop(x, config, rows, seed, epoch)
    elif training and picture and config.flip:
        flipped = torch.from_numpy(_flips(config, rows, seed, epoch)).to(x.device)
        x = torch.where(flipped.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)
    return _normalize(x, facts, config, scale=255.0 if batch.dtype == torch.uint8 else 1.0)


def frame_indices(
    num_stored: int, num: int, rows: Rows, seed: int, epoch: int, *, training: bool
) -> npt.NDArray[np.int64]:
    """(B, num): one stored frame per equal segment, random for each row in training, the central one in evaluation."""
    bounds = num_stored * np.arange(num + 1) // num
    lengths = np.diff(bounds)
    if not training:
        return np.tile(bounds[:-1] + lengths // 2, (len(rows), 1))
    return bounds[:-1] + (_draws(Purpose.FRAMES, num, rows, seed, epoch) * lengths).astype(np.int64)


def _draws(purpose: Purpose, num: int, rows: Rows, seed: int, epoch: int) -> Uniforms:
    # (B, num) in [0, 1)
    return np.stack(
        [uniform(hashes(key_of(seed, epoch, purpose, i), rows)) for i in range(num)], axis=1
    )


def _flips(config: EncoderConfig, rows: Rows, seed: int, epoch: int) -> npt.NDArray[np.bool_]:
    return (_draws(Purpose.FLIP, 1, rows, seed, epoch)[:, 0] < 0.5) & config.flip


def _crop(x: Tensor, config: EncoderConfig, rows: Rows, seed: int, epoch: int) -> Tensor:
    """A box per row, the same for all its frames, of random area, ratio and place, mirrored where the row is flipped, resized to the whole picture."""
    area, ratio, left, top = _draws(Purpose.CROP, 4, rows, seed, epoch).T
    area = config.crop_area + (1 - config.crop_area) * area
    # in shares of width by shares of height
    aspect = np.exp((2 * ratio - 1) * LOG_RATIO) * x.shape[-2] / x.shape[-1]
    width, height = np.minimum(np.sqrt(area * aspect), 1), np.minimum(np.sqrt(area / aspect), 1)
    mirror = np.where(_flips(config, rows, seed, epoch), -1, 1)
    # in the sampler's coordinates a picture runs from -1 to 1: a box has its centre at (2 start + size - 1) and half the size of its share
    grid_x = _axis(x, -1, width * mirror, (1 - width) * (2 * left - 1))[:, None, :].expand(
        -1, x.shape[-2], -1
    )
    grid_y = _axis(x, -2, height, (1 - height) * (2 * top - 1))[:, :, None].expand(
        -1, -1, x.shape[-1]
    )
    planes = x.flatten(1, -3)  # (B, T * C, H, W)
    return F.grid_sample(
        planes,
        torch.stack([grid_x, grid_y], dim=-1),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    ).reshape(x.shape)


def _axis(x: Tensor, dim: int, scale: Uniforms, centre: Uniforms) -> Tensor:
    """(B, size): where along an axis each output pixel looks; elementwise on the CPU, so that the batch's size cannot change its rounding."""
    size = x.shape[dim]
    pixels = (2 * np.arange(size) + 1) / size - 1
    return torch.from_numpy((pixels * scale[:, None] + centre[:, None]).astype(np.float32)).to(
        x.device
    )


def _normalize(
    x: Tensor, facts: Mapping[str, Sequence[float]], config: EncoderConfig, *, scale: float
) -> Tensor:
    if config.normalize == "none":
        return x / scale
    pictures = x.ndim >= 4
    if config.normalize == "imagenet" and scale != 1 and pictures and x.shape[-3] == 3:
        mean, std = scale * x.new_tensor(IMAGENET_MEAN), scale * x.new_tensor(IMAGENET_STD)
    else:
        mean, std = x.new_tensor(facts["mean"]), x.new_tensor(facts["std"]).clamp_min(1e-6)
    shape = (-1, 1, 1) if pictures else (-1, *[1] * (x.ndim - 2))
    return (x - mean.view(shape)) / std.view(shape)
