"""Feature tables: parts of fixed-size record batches, written once, memory-mapped, and read by row.

Row i of every modality's parts is the same sample, so a row is found by arithmetic: its part from the manifest's counts,
its record batch by a division. A sample that lacks a modality has a row of zeros there and `has_<modality>` false.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache, partial
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import DataError, MissingError
from pipeline.features.manifest import check_manifest, check_samples
from pipeline.features.remote_parts import Expected, RemoteParts, open_file, read_batch
from pipeline.storage.ipc_reader import DAMAGED, BatchFile
from pipeline.storage.node_cache import PartCache, RemoteFile
from pipeline.storage.store_path import MANIFEST, HashingFile, Place

Array = npt.NDArray[Any]
BATCH_ROWS = 64
TABLE_ROWS = 2**16
"""Rows of a record batch of any other table: what a reader of one batch holds."""

_TRUSTED: set[tuple[object, ...]] = set()
"""Versions of samples.arrow that this process has checked."""


def part_name(index: int) -> str:
    """The file name of the part that holds the samples of the shard of this index."""
    return f"part-{index:05d}.arrow"


def read_table(place: Place, *, trusted: bool = True) -> pa.Table:
    """An Arrow IPC file as a table, memory-mapped where it is local and not compressed (raises MissingError, DataError, StoreError).

    Unless trusted it is checked in full: what it would take unpacked, before it is, and then every offset, name and string.
    """
    if not trusted:
        BatchFile(place).check_unpacked()
    reader = open_file(place)
    try:
        table = reader.read_all()
        if not trusted:
            # offsets that point out of their buffers would otherwise crash the process that follows them
            table.validate(full=True)
    except DAMAGED as error:
        raise DataError(f"{place} is damaged ({error})", "write the file again") from error
    return table


def write_table(place: Place, table: pa.Table) -> str:
    """Writes a table as an Arrow IPC file of record batches of at most TABLE_ROWS rows, atomically, and returns the file's SHA-256."""
    with place.create() as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=TABLE_ROWS)
    return file.hexdigest()


class PartWriter:
    """Streams rows of one modality into a part: `append` row by row, `close` writes the last, smaller record batch."""

    def __init__(
        self, file: HashingFile, shape: Sequence[int], dtype: str, batch_rows: int = BATCH_ROWS
    ) -> None:
        self._type = pa.fixed_shape_tensor(pa.from_numpy_dtype(np.dtype(dtype)), list(shape))
        self._batch: Array = np.zeros((batch_rows, *shape), dtype)
        self._filled = 0
        self._writer = pa.ipc.new_file(file, pa.schema([("feature", self._type)]))

    def append(self, row: Array | None) -> None:
        """Adds one row; None stands for a sample that lacks the modality."""
        self._batch[self._filled] = 0 if row is None else row
        self._filled += 1
        if self._filled == len(self._batch):
            self._flush()

    def close(self) -> None:
        """Writes what is left and the footer."""
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


