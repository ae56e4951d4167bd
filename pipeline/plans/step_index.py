"""Step index of a plan: the step of each row of the features, without a scan of the plan."""

import tempfile

import numpy as np
import pyarrow as pa

from pipeline.errors import DataError, MismatchError
from pipeline.features.id_index import INDEX_ROWS
from pipeline.plans.plan import BatchPlan
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.metadata import encode_metadata
from pipeline.storage.store_path import StorePath

STEPS_SCHEMA = pa.schema([("step", pa.int32())])

UNPLANNED = -1


def write_step_index(path: StorePath, plan: BatchPlan, num_rows: int) -> None:
    """Write the first step of each of the `num_rows` rows of the features, -1 if not planned.

    Needs the memory of one record batch, and 4 bytes of disk per row for a temporary file: next to
    `path`, or in Python's temporary folder if the store is remote.

    Raises:
        MismatchError: the plan has a row that the features lack.
        StoreError: the file cannot be written.
    """
    schema = STEPS_SCHEMA.with_metadata(
        encode_metadata(
            {"batch_rows": INDEX_ROWS, "num_rows": num_rows, "parents": {"plan": plan.fingerprint}}
        )
    )
    with (
        path.create() as file,
        tempfile.TemporaryFile(dir=path.parent.local, prefix=".") as scratch,
        pa.ipc.new_file(file, schema) as writer,
    ):
        blocks = [
            (start, min(INDEX_ROWS, num_rows - start)) for start in range(0, num_rows, INDEX_ROWS)
        ]
        for _, num in blocks:
            # written before it is mapped: on a full disk this raises, whereas the first write to
            # a mapped page would kill the process
            with file.recording():
                scratch.write(np.full(num, UNPLANNED, np.int32).data)
        with file.recording():
            scratch.flush()
        steps = (
            np.memmap(scratch, np.int32, "r+", shape=(num_rows,))
            if num_rows
            else np.empty(0, np.int32)
        )
        for batch in plan.table.to_batches():
            rows, numbers = batch.column("rows"), batch.column("step").to_numpy()
            planned = rows.flatten().to_numpy()
            outside = planned[(planned < 0) | (planned >= num_rows)]
            if len(outside):
                raise MismatchError(
                    f"the plan has row {outside[0]}, but the features have {num_rows} rows",
                    "use the features that it was made for",
                )
            # Reversed: of repeated indices NumPy keeps the last value, here that of the first step.
            unset = np.flatnonzero(steps[planned] == UNPLANNED)[::-1]
            steps[planned[unset]] = np.repeat(numbers, np.diff(rows.offsets.to_numpy()))[unset]
        for start, num in blocks:
            writer.write_batch(
                pa.record_batch([pa.array(steps[start : start + num])], schema=schema)
            )


def step_of(index: BatchFile, row: int) -> int | None:
    """The first step that has the row, None if not planned. Raises DataError."""
    batch_rows, num_rows = index.metadata.get("batch_rows"), index.metadata.get("num_rows")
    if (
        not isinstance(batch_rows, int)
        or not isinstance(num_rows, int)
        or batch_rows < 1
        or index.num_batches != -(-num_rows // batch_rows)
    ):
        raise DataError(
            f"{index.what} has {index.num_batches} record batches, "
            f"but its metadata has {num_rows} rows in batches of {batch_rows}",
            "write the file again",
        )
    if not 0 <= row < num_rows:
        return None
    steps = index.batch(row // batch_rows).column("step")
    if len(steps) != min(batch_rows, num_rows - row // batch_rows * batch_rows):
        raise DataError(
            f"{index.what}: record batch {row // batch_rows} has {len(steps)} rows, "
            f"but its metadata has {num_rows} rows in batches of {batch_rows}",
            "write the file again",
        )
    step = int(steps[row % batch_rows].as_py())
    return None if step == UNPLANNED else step
