"""A table whose columns are computed slice by slice, and are never in memory as a whole."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from pipeline.arrays import Array


@dataclass(frozen=True, slots=True)
class GeneratedTable:
    """What planning reads of a `pa.Table`, with columns computed by functions.

    Args:
        num_rows: Number of rows.
        columns: By name, a function of two positions that returns the values between them.
        start: Position of the first row, as the functions count.
    """

    num_rows: int
    columns: Mapping[str, Callable[[int, int], Array]]
    start: int = 0

    @property
    def column_names(self) -> list[str]:
        """Names of the columns."""
        return list(self.columns)

    def slice(self, offset: int, length: int) -> "GeneratedTable":
        """At most `length` rows from `offset` on."""
        num_rows = max(0, min(length, self.num_rows - offset))
        return GeneratedTable(num_rows, self.columns, self.start + offset)

    def column(self, name: str) -> pa.ChunkedArray:
        """Compute a column."""
        values = self.columns[name](self.start, self.start + self.num_rows)
        return pa.chunked_array([pa.array(values)])