class FeatureSet:
    """A finished feature set: the manifest, the samples, and the rows of each modality as arrays; parts of a remote one go through `cache`."""

    def __init__(
        self, place: Place, manifest: dict[str, Any], cache: PartCache | None = None
    ) -> None:
        self.place = place
        self.manifest = manifest
        self.modalities: list[str] = list(manifest["modalities"])
        self.classes: list[str] = manifest["classes"]
        self.fingerprint: str = manifest["fingerprint"]
        self.num_rows: int = manifest["num_rows"]
        self._ends = list(accumulate(part["rows"] for part in manifest["parts"]))
        self.cache = None if place.local else cache
        if place.local:  # maps of a local file cost nothing
            self._reader = lru_cache(maxsize=None)(self._open_part)
            self._batch: Callable[[str, int, int], Array] = lru_cache(maxsize=None)(self._map_batch)
        else:
            self._batch = RemoteParts(
                partial(_file_of, place, manifest["parts"]),
                partial(_expected, manifest),
                self.cache,
            ).batch

    @classmethod
    def open(cls, place: Place, cache: PartCache | None = None) -> "FeatureSet":
        """Opens a folder with a manifest, which is checked; samples and parts are when they are first read (raises MissingError, DataError, StoreError)."""
        if not (place / MANIFEST).exists():
            raise MissingError(
                f"{place} holds no finished feature set",
                f"run `remix decode SHARDS --out {place}` to the end",
            )
        manifest = (place / MANIFEST).read_json()
        check_manifest(manifest, str(place / MANIFEST))
        return cls(place, manifest, cache)

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureSet, (self.place, self.manifest, self.cache)

    @cached_property
    def samples(self) -> pa.Table:
        """samples.arrow, one row a sample, checked in full once a process (raises DataError)."""
        place = self.place / "samples.arrow"
        info = place.info()
        version = (str(place), info.size, info.mtime_ns, self.fingerprint)
        trusted = version in _TRUSTED and info.mtime_ns is not None
        table = read_table(place, trusted=trusted)
        if not trusted:
            check_samples(table, self.manifest, str(place))
            _TRUSTED.add(version)
        return table

    @cached_property
    def labels(self) -> Array:
        """(N,) int32"""
        labels: Array = self.samples["label"].to_numpy()
        return labels

    @cached_property
    def has(self) -> Array:
        """(N, K) bool: whether the sample of the row has the modality, in the order of `modalities`."""
        return np.stack(
            [self.samples[f"has_{name}"].to_numpy() for name in self.modalities], axis=1
        )

    def rows_of(self, split: str) -> Array:
        """(n,) int64, ascending: the rows of a split."""
        return np.flatnonzero(self.samples["split"].to_numpy() == split).astype(np.int64)

    def shape(self, modality: str) -> tuple[int, ...]:
        """The shape of one row."""
        return tuple(self.manifest["modalities"][modality]["shape"])

    def dtype(self, modality: str) -> np.dtype[Any]:
        """The element type of a row."""
        dtype: np.dtype[Any] = np.dtype(self.manifest["modalities"][modality]["dtype"])
        return dtype

    def read(self, modality: str, rows: Array, out: Array | None = None) -> Array:
        """(B, *shape): the given rows of a modality, in the given order, copied once."""
        if out is None:
            out = np.empty((len(rows), *self.shape(modality)), self.dtype(modality))
        batch_rows = self.manifest["batch_rows"]
        for i, row in enumerate(rows.tolist()):
            part = bisect_right(self._ends, row)
            local = row - (self._ends[part - 1] if part else 0)
            out[i] = self._batch(modality, part, local // batch_rows)[local % batch_rows]
        return out

    def file_of(self, modality: str, part: int) -> RemoteFile:
        """The file of a part, by its position in the manifest."""
        return _file_of(self.place, self.manifest["parts"], modality, part)

    def parts_of(self, rows: Array) -> list[int]:
        """The parts, ascending, that hold any of the rows."""
        parts: list[int] = np.unique(np.searchsorted(self._ends, rows, side="right")).tolist()
        return parts

    def fetch(self, modality: str, part: int) -> bool:
        """Sees to it that the cache has a copy of a part; False: it has no room (raises DataError, MissingError, StoreError)."""
        return self.cache is not None and self.cache.fetch(self.file_of(modality, part))

    def _open_part(self, modality: str, part: int) -> pa.ipc.RecordBatchFileReader:
        return open_file(
            self.file_of(modality, part).place, None, _expected(self.manifest, modality, part)
        )

    def _map_batch(self, modality: str, part: int, number: int) -> Array:
        place = self.file_of(modality, part).place
        try:
            return read_batch(
                self._reader(modality, part),
                number,
                _expected(self.manifest, modality, part),
                place,
            )
        except DAMAGED as error:
            raise DataError(
                f"{place} is damaged in record batch {number} ({error})", "decode again"
            ) from error


def _file_of(place: Place, parts: Sequence[dict[str, Any]], modality: str, part: int) -> RemoteFile:
    known = parts[part].get("files", {}).get(modality, {"sha256": None, "bytes": 0})
    return RemoteFile(
        place=place / modality / part_name(parts[part]["index"]),
        sha256=known["sha256"],
        num_bytes=known["bytes"],
    )


def _expected(manifest: dict[str, Any], modality: str, part: int) -> Expected:
    facts = manifest["modalities"][modality]
    return Expected(
        num_rows=manifest["parts"][part]["rows"],
        batch_rows=manifest["batch_rows"],
        type=pa.fixed_shape_tensor(pa.from_numpy_dtype(np.dtype(facts["dtype"])), facts["shape"]),
        num_bytes=manifest["parts"][part].get("files", {}).get(modality, {"bytes": 0})["bytes"],
    )
