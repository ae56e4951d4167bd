"""The `remix.*` metadata of Arrow schemas, and the fingerprint of a table's content."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import DataError
from pipeline.storage.strict_json import parse_json

PREFIX = "remix."

FINGERPRINT_ROWS = 2**16
"""Rows that are hashed at once."""


def with_metadata(table: pa.Table, metadata: Mapping[str, Any]) -> pa.Table:
    """The table with `remix.*` metadata and its `remix.fingerprint`, the hash of content and metadata."""
    return table.replace_schema_metadata(
        encode_metadata({**metadata, "fingerprint": fingerprint(table, metadata)})
    )


def encode_metadata(metadata: Mapping[str, Any]) -> dict[str, str]:
    """`remix.*` schema metadata: the values as JSON, the keys in order."""
    return {
        f"{PREFIX}{key}": json.dumps(value, sort_keys=True)
        for key, value in sorted(metadata.items())
    }


def read_metadata(schema: pa.Schema, what: str = "table") -> dict[str, Any]:
    """The `remix.*` metadata of a schema, without the prefix; {} where there is none (raises DataError)."""
    found = {}
    for key, value in (schema.metadata or {}).items():
        if key.startswith(PREFIX.encode()):
            try:
                found[key.decode()[len(PREFIX) :]] = parse_json(value)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{what}: metadata {key.decode(errors='replace')!r} is not JSON ({error})",
                    "write the file again",
                ) from error
    return found


class Fingerprinter:
    """SHA-256 over metadata, column names, types and values, fed batch by batch: equal content gives the same hash however it is chunked."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._num_rows = 0
        self._hashes = [(hashlib.sha256(), hashlib.sha256()) for _ in schema]

    def update(self, batch: pa.RecordBatch) -> None:
        """Adds the rows of a batch, in order."""
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
        """The hash of all that was added, under this metadata (its own entry `fingerprint` left out)."""
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


def _text_of(column: pa.Array) -> tuple[npt.NDArray[np.int32], memoryview]:
    """Where the strings of a column begin and end in bytes, from 0 on, and those bytes; it has no nulls."""
    _, where, data = column.buffers()
    if column.null_count:
        raise ValueError("a column of strings with nulls has no hash")
    if not len(column):
        return np.zeros(1, np.int32), memoryview(b"")
    offsets = np.frombuffer(where, np.int32, len(column) + 1, 4 * column.offset)
    return offsets, memoryview(data or b"")[offsets[0] : offsets[-1]]


def fingerprint(table: pa.Table, metadata: Mapping[str, Any]) -> str:
    """The Fingerprinter's hash of a whole table."""
    content = Fingerprinter(table.schema)
    for batch in table.to_batches(max_chunksize=FINGERPRINT_ROWS):
        content.update(batch)
    return content.hexdigest(metadata)


def fingerprint_of(value: Any) -> str:
    """SHA-256 of a JSON value in its canonical form."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    ).hexdigest()
