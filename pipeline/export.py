"""Export of tables as Parquet or CSV, one record batch in memory at a time."""

from collections.abc import Callable
from os import PathLike
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.errors import ConfigError, DataError
from pipeline.plans.plan import planned_rows
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.schemas import PLAN, PLANNED_ROWS
from pipeline.storage.store_path import StorePath

WRITERS: dict[str, Callable[..., Any]] = {
    ".parquet": pq.ParquetWriter,
    ".csv": pyarrow.csv.CSVWriter,
}


def export(path: str | PathLike[str] | StorePath, out: str | PathLike[str] | StorePath) -> int:
    """Write a table as Parquet or CSV, by the suffix of `out`; returns its number of rows.

    Args:
        path: a scores file, a plan or another Arrow table, or a run, of which its epochs are
            written. A plan has a row per planned row of the features.
        out: the file, which is replaced if it exists.
    Raises:
        ConfigError: another suffix.
        MissingError: the table does not exist, such as that of a run's epochs before the first end.
        DataError: it is damaged, or has a column that CSV cannot express. StoreError.
    """
    source, target = StorePath.at(path), StorePath.at(out)
    suffix = next((suffix for suffix in WRITERS if target.name.endswith(suffix)), None)
    if suffix is None:
        raise ConfigError(f"{target} is neither .parquet nor .csv", "give it one of these suffixes")
    file = BatchFile(source / "epochs.arrow" if (source / "run.json").exists() else source)
    is_plan = set(PLAN.names) <= set(file.schema.names)
    modalities = file.metadata.get("modalities", [])
    schema = PLANNED_ROWS.with_metadata(file.schema.metadata) if is_plan else file.schema
    num_rows = 0
    with target.create() as sink:
        try:
            with WRITERS[suffix](sink, schema) as writer:
                for batch in file.batches():
                    rows = planned_rows(batch, modalities) if is_plan else batch
                    writer.write_batch(rows.replace_schema_metadata(schema.metadata))
                    num_rows += rows.num_rows
        except pa.ArrowException as error:
            raise DataError(
                f"{file.what} cannot be written as {suffix} ({error})", "export it as .parquet"
            ) from error
    return num_rows
