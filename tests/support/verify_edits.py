"""Edits to the artifacts of a run, and the problems that `verify` reports."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from pipeline.storage.arrow_files import read_table, write_table
from pipeline.storage.metadata import read_metadata, with_metadata
from pipeline.storage.store_path import StorePath
from trainer.models import checkpoint as checkpoints
from trainer.run_directory import Run
from trainer.verification.verify import verify

Steps = list[dict[str, Any]]
Tamper = Callable[[Run], object]
Change = Callable[[pa.Table], pa.Table]


def at(path: str) -> Callable[[Run], StorePath]:
    """A file in the run's folder or, if the path begins with `features`, in the store."""
    return lambda run: (run.path.parent.parent if path.startswith("features") else run.path) / path


def problems_of(run: Run, **options: Any) -> list[tuple[str, str]]:
    """The problems of a run as (artifact, what)."""
    result = verify(run, **options)
    assert result["ok"] == (not result["problems"])
    reported = {problem["epoch"] for problem in result["problems"]}
    assert all(entry["ok"] == (entry["epoch"] not in reported) for entry in result["epochs"])
    return [(problem["artifact"], problem["what"]) for problem in result["problems"]]


def edited(path: str, change: Change, *, hashed: bool = False, **metadata: Any) -> Tamper:
    """Change a table and its metadata; with `hashed`, also update the fingerprint."""

    def tamper(run: Run) -> None:
        store_path = at(path)(run)
        before = read_table(store_path)
        changed = {**read_metadata(before.schema), **metadata}
        changed.pop("fingerprint", None)
        table = change(before).combine_chunks()
        write_table(
            store_path,
            with_metadata(table, changed)
            if hashed
            else table.replace_schema_metadata(before.schema.metadata),
        )

    return tamper


def edited_steps(epoch: int, change: Callable[[Steps], object], **metadata: Any) -> Tamper:
    """Change the steps of a plan and its metadata, and update the fingerprint."""

    def changed(table: pa.Table) -> pa.Table:
        steps = table.to_pylist()
        change(steps)
        return pa.Table.from_pylist(steps, table.schema)

    return edited(f"plans/epoch-{epoch:04d}.arrow", changed, hashed=True, **metadata)


def swap(steps: Steps) -> None:
    """Exchange a row of the first two steps."""
    first, second = steps[0]["rows"], steps[1]["rows"]
    first[0], second[0] = second[0], first[0]


def with_value(column: str, row: int, value: object) -> Change:
    def change(table: pa.Table) -> pa.Table:
        values, field = table[column].to_pylist(), table.schema.field(column)
        values[row] = value
        number = table.column_names.index(column)
        return table.set_column(number, field, pa.array(values, field.type))

    return change


def without_row(row: int) -> Change:
    return lambda table: pa.concat_tables([table.slice(0, row), table.slice(row + 1)])


def copied(source: str, to: str) -> Tamper:
    return lambda run: at(to)(run).write_bytes(at(source)(run).read_bytes())


def deleted(path: str) -> Tamper:
    return lambda run: at(path)(run).delete()


def with_json(path: str, change: Callable[[dict[str, Any]], object]) -> Tamper:
    def tamper(run: Run) -> None:
        value = at(path)(run).read_json()
        change(value)
        at(path)(run).write_json(value)

    return tamper


def checkpoint(name: str, cursor: dict[str, Any] | None = None, **changes: Any) -> Tamper:
    """Change entries of a checkpoint and of its cursor."""

    def tamper(run: Run) -> None:
        before = checkpoints.load(run.checkpoint(name))
        after = {**before, **changes, "cursor": {**before["cursor"], **(cursor or {})}}
        checkpoints.save(run.checkpoint(name), after)

    return tamper


def weights_from(source: str, to: str, modality: str) -> Tamper:
    """Copy the encoder and head of a modality from one checkpoint to another."""

    def tamper(run: Run) -> None:
        model = dict(checkpoints.load(run.checkpoint(to))["model"])
        own = checkpoints.load(run.checkpoint(source))["model"]
        model |= {key: own[key] for key in model if key.split(".")[1] == f"modality-{modality}"}
        checkpoint(to, model=model)(run)

    return tamper
