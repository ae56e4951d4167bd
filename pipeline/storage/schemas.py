"""Arrow schemas of the artifacts, their `remix.*` metadata and their fingerprints."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import DataError, MismatchError
from pipeline.storage.strict_json import parse_json

PREFIX = "remix."
ALL = "all"
"""The `modality` of a warm-up step: every modality is trained."""

FINGERPRINT_ROWS = 2**16
"""Rows that are hashed at once."""

SPLITS = ("train", "validation", "test")

REJECTED = pa.schema(
    [
        ("shard", pa.string()),
        ("sample_id", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("error", pa.string()),
    ]
)
PLAN = pa.schema([("step", pa.int32()), ("modality", pa.string()), ("rows", pa.list_(pa.int64()))])
MIXED_PLAN = PLAN.append(pa.field("assigned", pa.list_(pa.int8())))
"""Of a plan whose batches mix modalities: per row the index of the one that it trains, -1 for all of them."""


def samples_schema(modalities: Sequence[str]) -> pa.Schema:
    """The samples of a feature set, one row a sample."""
    fields = [
        ("row", pa.int64()),
        ("sample_id", pa.string()),
        ("label", pa.int32()),
        ("split", pa.string()),
        ("shard", pa.string()),
        ("index_in_shard", pa.int64()),
    ]
    return pa.schema(fields + [(f"has_{name}", pa.bool_()) for name in modalities])


def scores_schema(modalities: Sequence[str]) -> pa.Schema:
    """The scores of an epoch: per modality the ability in bits (NaN = missing), the label's probability and the predicted class."""
    fields = [("row", pa.int64()), ("sample_id", pa.string()), ("label", pa.int32())]
    for name in modalities:
        fields += [
            (f"kl_{name}", pa.float32()),
            (f"p_label_{name}", pa.float32()),
            (f"predicted_{name}", pa.int32()),
        ]
    return pa.schema(fields)


def smooth_schema(modalities: Sequence[str]) -> pa.Schema:
    """What scores have beside scores_schema where training smooths them: per modality the moving average of the ability in bits."""
    return pa.schema([(f"smooth_{name}", pa.float32()) for name in modalities])


def steps_schema(modalities: Sequence[str]) -> pa.Schema:
    """The steps that were really taken: the proof of coverage, and per modality how many rows were trained and how many of them predicted right."""
    fields = [
        ("epoch", pa.int32()),
        ("step", pa.int32()),
        ("modality", pa.string()),
        ("world_size", pa.int32()),
    ]
    fields += [
        ("num_rows", pa.int32()),
        ("rows_hash", pa.string()),
        ("loss", pa.float64()),
        ("num_correct", pa.int32()),
    ]
    for name in modalities:
        fields += [(f"num_rows_{name}", pa.int32()), (f"num_correct_{name}", pa.int32())]
    return pa.schema([*fields, ("wait_seconds", pa.float64()), ("step_seconds", pa.float64())])


def epochs_schema(modalities: Sequence[str], *, diagnostics: bool = True) -> pa.Schema:
    """One row an epoch: losses, accuracies (fused and per modality), shares, churn, balance, times.

    `diagnostics`: with the columns of train.diagnostics, null where it is off, which tables of older versions lack.
    """
    names = [
        "learning_rate",
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
    ]
    names += [
        f"{split}_accuracy_{name}" for split in ("train", "validation") for name in modalities
    ]
    names += [f"share_{name}" for name in modalities]
    names += [
        "churn",
        "rho",
        "score_seconds",
        "plan_seconds",
        "load_seconds",
        "step_seconds",
        "validate_seconds",
        "epoch_seconds",
        "samples_per_second",
    ]
    if diagnostics:
        names += [
            *(
                f"{kind}_{name}"
                for kind in ("gradient_cosine", "zero_mask_accuracy")
                for name in modalities
            ),
            "head_gradient_cosine",
        ]
    facts = [
        ("epoch", pa.int32()),
        ("policy", pa.string()),
        ("num_steps", pa.int64()),
        ("num_rows", pa.int64()),
    ]
    return pa.schema(facts + [(name, pa.float64()) for name in names])


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


def check_columns(schema: pa.Schema, expected: pa.Schema, what: str) -> None:
    """Raises DataError where a column of the expected schema is missing or of another type."""
    for field in expected:
        if field.name not in schema.names:
            raise DataError(
                f"{what}: column {field.name!r} is missing (found {', '.join(schema.names)})",
                "write the file again with that column",
            )
        if schema.names.count(field.name) > 1:
            raise DataError(
                f"{what}: column {field.name!r} occurs {schema.names.count(field.name)} times",
                "write the file again with one of them",
            )
        if schema.field(field.name).type != field.type:
            raise DataError(
                f"{what}: column {field.name!r} is {schema.field(field.name).type}, not {field.type}",
                "write the file again with that type",
            )


def check_parent(what: str, recorded: str | None, parent: str, actual: str) -> None:
    """Raises MismatchError where an artifact was made from another parent than the one at hand."""
    if recorded is not None and recorded != actual:
        raise MismatchError(
            f"{what} was made from {parent} {recorded[:12]}, but the one given is {actual[:12]}",
            f"give the {parent} that it was made from, or make it again",
        )
