"""The `remix.*` metadata of Arrow schemas, and the fingerprint of a table's content."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.arrays import Int32Array
from pipeline.errors import DataError
from pipeline.storage.strict_json import parse_json

PREFIX = "remix."

FINGERPRINT_ROWS = 2**16
"""Rows hashed at once."""


def with_metadata(table: pa.Table, metadata: Mapping[str, Any]) -> pa.Table:
    """Add `remix.*` metadata and `remix.fingerprint`, the hash of content and metadata."""
    return table.replace_schema_metadata(
        encode_metadata({**metadata, "fingerprint": fingerprint(table, metadata)})
    )


def encode_metadata(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Encode `remix.*` schema metadata: values as JSON, keys sorted."""
    return {
        f"{PREFIX}{key}": json.dumps(value, sort_keys=True)
        for key, value in sorted(metadata.items())
    }


def read_metadata(schema: pa.Schema, what: str = "table") -> dict[str, Any]:
    """Decode the `remix.*` metadata of a schema, keyed without the prefix. Raises DataError."""
    metadata = {}
    for key, value in (schema.metadata or {}).items():
        if key.startswith(PREFIX.encode()):
            try:
                metadata[key.decode()[len(PREFIX) :]] = parse_json(value)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{what}: metadata {key.decode(errors='replace')!r} is not JSON ({error})",
                    "write the file again",
                ) from error
    return metadata


class Fingerprinter:
    """SHA-256 of metadata, column names, types and values, independent of the record batches.

    Lengths and values of strings and lists are hashed separately, so that a batch boundary leaves
    no trace.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._num_rows = 0
        self._hashes = [(hashlib.sha256(), hashlib.sha256()) for _ in schema]

    def update(self, batch: pa.RecordBatch) -> None:
        """Hash the rows of the next batch."""
        self._num_rows += batch.num_rows
        for (lengths, values), column in zip(self._hashes, batch.columns, strict=True):
            if pa.types.is_list(column.type):
                lengths.update(np.diff(column.offsets.to_numpy()).astype(np.int64))
                values.update(column.flatten().to_numpy())
            elif pa.types.is_string(column.type):
                offsets, text = _text_of(column)
                lengths.update(np.diff(offsets).astype(np.int64).data)
                values.update(text)
            else:
                values.update(np.ascontiguousarray(column.to_numpy(zero_copy_only=False)).data)

    def hexdigest(self, metadata: Mapping[str, Any]) -> str:
        """Hash of all rows so far and of `metadata` without its entry `fingerprint`."""
        columns = [
            [field.name, str(field.type), lengths.hexdigest(), values.hexdigest()]
            for field, (lengths, values) in zip(self._schema, self._hashes, strict=True)
        ]
        return fingerprint_of(
            [
                {key: value for key, value in metadata.items() if key != "fingerprint"},
                self._num_rows,
                columns,
            ]
        )


def _text_of(column: pa.Array) -> tuple[Int32Array, memoryview]:
    """Offsets and UTF-8 bytes of a string column. Raises ValueError if it contains nulls."""
    _, offset_buffer, data = column.buffers()
    if column.null_count:
        raise ValueError("A string column with nulls cannot be hashed")
    if not len(column):
        return np.zeros(1, np.int32), memoryview(b"")
    offsets = np.frombuffer(offset_buffer, np.int32, len(column) + 1, 4 * column.offset)
    return offsets, memoryview(data or b"")[offsets[0] : offsets[-1]]


def fingerprint(table: pa.Table, metadata: Mapping[str, Any]) -> str:
    """The Fingerprinter's hash of a table."""
    content = Fingerprinter(table.schema)
    for batch in table.to_batches(max_chunksize=FINGERPRINT_ROWS):
        content.update(batch)
    return content.hexdigest(metadata)


def fingerprint_of(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    ).hexdigest()
