"""Augmentation: per-row random draws, frames, crops, flips and normalisation."""

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.data.augment import frame_indices, prepare
from trainer.models.encoder_config import EncoderConfig

FACTS = {"mean": [100.0, 120.0, 140.0], "std": [50.0, 60.0, 70.0]}
RAW = EncoderConfig(normalize="none")


def pictures(num: int, *shape: int) -> Tensor:
    return torch.randint(256, (num, *shape), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )


def rows(num: int) -> np.ndarray:
    return np.arange(num, dtype=np.int64) * 7 + 3


@pytest.mark.parametrize("shape", [(3, 12, 16), (6, 3, 12, 16)])
@pytest.mark.parametrize("crop", [False, True])
def test_augmentation_of_a_row_does_not_depend_on_its_batch(
    shape: tuple[int, ...], crop: bool
) -> None:
    config = EncoderConfig(crop=crop, flip=True, frames=3)
    batch, numbers = pictures(13, *shape), rows(13)
    torch.manual_seed(1)
    whole = prepare(batch, FACTS, config, numbers, seed=5, epoch=2, training=True)
    torch.manual_seed(2)
    parts = [
        prepare(batch[s], FACTS, config, numbers[s], seed=5, epoch=2, training=True)
        for s in (slice(0, 1), slice(1, 1), slice(1, 8), slice(8, 13))
    ]
    assert torch.equal(whole, torch.cat(parts))
    order = np.random.default_rng(0).permutation(13)
    assert torch.equal(
        whole[order],
        prepare(batch[order], FACTS, config, numbers[order], seed=5, epoch=2, training=True),
    )


@pytest.mark.parametrize(
    "config", [EncoderConfig(crop=True), EncoderConfig(flip=True), EncoderConfig(frames=2)]
)
def test_draws_differ_by_row_epoch_and_seed_and_stop_in_evaluation(config: EncoderConfig) -> None:
    batch = pictures(1, 8, 3, 12, 12).expand(32, -1, -1, -1, -1)

    def run(seed: int, epoch: int, training: bool) -> Tensor:
        return prepare(batch, FACTS, config, rows(32), seed=seed, epoch=epoch, training=training)

    assert torch.equal(run(0, 0, True), run(0, 0, True))
    assert not torch.equal(run(0, 0, True), run(0, 1, True))
    assert not torch.equal(run(0, 0, True), run(1, 0, True))
    assert len({x.numpy().tobytes() for x in run(0, 0, True)}) > 1
    assert torch.equal(run(0, 0, False), run(1, 1, False))
    assert len({x.numpy().tobytes() for x in run(0, 0, False)}) == 1


def test_a_flip_is_a_mirror_and_half_of_the_rows_get_one() -> None:
    batch = pictures(400, 3, 4, 6)
    out = (
        prepare(
            batch,
            FACTS,
            EncoderConfig(flip=True, normalize="none"),
            rows(400),
            seed=0,
            epoch=0,
            training=True,
        )
        * 255
    )
    straight = (out.round() == batch).flatten(1).all(1)
    mirrored = (out.round() == batch.flip(-1)).flatten(1).all(1)
    assert torch.equal(straight, ~mirrored)
    assert 150 < int(mirrored.sum()) < 250


def boxes(height: int, width: int, flip: bool, area: float = 0.08) -> tuple[Tensor, Tensor]:
    """First and last pixel coordinate (N,) that a row's crop reads, along x and y.

    Uses images of ramps.
    """
    x = torch.arange(width).expand(height, width)
    y = torch.arange(height)[:, None].expand(height, width)
    batch = torch.stack([x, y]).to(torch.uint8).expand(300, -1, -1, -1)
    config = EncoderConfig(crop=True, flip=flip, crop_area=area, normalize="none")
    out = prepare(batch, FACTS, config, rows(300), seed=0, epoch=0, training=True) * 255
    ends = torch.stack([out[:, 0, 0, [0, -1]], out[:, 1, [0, -1], 0]])  # (2, N, 2)
    return ends[..., 0], ends[..., 1]


def test_crops_are_boxes_inside_the_picture_of_the_recipe_s_areas_and_ratios() -> None:
    size = (64, 96)
    first, last = boxes(*size, flip=False)
    assert (
        (first >= 0).all()
        and (last[0] <= size[1] - 1).all()
        and (last[1] <= size[0] - 1).all()
        and (last > first).all()
    )
    inside = ((first > 0.5) & (last < torch.tensor([[size[1]], [size[0]]]) - 1.5)).all(
        0
    )  # the border clamps what the ramps show of the others
    width, height = ((last - first)[:, inside] * torch.tensor([[96 / 95], [64 / 63]])).unbind()
    share = width * height / (size[0] * size[1])
    assert inside.sum() > 100 and 0.07 < share.min() < 0.15 and share.max() > 0.5
    assert 0.70 < (width / height).min() < 0.80 and 1.25 < (width / height).max() < 1.40


