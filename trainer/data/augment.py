"""Normalisation and augmentation of a batch of stored rows, on the batch's device.

Random draws for a row are a hash of (seed, epoch, row), independent of batch, rank and world size.
The transforms of torchvision and torchaudio cannot do that: they draw from a global generator.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.arrays import BoolArray, Float64Array, Int64Array
from pipeline.counter_rng import Purpose, hashes, key_of, uniform
from trainer.models.encoder_config import EncoderConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LOG_RATIO = float(np.log(4 / 3))
"""A crop's aspect ratio is between 3/4 and 4/3."""


def prepare(
    batch: Tensor,
    moments: Mapping[str, Sequence[float]],
    config: EncoderConfig,
    rows: Int64Array,
    *,
    seed: int,
    epoch: int,
    training: bool,
) -> Tensor:
    """Normalise stored rows (B, ...) to float32 and, in training, augment them.

    Images are cropped and flipped, spectrograms (B, C, F, T) are shifted and masked. Frames
    (B, T, C, H, W) become (B, config.frames, C, H, W). Modalities share a row's draws, so
    that two cameras are cropped alike.

    Args:
        moments: `mean` and `std` in stored units, one number per channel: axis -3 of images,
            spectrograms and frames, the first axis of other rows.
        rows: (B,) row numbers, which determine the random draws.
    """
    if batch.ndim == 5 and config.frames is not None:
        indices = frame_indices(batch.shape[1], config.frames, rows, seed, epoch, training=training)
        batch = batch[
            torch.arange(len(batch), device=batch.device)[:, None],
            torch.from_numpy(indices).to(batch.device),
        ]
    is_image = batch.dtype == torch.uint8 and batch.ndim >= 4
    x = batch.float()
    if training and is_image and config.crop:
        x = _crop(x, config, rows, seed, epoch)
    elif training and is_image and config.flip:
        flipped = torch.from_numpy(_flips(config, rows, seed, epoch)).to(x.device)
        x = torch.where(flipped.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)
    x = _normalize(x, moments, config, scale=255.0 if batch.dtype == torch.uint8 else 1.0)
    if training and x.ndim == 4 and not is_image:
        x = _augment_spectrogram(x, config, rows, seed, epoch)
    return x


def is_augmented(config: EncoderConfig, shape: Sequence[int], dtype: str) -> bool:
    """Whether rows of a shape and dtype may differ between epochs of training."""
    if len(shape) == 4 and config.frames is not None and config.frames < shape[0]:
        return True
    if dtype == "uint8" and len(shape) >= 3:
        return config.crop or config.flip
    masks = (config.frequency_mask, config.time_mask, config.time_shift)
    return len(shape) == 3 and any(masks)


def frame_indices(
    num_stored: int, num: int, rows: Int64Array, seed: int, epoch: int, *, training: bool
) -> Int64Array:
    """Choose one stored frame per equal segment, (B, num): random in training, else central."""
    bounds = num_stored * np.arange(num + 1) // num
    lengths = np.diff(bounds)
    if not training:
        return np.tile(bounds[:-1] + lengths // 2, (len(rows), 1))
    return bounds[:-1] + (_draws(Purpose.FRAMES, num, rows, seed, epoch) * lengths).astype(np.int64)


def _draws(purpose: Purpose, num: int, rows: Int64Array, seed: int, epoch: int) -> Float64Array:
    # (B, num) in [0, 1)
    return np.stack(
        [uniform(hashes(key_of(seed, epoch, purpose, i), rows)) for i in range(num)], axis=1
    )


def _flips(config: EncoderConfig, rows: Int64Array, seed: int, epoch: int) -> BoolArray:
    return (_draws(Purpose.FLIP, 1, rows, seed, epoch)[:, 0] < 0.5) & config.flip


def _crop(x: Tensor, config: EncoderConfig, rows: Int64Array, seed: int, epoch: int) -> Tensor:
    """Crop, flip and resize: one random box per row, the same for all its frames."""
    area, ratio, left, top = _draws(Purpose.CROP, 4, rows, seed, epoch).T
    area = config.crop_area + (1 - config.crop_area) * area
    # aspect ratio in relative units: share of the width / share of the height
    aspect = np.exp((2 * ratio - 1) * LOG_RATIO) * x.shape[-2] / x.shape[-1]
    width, height = np.minimum(np.sqrt(area * aspect), 1), np.minimum(np.sqrt(area / aspect), 1)
    mirror = np.where(_flips(config, rows, seed, epoch), -1, 1)
    # grid_sample's coordinates run from -1 to 1: a box is centred at (2 start + size - 1), and its
    # half-width is its share
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


def _augment_spectrogram(
    x: Tensor, config: EncoderConfig, rows: Int64Array, seed: int, epoch: int
) -> Tensor:
    """Shift in time, with wrap-around, then mask a band of frequencies and one of windows with 0.

    0 is the mean of the training rows, unless config.normalize is none.
    """
    if config.time_shift:
        share = (2 * _draws(Purpose.TIME_SHIFT, 1, rows, seed, epoch) - 1) * config.time_shift
        shift = np.rint(share * x.shape[-1]).astype(np.int64)  # (B, 1)
        source = torch.from_numpy((np.arange(x.shape[-1]) - shift) % x.shape[-1]).to(x.device)
        x = x.gather(-1, source[:, None, None].expand_as(x))
    for purpose, largest, dim in (
        (Purpose.FREQUENCY_MASK, config.frequency_mask, -2),
        (Purpose.TIME_MASK, config.time_mask, -1),
    ):
        if largest:
            length, place = _draws(purpose, 2, rows, seed, epoch).T
            length = np.floor(length * (largest * x.shape[dim] + 1))
            start = np.floor(place * (x.shape[dim] - length + 1))
            at = np.arange(x.shape[dim])
            masked = (at >= start[:, None]) & (at < (start + length)[:, None])
            shape = (-1, 1, x.shape[-2], 1) if dim == -2 else (-1, 1, 1, x.shape[-1])
            x = x.masked_fill(torch.from_numpy(masked).to(x.device).view(shape), 0)
    return x


def _axis(x: Tensor, dim: int, scale: Float64Array, centre: Float64Array) -> Tensor:
    """Sampling positions along an axis, (B, size).

    Computed on the CPU so that rounding does not depend on the batch's size.
    """
    size = x.shape[dim]
    pixels = (2 * np.arange(size) + 1) / size - 1
    return torch.from_numpy((pixels * scale[:, None] + centre[:, None]).astype(np.float32)).to(
        x.device
    )


def _normalize(
    x: Tensor, moments: Mapping[str, Sequence[float]], config: EncoderConfig, *, scale: float
) -> Tensor:
    if config.normalize == "none":
        return x / scale
    is_image = x.ndim >= 4
    if config.normalize == "imagenet" and scale != 1 and is_image and x.shape[-3] == 3:
        mean, std = scale * x.new_tensor(IMAGENET_MEAN), scale * x.new_tensor(IMAGENET_STD)
    else:
        mean, std = x.new_tensor(moments["mean"]), x.new_tensor(moments["std"]).clamp_min(1e-6)
    shape = (-1, 1, 1) if is_image else (-1, *[1] * (x.ndim - 2))
    return (x - mean.view(shape)) / std.view(shape)
