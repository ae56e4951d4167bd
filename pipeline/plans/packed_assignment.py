"""The assignment of all rows, packed: log2 of the number of modalities in bits per row."""

import numpy as np

from pipeline.arrays import Int8Array, UInt8Array


class PackedAssignment:
    """The index of each row's modality, as one bit per row and binary digit.

    Args:
        num_rows: Number of rows.
        num_names: Number of modalities; indices are below it.
    """

    def __init__(self, num_rows: int, num_names: int) -> None:
        digits = (num_names - 1).bit_length()
        self._planes: UInt8Array = np.zeros((digits, -(-num_rows // 8)), np.uint8)
        self.counts = np.zeros(num_names, np.int64)
        """(K,) number of rows of each modality."""

    def write(self, start: int, assignment: Int8Array) -> None:
        """Store the indices (n,) of the rows from `start` on, a multiple of 8. Once per row."""
        self.counts += [np.count_nonzero(assignment == k) for k in range(len(self.counts))]
        for digit, plane in enumerate(self._planes):
            packed = np.packbits(assignment & (1 << digit))
            plane[start // 8 : start // 8 + len(packed)] = packed

    def read(self, start: int, stop: int) -> UInt8Array:
        """The indices of some rows (stop - start,)."""
        first, out = start // 8, np.zeros(stop - start, np.uint8)
        for digit, plane in enumerate(self._planes):
            bits = np.unpackbits(plane[first : -(-stop // 8)])[start - 8 * first :]
            out |= bits[: len(out)] << digit
        return out
