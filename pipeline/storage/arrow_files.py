"""Arrow IPC files: open memory-mapped or by ranges, read, and write atomically."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.arrays import Array
from pipeline.errors import DataError, InputError, MissingError, StoreError
from pipeline.storage.store_path import StorePath

TABLE_ROWS = 2**16
"""Maximum rows per record batch of a table written by Remix; bounds the memory of a reader."""
CURE = "write the file again"
DAMAGED = (pa.ArrowException, OSError, ValueError)
"""What pyarrow raises for a damaged file."""


def open_source(path: StorePath, *, mapped: bool = False) -> Any:
    """Open the bytes of a file.

    Args:
        path: the file.
        mapped: memory-map the file if it is local; the map outlives its file object and uses no
            file descriptor. A remote file is always read by ranges.
    Raises:
        MissingError, DataError, StoreError.
    """
    kind = path.info().type
    if kind == pafs.FileType.NotFound:
        raise MissingError(f"File not found: {path}")
    if kind != pafs.FileType.File:
        raise DataError(f"Not a file: {path}", CURE)
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
    """Open an Arrow IPC file whose bytes are `source`; `path` names it in errors.

    Raises DataError, or StoreError if the store itself fails.
    """
    try:
        reader = pa.ipc.open_file(source, options=options)
        # pyarrow decodes names lazily: decode them now, so that invalid UTF-8 fails here
        _ = [(field.name, str(field.type)) for field in reader.schema]
        return reader
    except DAMAGED as error:
        raise read_error(error, source, path, f"Not an Arrow IPC file: {path}") from error


def read_error(error: Exception, source: Any, path: StorePath, what: str) -> InputError:
    """What to raise for an error of DAMAGED while `source`, the bytes of a file, was read.

    Returns a DataError that begins with `what`, or a StoreError if a remote store broke off.
    Raises StoreError if the store cannot be reached.
    """
    path.info()
    if isinstance(error, OSError) and not path.local and not isinstance(source, pa.BufferReader):
        return StoreError(f"{path} cannot be read ({error})", "run the command again")
    return DataError(f"{what} ({error})", CURE)


def read_table(path: StorePath, *, trusted: bool = True) -> pa.Table:
    """Read an Arrow IPC file, memory-mapped if it is local and not compressed.

    Args:
        path: the file.
        trusted: skip the full check of every offset, name and string.
    Raises:
        MissingError, DataError, StoreError.
    """
    source = open_source(path, mapped=True)
    reader = open_reader(source, path)
    try:
        table = reader.read_all()
        if not trusted:
            # an offset that points outside its buffer would crash the process that reads it
            table.validate(full=True)
    except DAMAGED as error:
        raise read_error(error, source, path, f"{path} is damaged") from error
    return table


def write_table(path: StorePath, table: pa.Table) -> str:
    """Write a table atomically, in record batches of at most TABLE_ROWS rows.

    Returns the file's SHA-256.
    """
    with path.create() as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=TABLE_ROWS)
    return file.hexdigest()


def column(table: pa.Table, name: str) -> Array:
    """A column as an array, without a copy if it has one chunk."""
    chunks = table.column(name)
    values: Array = (
        chunks.chunk(0).to_numpy(zero_copy_only=False)
        if chunks.num_chunks == 1
        else chunks.to_numpy()
    )
    return values


def blocks(table: pa.Table, num_rows: int = TABLE_ROWS) -> Iterator[pa.Table]:
    """Slices of at most `num_rows` rows. With the default, those of Remix's tables are views."""
    for start in range(0, table.num_rows, num_rows):
        yield table.slice(start, num_rows)
