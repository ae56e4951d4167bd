"""Augmentation of spectrograms: bands that are masked, and shifts in time."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.data.augment import prepare
from trainer.models.encoder_config import EncoderConfig

ROWS = np.arange(200, dtype=np.int64) * 7 + 3
BINS, WINDOWS = 20, 30
MOMENTS = {"mean": [1.0], "std": [2.0]}


def augmented(batch: Tensor, rows: np.ndarray = ROWS, **config: Any) -> Tensor:
    encoder = EncoderConfig(**{"normalize": "none", **config})
    return prepare(batch, MOMENTS, encoder, rows, seed=5, epoch=2, training=True)


def noise(num: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(num, 1, BINS, WINDOWS, generator=generator) + 1


@pytest.mark.parametrize(
    "config",
    [{"frequency_mask": 0.4}, {"time_mask": 0.4}, {"time_shift": 0.4}],
    ids=lambda config: next(iter(config)),
)
def test_draws_of_a_row_depend_on_nothing_but_seed_epoch_and_row(config: dict[str, float]) -> None:
    batch = noise(200)
    torch.manual_seed(1)
    expected = augmented(batch, **config)
    order = np.random.default_rng(0).permutation(200)
    torch.manual_seed(2)
    parts = [augmented(batch[part], ROWS[part], **config) for part in np.split(order, [3, 50])]
    assert torch.equal(torch.cat(parts), expected[order])
    encoder = EncoderConfig(normalize="none", **config)
    for seed, epoch in ((6, 2), (5, 3)):
        other = prepare(batch, MOMENTS, encoder, ROWS, seed=seed, epoch=epoch, training=True)
        assert not torch.equal(other, expected)
    evaluated = prepare(batch, MOMENTS, encoder, ROWS, seed=5, epoch=2, training=False)
    assert torch.equal(evaluated, batch)


@pytest.mark.parametrize(("field", "dim"), [("frequency_mask", 1), ("time_mask", 0)])
def test_a_mask_is_one_band_of_any_length_up_to_its_share(field: str, dim: int) -> None:
    batch = noise(200)
    out = augmented(batch, **{field: 0.4})
    masked = (out[:, 0] == 0).all(dim=dim + 1)  # (N, size)
    size = masked.shape[1]
    kept = (~masked)[:, None, :, None] if dim else (~masked)[:, None, None, :]
    assert torch.equal(out, batch * kept)
    lengths = masked.sum(1)
    assert set(lengths.tolist()) == set(range(int(0.4 * size) + 1))
    edges = torch.diff(torch.nn.functional.pad(masked.int(), (1, 1)), dim=1)
    assert torch.equal((edges == 1).sum(1), (lengths > 0).int())
    assert masked.any(0).all()


def test_a_mask_is_the_mean_of_the_training_rows() -> None:
    out = augmented(noise(200), frequency_mask=1.0, normalize="dataset")
    expected = (noise(200) - 1) / 2
    assert torch.equal(out[out != 0], expected[out != 0])
    assert (out == 0).any()


def test_a_shift_goes_forward_and_back_and_loses_nothing() -> None:
    batch = torch.arange(WINDOWS).float().expand(200, 1, BINS, WINDOWS)
    out = augmented(batch, time_shift=0.2)
    shifts = [int(row[0, 0, 0]) for row in out]
    assert set(shifts) == {*range(7), *range(WINDOWS - 6, WINDOWS)}
    for shift, row in zip(shifts, out, strict=True):
        assert torch.equal(row, batch[0].roll(-shift, dims=-1))


def test_other_rows_are_left_alone() -> None:
    config = {"frequency_mask": 1.0, "time_mask": 1.0, "time_shift": 1.0}
    picture = (noise(200) * 100).to(torch.uint8)
    assert torch.equal(augmented(picture, **config), picture.float() / 255)
    vectors = noise(200).flatten(1)
    assert torch.equal(augmented(vectors, **config), vectors)
