"""Columns of samples.arrow that training needs, read without the others."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.arrays import Array, BoolArray, Int8Array, Int32Array
from pipeline.errors import DataError
from pipeline.features.manifest import check_rows
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.schemas import SPLITS, samples_schema
from pipeline.storage.store_path import StorePath


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleColumns:
    """Labels (N,), positions of the splits in SPLITS (N,), and presence (N, K)."""

    labels: Int32Array
    splits: Int8Array
    has: BoolArray


def read_columns(path: StorePath, manifest: dict[str, Any]) -> SampleColumns:
    """Read labels, splits and presence, and check their values.

    The other columns, and so the fingerprint, are not checked. Raises MissingError, DataError,
    StoreError.
    """
    modalities, num = list(manifest["modalities"]), manifest["num_rows"]
    file = BatchFile(path, samples_schema(modalities))
    columns = SampleColumns(
        labels=np.empty(num, np.int32),
        splits=np.empty(num, np.int8),
        has=np.empty((num, len(modalities)), bool),
    )
    start = 0
    for batch in file.batches(["label", "split", *(f"has_{name}" for name in modalities)]):
        end = start + batch.num_rows
        if end > num:
            break
        check_rows(batch, start, len(manifest["classes"]), file.what)
        columns.labels[start:end] = batch["label"]
        columns.splits[start:end] = pc.index_in(batch["split"], pa.array(SPLITS))
        for k, name in enumerate(modalities):
            columns.has[start:end, k] = batch[f"has_{name}"]
        start = end
    if start != num or end > num:
        raise DataError(
            f"{file.what} has other than the {num} rows that its manifest records", "decode again"
        )
    return columns


def read_ids(path: StorePath, rows: Array) -> pa.Array:
    """Sample ids of rows (n,), any order, in the memory of one record batch and the result.

    Raises MissingError, DataError, StoreError.
    """
    order = np.argsort(rows, kind="stable")
    ascending, start = rows[order], 0
    pieces = [pa.array([], pa.string())]
    for batch in BatchFile(path).batches(["sample_id"]):
        first, last = np.searchsorted(ascending, [start, start + batch.num_rows])
        pieces.append(batch["sample_id"].take(pa.array(ascending[first:last] - start)))
        start += batch.num_rows
    return pa.concat_arrays(pieces).take(pa.array(np.argsort(order)))
