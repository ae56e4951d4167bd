"""The account of a decoded shard: a record, and a row per sample that was decoded or rejected.

It is one Arrow file, written last: parts whose account fits the shard and the configuration are
complete. What concerns all shards is computed from the accounts at the end of the job.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DataError
from pipeline.features.id_index import hash_ids
from pipeline.storage.arrow_files import open_reader, open_source, read_table, write_table
from pipeline.storage.metadata import encode_metadata, read_metadata
from pipeline.storage.schemas import REJECTED
from pipeline.storage.store_path import StorePath

FOLDER = ".parts"
"""Folder of the accounts in a feature set."""


@dataclass(frozen=True, slots=True)
class Account:
    """The account of a shard.

    Attributes:
        record: what was decoded, with which settings, and counts.
        rows: samples in the order of the shard. `reason` is null if the sample was decoded, `label`
            if it was rejected before its metadata were read; `sample_id` is then its key.
    """

    record: dict[str, Any]
    rows: pa.Table


def account_path(out: StorePath, index: int) -> StorePath:
    """Path of the account of shard number `index`."""
    return out / FOLDER / f"part-{index:05d}.arrow"


def account_schema(modalities: Sequence[str]) -> pa.Schema:
    """Schema of the rows of an account, without `id_hash`."""
    columns = [("index", pa.int64())]
    columns += [
        (name, pa.string()) for name in ("sample_id", "label", "split", "stage", "reason", "error")
    ]
    return pa.schema([*columns, *((f"has_{name}", pa.bool_()) for name in modalities)])


def account_table(columns: dict[str, list[Any]]) -> pa.Table:
    """The rows of an account; `columns` has the values of its schema."""
    modalities = [name.removeprefix("has_") for name in columns if name.startswith("has_")]
    rows = pa.table(columns, account_schema(modalities))
    return rows.append_column("id_hash", pa.array(hash_ids(columns["sample_id"])))


def write_account(path: StorePath, record: dict[str, Any], rows: pa.Table) -> None:
    """Write an account. Raises StoreError."""
    write_table(path, rows.replace_schema_metadata(encode_metadata({"record": record})))


def rejected_rows(shard: str, rows: pa.Table) -> pa.Table:
    """Rows of rejected.arrow for the rows of an account."""
    rejected = rows.filter(pc.is_valid(rows["reason"]))
    names = pa.array([shard] * rejected.num_rows, pa.string())
    return pa.table(
        [names, *(rejected[name] for name in REJECTED.names if name != "shard")], schema=REJECTED
    )


def read_record(path: StorePath) -> dict[str, Any] | None:
    """Read the record of an account, None if there is no valid account. Raises StoreError."""
    if not path.exists():
        return None
    try:
        return _record(open_reader(open_source(path), path).schema, path)
    except DataError:
        return None


def read_account(path: StorePath) -> Account:
    """Read an account. Raises MissingError, DataError, StoreError."""
    rows = read_table(path, trusted=False)
    return Account(_record(rows.schema, path), rows)


def _record(schema: pa.Schema, path: StorePath) -> dict[str, Any]:
    record: dict[str, Any] = read_metadata(schema, str(path)).get("record", {})
    return record
