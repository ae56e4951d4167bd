"""Mean and standard deviation per channel, from sums that can be merged across shards."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Array
from pipeline.decode.media.shapes import channel_axis, is_ids


@dataclass(kw_only=True, slots=True)
class Moments:
    """Per-channel sums over the training rows of a modality; token ids have no channels.

    `num_present` counts the rows of all splits that have the modality, `num_values` the values per
    channel that were added.
    """

    num_present: int
    num_values: int
    total: list[float]
    squares: list[float]

    @classmethod
    def of(cls, shape: tuple[int, ...], dtype: str) -> "Moments":
        """Return sums over no rows, for rows of this shape and dtype."""
        channels = 0 if is_ids(shape, dtype) else shape[channel_axis(shape)] if shape else 1
        return cls(num_present=0, num_values=0, total=[0.0] * channels, squares=[0.0] * channels)

    def add(self, array: Array, is_training: bool) -> None:
        """Add a row; only training rows contribute to the sums."""
        self.num_present += 1
        if not is_training or not self.total:
            return
        by_channel = np.moveaxis(array, channel_axis(array.shape), 0).reshape(len(self.total), -1)
        self.num_values += by_channel.shape[1]
        for i, values in enumerate(by_channel):
            exact = values.astype(np.float64)
            self.total[i] += float(exact.sum())
            self.squares[i] += float(np.square(exact).sum())

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            num_present=self.num_present + other.num_present,
            num_values=self.num_values + other.num_values,
            total=[a + b for a, b in zip(self.total, other.total, strict=True)],
            squares=[a + b for a, b in zip(self.squares, other.squares, strict=True)],
        )

    def summary(self) -> Mapping[str, list[float]]:
        """Mean and standard deviation per channel; 0 and 1 if no training row has the modality."""
        if not self.num_values:
            return {"mean": [0.0] * len(self.total), "std": [1.0] * len(self.total)}
        mean = [total / self.num_values for total in self.total]
        spread = [
            max(0.0, square / self.num_values - m * m) ** 0.5
            for square, m in zip(self.squares, mean, strict=True)
        ]
        return {"mean": mean, "std": spread}