def test_a_flipped_crop_reads_the_same_box_backwards() -> None:
    (first, last), (first_flipped, last_flipped) = (
        boxes(32, 32, flip=False),
        boxes(32, 32, flip=True),
    )
    backwards = first_flipped[0] > last_flipped[0]
    assert 100 < int(backwards.sum()) < 200
    torch.testing.assert_close(
        torch.where(backwards, last_flipped[0], first_flipped[0]), first[0], rtol=0, atol=1e-3
    )
    torch.testing.assert_close(
        torch.where(backwards, first_flipped[0], last_flipped[0]), last[0], rtol=0, atol=1e-3
    )
    torch.testing.assert_close(first_flipped[1], first[1])


def test_a_crop_of_the_whole_area_is_cut_by_its_ratio_alone() -> None:
    first, last = boxes(16, 16, flip=False, area=1.0)
    extent = (last - first) * 16 / 15
    assert (extent > 16 * 0.75**0.5 - 1).all() and (extent.max(0).values > 14.9).all()


def test_frames_of_a_row_share_one_box() -> None:
    batch = pictures(5, 1, 3, 16, 16).expand(-1, 4, -1, -1, -1)
    out = prepare(
        batch, FACTS, EncoderConfig(crop=True, flip=True), rows(5), seed=0, epoch=0, training=True
    )
    assert all(torch.equal(out[:, 0], out[:, t]) for t in range(4))


@pytest.mark.parametrize("stored", range(1, 12))
def test_one_frame_comes_from_each_equal_segment(stored: int) -> None:
    for num in range(1, stored + 1):
        bounds = stored * np.arange(num + 1) // num
        drawn = frame_indices(stored, num, rows(200), 0, 0, training=True)
        assert ((drawn >= bounds[:-1]) & (drawn < bounds[1:])).all()
        assert all(set(drawn[:, i]) == set(range(bounds[i], bounds[i + 1])) for i in range(num))
        central = frame_indices(stored, num, rows(3), 0, 0, training=False)
        assert (central == central[0]).all() and (
            abs(2 * central[0] + 1 - bounds[:-1] - bounds[1:]) <= 1
        ).all()


def test_chosen_frames_are_the_stored_ones() -> None:
    batch = pictures(9, 8, 3, 4, 4)
    out = prepare(
        batch, FACTS, RAW.model_copy(update={"frames": 3}), rows(9), seed=1, epoch=4, training=True
    )
    chosen = frame_indices(8, 3, rows(9), 1, 4, training=True)
    expected = torch.stack([torch.stack([batch[b, t] for t in chosen[b]]) for b in range(9)])
    assert torch.equal((out * 255).round().to(torch.uint8), expected)


def test_images_are_normalised_by_mean_and_std() -> None:
    batch = pictures(3, 2, 3, 5, 5)

    def run(normalize: str) -> Tensor:
        config = EncoderConfig.model_validate({"normalize": normalize})
        return prepare(batch, FACTS, config, rows(3), seed=0, epoch=0, training=True)

    def channels(values: list[float]) -> Tensor:
        return torch.tensor(values).view(3, 1, 1)

    assert run("none").dtype == torch.float32
    torch.testing.assert_close(run("none"), batch / 255)
    torch.testing.assert_close(
        run("dataset"), (batch - channels(FACTS["mean"])) / channels(FACTS["std"])
    )
    torch.testing.assert_close(
        run("imagenet"),
        (batch / 255 - channels([0.485, 0.456, 0.406])) / channels([0.229, 0.224, 0.225]),
    )


@pytest.mark.parametrize(("shape", "axis"), [((1, 6, 7), -3), ((5,), 1), ((5, 2), 1)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_rows_that_are_not_images_are_only_normalised(
    shape: tuple[int, ...], axis: int, dtype: torch.dtype
) -> None:
    batch = torch.randn(4, *shape).to(dtype)
    num = batch.shape[axis]
    facts = {"mean": [float(i) for i in range(num)], "std": [0.0 if i else 2.0 for i in range(num)]}
    config = EncoderConfig(crop=True, flip=True, normalize="imagenet")
    out = prepare(batch, facts, config, rows(4), seed=0, epoch=0, training=True)
    moved = batch.float().movedim(axis, 0)
    assert out.dtype == torch.float32 and out.isfinite().all()
    torch.testing.assert_close(out.movedim(axis, 0)[0], moved[0] / 2)
