"""One sample's features of one modality: its description and its picture."""

import numpy as np
import pyarrow as pa

from pipeline.arrays import Array
from pipeline.errors import MissingError
from pipeline.features.manifest import FeatureTable, Manifest
from pipeline.features.part_writer import part_name
from service.feature_schemas import FeatureRow
from service.store.catalog import Catalog
from service.store.pictures import Picture, picture_of, png
from service.store.reader import Artifact, reading
from service.store.sample_history import sample_at

MAX_BATCH_BYTES = 256 * 2**20
"""Maximum size of the record batch that is read for a row."""


class FeatureRows:
    """Reads the features of single samples of a feature set.

    Raises MissingError if the feature set does not exist.
    """

    def __init__(self, catalog: Catalog, name: str) -> None:
        self._catalog, self._name = catalog, name
        self._manifest: Manifest = catalog.manifest(name)

    def describe(self, row: int, modality: str) -> FeatureRow:
        """Shape, range, text and picture of a row. Raises MissingError, DataError."""
        table, artifact, position = self._find(row, modality)
        return self._catalog.reader.cached(
            artifact,
            f"description {row}",
            lambda: self._describe(table, self._read(table, artifact, position), row, modality),
        )

    def picture(self, row: int, modality: str) -> bytes:
        """The picture of a row as PNG. Raises MissingError, DataError."""
        table, artifact, position = self._find(row, modality)
        return self._catalog.reader.cached(
            artifact,
            f"picture {row}",
            lambda: png(picture_of(table.kind, self._read(table, artifact, position)).pixels),
            len,
        )

    def _find(self, row: int, modality: str) -> tuple[FeatureTable, Artifact, int]:
        """The modality, the part that contains the row, and the row's position in it."""
        table = self._manifest.modalities.get(modality)
        if table is None:
            raise MissingError(
                f"Modality not in features {self._name!r}: {modality!r}",
                f"Choose from {', '.join(self._manifest.modalities)}",
            )
        samples, _ = self._catalog.samples(self._name)
        if not sample_at(samples, self._name, row)[f"has_{modality}"]:
            raise MissingError(
                f"Sample of row {row} lacks the modality {modality!r}",
                "Choose a modality that it has",
            )
        if table.row_bytes * self._manifest.batch_rows > MAX_BATCH_BYTES:
            raise MissingError(
                f"Features of {modality!r} are too large: {table.row_bytes:,} bytes per row,"
                f" {self._manifest.batch_rows} rows per record batch",
                "Read them with FeatureSet.read",
            )
        start = 0
        for part in self._manifest.parts:
            if row < start + part.rows:
                path = ("features", self._name, modality, part_name(part.index))
                return table, self._catalog.reader.artifact(*path), row - start
            start += part.rows
        raise MissingError(f"Row in no part of features {self._name!r}: {row}", "Decode again")

    def _read(self, table: FeatureTable, artifact: Artifact, position: int) -> Array:
        """Features of a row; reads the record batch that contains it."""
        dtype = pa.from_numpy_dtype(np.dtype(table.dtype))
        schema = pa.schema([("feature", pa.fixed_shape_tensor(dtype, table.shape))])
        file = self._catalog.reader.table(artifact, schema, copied=False)
        number, offset = divmod(position, self._manifest.batch_rows)
        with reading(artifact):
            column = file.batch(number).column(0).slice(offset, 1)
            values: Array = column.storage.flatten().to_numpy(zero_copy_only=False)
            return values.reshape(table.shape).copy()

    def _describe(self, table: FeatureTable, values: Array, row: int, modality: str) -> FeatureRow:
        finite = values[np.isfinite(values)]
        picture = _picture_or_none(table, values)
        return FeatureRow(
            features=self._name,
            row=row,
            modality=modality,
            kind=table.kind,
            shape=table.shape,
            dtype=table.dtype,
            low=float(finite.min()) if finite.size else None,
            high=float(finite.max()) if finite.size else None,
            text=_text(table, values),
            picture=picture and picture.about,
            width=picture and picture.pixels.shape[1],
            height=picture and picture.pixels.shape[0],
        )


def _picture_or_none(table: FeatureTable, values: Array) -> Picture | None:
    try:
        return picture_of(table.kind, values)
    except MissingError:
        return None


def _text(table: FeatureTable, values: Array) -> str | None:
    """The text of byte values + 1, padded with zeros; None for other features."""
    if table.kind != "text" or table.tokenizer is not None or values.dtype.kind not in "iu":
        return None
    kept = values[(values > 0) & (values <= 256)] - 1
    return kept.astype(np.uint8).tobytes().decode(errors="replace")
