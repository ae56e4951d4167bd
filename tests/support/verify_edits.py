"""Edits to the artifacts of a run, under right fingerprints or not, and what `verify` names of them."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from pipeline.storage.arrow_files import read_table, write_table
from pipeline.storage.metadata import encode_metadata, read_metadata, with_metadata
from pipeline.storage.schemas import PLAN
from pipeline.storage.store_path import MANIFEST, Place
from trainer.run_directory import Run
from trainer.verification.verify import verify

Steps = list[dict[str, Any]]
Tamper = Callable[[Run], object]


def features_of(run: Run) -> Place:
    return run.place.parent.parent / "features" / "made"


def found(run: Run, **options: Any) -> list[tuple[str, str]]:
    """What is named: (artifact, what)."""
    result = verify(run, **options)
    assert result["ok"] == (not result["problems"])
    assert {each["epoch"] for each in result["epochs"] if not each["ok"]} == {
        each["epoch"] for each in result["problems"]
    } - {None} - missing_epochs(result)
    return [(each["artifact"], each["what"]) for each in result["problems"]]


def missing_epochs(result: dict[str, Any]) -> set[int]:
    return {each["epoch"] for each in result["problems"]} - {
        each["epoch"] for each in result["epochs"]
    }


def edited_plan(
    epoch: int, change: Callable[[Steps], object], /, *, hashed: bool = True, **metadata: Any
) -> Tamper:
    """Changes the steps of a plan, under a right fingerprint unless told otherwise."""

    def tamper(run: Run) -> None:
        table = read_table(run.plan(epoch))
        facts, steps = read_metadata(table.schema), read_table(run.plan(epoch)).to_pylist()
        change(steps)
        new, facts = pa.Table.from_pylist(steps, PLAN), {**facts, **metadata}
        stored = facts.pop("fingerprint")
        new = (
            with_metadata(new, facts)
            if hashed
            else new.replace_schema_metadata(encode_metadata({**facts, "fingerprint": stored}))
        )
        write_table(run.plan(epoch), new)

    return tamper


def swap(steps: Steps) -> None:
    first, second = (
        step["rows"]
        for step in steps
        if step["modality"] == steps[0]["modality"] and step["step"] < 2
    )
    first[0], second[0] = second[0], first[0]


HASHES = r"\A(?!.*\bparents\.).*\b[0-9a-f]{12}\b.*\b[0-9a-f]{12}\b"


def edited_table(
    place: Callable[[Run], Place], change: Callable[[pa.Table], pa.Table], *, hashed: bool = False
) -> Tamper:
    """Changes a table; its metadata stay as they are, but for the fingerprint where asked."""

    def tamper(run: Run) -> None:
        before = read_table(place(run))
        after = change(before).combine_chunks().replace_schema_metadata(before.schema.metadata)
        facts = read_metadata(before.schema)
        write_table(
            place(run),
            with_metadata(
                after, {key: value for key, value in facts.items() if key != "fingerprint"}
            )
            if hashed
            else after,
        )

    return tamper


def with_value(column: str, row: int, value: object) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist()
        values[row] = value
        return table.set_column(
            table.column_names.index(column),
            table.schema.field(column),
            pa.array(values, table.schema.field(column).type),
        )

    return change


def without_row(row: int) -> Callable[[pa.Table], pa.Table]:
    return lambda table: pa.concat_tables([table.slice(0, row), table.slice(row + 1)])


def steps_of(step: int, epoch: int = 3) -> Callable[[Run], Place]:
    return lambda run: run.place / "steps" / f"epoch-{epoch:04d}-step-{step:08d}.arrow"


def with_json(place: Callable[[Run], Place], change: Callable[[dict[str, Any]], object]) -> Tamper:
    def tamper(run: Run) -> None:
        value = place(run).read_json()
        change(value)
        place(run).write_json(value)

    return tamper


def facts_at(run: Run) -> Place:
    return run.place / "run.json"


def manifest_at(run: Run) -> Place:
    return features_of(run) / MANIFEST


def samples_at(run: Run) -> Place:
    return features_of(run) / "samples.arrow"
