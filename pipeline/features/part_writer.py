"""Writes the parts of a feature set row by row."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipeline.arrays import Array
from pipeline.storage.atomic_files import HashingFile

BATCH_ROWS = 64


def part_name(index: int) -> str:
    """File name of the part with the samples of shard number `index`."""
    return f"part-{index:05d}.arrow"


class PartWriter:
    """Streams rows of one modality into a part, an Arrow IPC file with one tensor column."""

    def __init__(
        self, file: HashingFile, shape: Sequence[int], dtype: str, batch_rows: int = BATCH_ROWS
    ) -> None:
        self._type = pa.fixed_shape_tensor(pa.from_numpy_dtype(np.dtype(dtype)), list(shape))
        self._batch: Array = np.zeros((batch_rows, *shape), dtype)
        self._filled = 0
        self._writer = pa.ipc.new_file(file, pa.schema([("feature", self._type)]))

    def append(self, row: Array | None) -> None:
        """Add one row; None, for a sample that lacks the modality, is stored as zeros."""
        self._batch[self._filled] = 0 if row is None else row
        self._filled += 1
        if self._filled == len(self._batch):
            self._flush()

    def close(self) -> None:
        """Write the remaining rows as a smaller record batch, and the footer."""
        if self._filled:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        values = pa.array(self._batch[: self._filled].reshape(-1))
        storage = pa.FixedSizeListArray.from_arrays(values, int(np.prod(self._type.shape)))
        self._writer.write_batch(
            pa.record_batch({"feature": pa.ExtensionArray.from_storage(self._type, storage)})
        )
        self._filled = 0
