"""Arrow IPC files: opened in one place, memory-mapped or read by ranges, and written atomically."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.arrays import Array
from pipeline.errors import DataError, MissingError
from pipeline.storage.store_path import StorePath

TABLE_ROWS = 2**16
"""Rows of a record batch of a table that Remix writes: what a reader of one batch holds."""
CURE = "write the file again"
DAMAGED = (pa.ArrowException, OSError, ValueError)
"""What pyarrow raises for a damaged file."""


def open_source(path: StorePath, *, mapped: bool = False) -> Any:
    """The bytes of a file, read by ranges, or with `mapped` memory-mapped where the file is local.

    A map outlives its file object and takes no descriptor (raises MissingError, DataError, StoreError).
    """
    kind = path.info().type
    if kind == pafs.FileType.NotFound:
        raise MissingError(f"{path} does not exist")
    if kind != pafs.FileType.File:
        raise DataError(f"{path} is not a file", CURE)
    with path.accessing("read"):
        if not path.local:
            return path.fs.open_input_file(path.path)
        if not mapped:
            return pa.OSFile(str(path.local))
        with pa.memory_map(str(path.local)) as file:
            return pa.BufferReader(file.read_buffer())


def open_reader(
    source: Any, path: StorePath, options: pa.ipc.IpcReadOptions | None = None
) -> pa.ipc.RecordBatchFileReader:
    """The record batches of an Arrow IPC file, whose bytes are `source`.

    Raises DataError, or StoreError where the store itself does not answer.
    """
    try:
        reader = pa.ipc.open_file(source, options=options)
        # pyarrow decodes names only when they are asked for: ones that are no text fail here
        _ = [(field.name, str(field.type)) for field in reader.schema]
        return reader
    except DAMAGED as error:
        path.info()
        raise DataError(f"{path} is not an Arrow IPC file ({error})", CURE) from error


def read_table(path: StorePath, *, trusted: bool = True) -> pa.Table:
    """An Arrow IPC file as a table, memory-mapped where it is local and not compressed.

    Unless trusted it is checked in full: every offset, name and string (raises MissingError,
    DataError, StoreError).
    """
    source = open_source(path, mapped=True)
    reader = open_reader(source, path)
    try:
        table = reader.read_all()
        if not trusted:
            # offsets that point out of their buffers would crash the process that follows them
            table.validate(full=True)
    except DAMAGED as error:
        raise DataError(f"{path} is damaged ({error})", CURE) from error
    return table


def write_table(path: StorePath, table: pa.Table) -> str:
    """Writes a table as record batches of at most TABLE_ROWS rows, atomically.

    Returns the file's SHA-256.
    """
    with path.create() as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=TABLE_ROWS)
    return file.hexdigest()


def column(table: pa.Table, name: str) -> Array:
    """A column as an array, without a copy where it lies in one piece."""
    chunks = table.column(name)
    one = chunks.num_chunks == 1
    values: Array = chunks.chunk(0).to_numpy(zero_copy_only=False) if one else chunks.to_numpy()
    return values


def blocks(table: pa.Table, num_rows: int = TABLE_ROWS) -> Iterator[pa.Table]:
    """The table in slices of at most so many rows, which need no copy where Remix wrote it."""
    for start in range(0, table.num_rows, num_rows):
        yield table.slice(start, num_rows)
