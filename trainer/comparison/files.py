"""The files of a comparison's folder."""

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

import pyarrow as pa

from pipeline.storage.arrow_files import write_table
from pipeline.storage.store_path import StorePath
from trainer.comparison.plots import plot
from trainer.comparison.run_result import RunResult
from trainer.comparison.tables import markdown


def save(path: StorePath, table: Mapping[str, Any], results: Sequence[RunResult]) -> None:
    """Write table.json, table.md, results.csv, curves.arrow and the plots."""
    labelled = [
        result.epochs.append_column(
            "method", pa.repeat(result.method, len(result.epochs))
        ).append_column("seed", pa.repeat(result.seed, len(result.epochs)))
        for result in results
    ]
    curves = pa.concat_tables(labelled).combine_chunks()
    write_table(path / "curves.arrow", curves)
    (path / "table.json").write_json(table)
    (path / "table.md").write_bytes(markdown(table).encode())
    (path / "results.csv").write_bytes(results_csv(results).encode())
    shares = [name for name in curves.column_names if name.startswith("share_")]
    (path / "accuracy.png").write_bytes(plot(curves, ["validation_accuracy"]))
    (path / "share.png").write_bytes(plot(curves, shares))


def results_csv(results: Sequence[RunResult]) -> str:
    """One row per method and seed; empty where a number does not exist."""
    rows = [
        {
            "method": result.method,
            "seed": result.seed,
            "run": result.run,
            **result.tuned,
            **{f"accuracy_{head}": value for head, value in result.accuracy.items()},
            "tested_epoch": result.tested_epoch,
            "in_warmup": int(result.in_warmup),
            "readout": result.readout,
            **result.cost,
        }
        for result in results
    ]
    text = StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
