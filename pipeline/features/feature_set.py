"""Feature sets: immutable tables in parts of fixed-size record batches, read by row number.

Row i is the same sample in every modality. Its part follows from the row counts in the manifest,
its record batch from a division. A sample that lacks a modality has zeros there, and
`has_<modality>` is false.
"""

import math
import os
from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.arrays import Array, BoolArray, Int32Array, Int64Array
from pipeline.errors import MissingError
from pipeline.features.manifest import check_manifest, check_samples
from pipeline.features.part_file import Expected
from pipeline.features.part_reader import PartReader
from pipeline.features.part_writer import part_name
from pipeline.features.sample_columns import SampleColumns, read_columns, read_ids
from pipeline.storage.arrow_files import read_table
from pipeline.storage.node_cache import NodeCache, RemoteFile
from pipeline.storage.schemas import SPLITS
from pipeline.storage.store_path import MANIFEST, StorePath
from pipeline.store_names import path_of

if TYPE_CHECKING:
    import pandas

    from pipeline.features.dataset import FeatureDataset

SAMPLES = "samples.arrow"
_TRUSTED: set[tuple[object, ...]] = set()
"""Versions of samples.arrow that this process has validated."""


class FeatureSet:
    """A finished feature set: its manifest, its samples, and the rows of each modality as arrays.

    Args:
        path: the folder of the feature set.
        manifest: the content of its manifest.json, validated.
        cache: caches the parts of a remote feature set on this node; not used for a local one.

    Example:
        features = remix.FeatureSet.open("store/features/clips")
        frames = features.read("video", features.rows_of("train")[:8])  # (8, T, 3, H, W) uint8
        loader = DataLoader(features.as_dataset(), batch_size=64, num_workers=4)
    """

    encoded: frozenset[str] = frozenset()
    """Modalities whose rows are read as features of their encoders."""

    def __init__(
        self, path: StorePath, manifest: dict[str, Any], cache: NodeCache | None = None
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.modalities: list[str] = list(manifest["modalities"])
        self.classes: list[str] = manifest["classes"]
        self.fingerprint: str = manifest["fingerprint"]
        self.num_rows: int = manifest["num_rows"]
        num_rows = np.array([part["rows"] for part in manifest["parts"]], np.int64)
        # shape, dtype and size in bytes of a row
        self._rows = {
            name: (
                self.shape(name),
                self.dtype(name),
                math.prod(self.shape(name)) * self.dtype(name).itemsize,
            )
            for name in self.modalities
        }
        self.cache = None if path.local else cache
        self._parts = PartReader(
            partial(_file_of, path, manifest["parts"]),
            partial(_expected, manifest),
            self.modalities,
            num_rows,
            manifest["batch_rows"],
            local=path.local is not None,
            cache=self.cache,
        )

    @classmethod
    def open(
        cls, path: "str | os.PathLike[str] | StorePath", cache: NodeCache | None = None
    ) -> "FeatureSet":
        """Open STORE/features/NAME and validate its manifest.

        Args:
            path: its folder, a path or URI; or its name in the store, REMIX_STORE or ./store.
            cache: caches the parts of a remote feature set on this node.

        Samples and parts are validated when they are first read.
        Raises MissingError, DataError, StoreError.
        """
        store_path = StorePath.at(path_of(path, "features"))
        if not (store_path / MANIFEST).exists():
            raise MissingError(
                f"No finished feature set in {store_path}",
                f"run `remix decode SHARDS --out {store_path}` until it finishes",
            )
        manifest = (store_path / MANIFEST).read_json()
        check_manifest(manifest, str(store_path / MANIFEST))
        return cls(store_path, manifest, cache)

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureSet, (self.path, self.manifest, self.cache)

    @cached_property
    def samples(self) -> pa.Table:
        """samples.arrow, one row per sample; each process validates it only once.

        Raises MissingError, DataError, StoreError.
        """
        path = self.path / SAMPLES
        info = path.info()
        version = (str(path), info.size, info.mtime_ns, self.fingerprint)
        trusted = version in _TRUSTED and info.mtime_ns is not None
        table = read_table(path, trusted=trusted)
        if not trusted:
            check_samples(table, self.manifest, str(path))
            _TRUSTED.add(version)
        return table

    @cached_property
    def _columns(self) -> SampleColumns:
        return read_columns(self.path / SAMPLES, self.manifest)

    @cached_property
    def labels(self) -> Int32Array:
        """(N,) int32: index into `classes`. Like `has`, read without the other columns."""
        return self._columns.labels

    @cached_property
    def has(self) -> BoolArray:
        """(N, K) bool: whether each sample has each modality, in the order of `modalities`."""
        return self._columns.has

    def rows_of(self, split: str) -> Int64Array:
        """Rows of a split, (n,) int64, ascending."""
        number = SPLITS.index(split) if split in SPLITS else -1
        return np.flatnonzero(self._columns.splits == number).astype(np.int64, copy=False)

    def ids_of(self, rows: Array) -> pa.Array:
        """Sample ids of rows (n,), read from the store at each call.

        Raises MissingError, DataError, StoreError.
        """
        return read_ids(self.path / SAMPLES, rows)

    def shape(self, modality: str) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(self.manifest["modalities"][modality]["shape"])

    def dtype(self, modality: str) -> np.dtype[Any]:
        """Element type of a modality."""
        dtype: np.dtype[Any] = np.dtype(self.manifest["modalities"][modality]["dtype"])
        return dtype

    def read(self, modality: str, rows: Array | Sequence[int], out: Array | None = None) -> Array:
        """Gather rows of one modality.

        Args:
            modality: name of the modality.
            rows: (B,) row numbers, any order, repeats allowed.
            out: (B, *shape) array to fill; allocated if None.
        Returns:
            (B, *shape) in the stored dtype, a copy.
        Raises:
            IndexError: a row does not exist.
            DataError: a part is damaged; the message names the file. MissingError, StoreError.
        """
        shape, dtype, row_bytes = self._rows[modality]
        rows = np.asarray(rows, np.int64)
        if not len(rows):
            return np.empty((0, *shape), dtype) if out is None else out
        gathered: Array = self._parts.read(modality, rows, row_bytes).view(dtype)
        gathered = gathered.reshape(len(rows), *shape)
        if out is None:
            return gathered
        out[:] = gathered
        return out

    def to_pandas(self) -> "pandas.DataFrame":
        """The samples as a data frame: row, sample_id, label, split and has_<modality>."""
        return self.samples.to_pandas()

    def as_dataset(self) -> "FeatureDataset":
        """A map-style dataset of PyTorch, whose item i is row i, a dictionary.

        It has a tensor per modality, as stored (zeros if the sample lacks it), `label`, `row` and
        `sample_id`. An item (row, modality), as PlanBatchSampler yields with `with_modality`, also
        has `modality`; unless that is "all", other modalities are zeros and are not read.

        Raises InputError if a modality has the name of another entry.
        """
        from pipeline.features.dataset import FeatureDataset

        return FeatureDataset(self)

    def file_of(self, modality: str, part: int) -> RemoteFile:
        """The file of a part; `part` is its position in the manifest."""
        return _file_of(self.path, self.manifest["parts"], modality, part)

    def parts_of(self, rows: Array) -> list[int]:
        """Positions in the manifest of the parts that contain any of the rows, ascending."""
        parts: list[int] = np.unique(self._parts.parts_of(rows)).tolist()
        return parts

    def fetch(self, modality: str, part: int) -> bool:
        """Download a part into the cache; returns False without a cache or if it has no space.

        Raises DataError, MissingError, StoreError.
        """
        return self.cache is not None and self.cache.fetch(self.file_of(modality, part))


def _file_of(
    path: StorePath, parts: Sequence[dict[str, Any]], modality: str, part: int
) -> RemoteFile:
    entry = parts[part].get("files", {}).get(modality, {"sha256": None, "bytes": 0})
    return RemoteFile(
        path=path / modality / part_name(parts[part]["index"]),
        sha256=entry["sha256"],
        num_bytes=entry["bytes"],
    )


def _expected(manifest: dict[str, Any], modality: str, part: int) -> Expected:
    table = manifest["modalities"][modality]
    return Expected(
        num_rows=manifest["parts"][part]["rows"],
        batch_rows=manifest["batch_rows"],
        type=pa.fixed_shape_tensor(pa.from_numpy_dtype(np.dtype(table["dtype"])), table["shape"]),
        num_bytes=manifest["parts"][part].get("files", {}).get(modality, {"bytes": 0})["bytes"],
    )
