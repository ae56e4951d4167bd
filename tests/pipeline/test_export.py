"""`remix export` and data frames: scores, plans and the epochs of a run."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError, DataError, MissingError
from pipeline.export import export
from pipeline.plans.planner import build, remix_plan_builder
from pipeline.storage.arrow_files import TABLE_ROWS, write_table
from pipeline.storage.store_path import StorePath
from remix import BatchPlan, Scores
from tests.support.mixed_plans import mixed
from tests.support.plan_tables import arithmetic_costs, scores_table
from tests.support.stores import Command
from tests.support.trained_run import RUN
from trainer.run_directory import Run


@pytest.mark.parametrize(("suffix", "read"), [("parquet", pd.read_parquet), ("csv", pd.read_csv)])
@pytest.mark.parametrize("what", ["scores", "plan", "epochs"])
def test_what_is_exported_is_read_back(
    trained_store: Path, tmp_path: Path, command: Command, what: str, suffix: str, read: object
) -> None:
    assert callable(read)
    run = Run(StorePath.at(trained_store / "runs" / RUN))
    given: dict[str, tuple[object, pd.DataFrame]] = {
        "scores": (run.scores(2).path, run.open_scores(2).to_pandas()),
        "plan": (run.plan(2).path, run.open_plan(2).to_pandas()),
        "epochs": (RUN, run.to_pandas()),
    }
    source, expected = given[what]
    out = tmp_path / f"out.{suffix}"
    code, text, err = command("export", source, "--out", out, "--store", trained_store, "--json")
    assert code == 0, err
    assert f'"rows": {len(expected)}' in text
    pd.testing.assert_frame_equal(read(out), expected, check_dtype=suffix == "parquet")


def test_a_plan_has_a_line_per_planned_row(trained_store: Path) -> None:
    plan = BatchPlan.open(trained_store / "runs" / RUN / "plans" / "epoch-0002.arrow")
    rows = [(s.step, s.modality, row) for s in plan.steps() for row in s.rows.tolist()]
    assert list(plan.to_pandas().itertuples(index=False, name=None)) == rows


def test_a_mixed_plan_has_the_modality_of_each_row(tmp_path: Path) -> None:
    scores = Scores(scores_table(arithmetic_costs(40, 2)))
    plan = build(remix_plan_builder(scores, mixed(joint_share=0.3), 8, 0, 0))
    names = ["m0", "m1", "all"]
    expected = [
        (step.step, names[k], row)
        for step in plan.steps()
        if step.assigned is not None
        for row, k in zip(step.rows.tolist(), step.assigned.tolist(), strict=True)
    ]
    assert {name for _, name, _ in expected} == set(names)
    assert list(plan.to_pandas().itertuples(index=False, name=None)) == expected
    write_table(StorePath.at(tmp_path / "plan.arrow"), plan.table)
    assert export(tmp_path / "plan.arrow", tmp_path / "plan.parquet") == 40
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "plan.parquet"), plan.to_pandas())


def test_large_tables_are_written_batch_by_batch(tmp_path: Path) -> None:
    table = pa.table({"x": range(TABLE_ROWS + 1)})
    write_table(StorePath.at(tmp_path / "t.arrow"), table)
    assert export(tmp_path / "t.arrow", tmp_path / "t.parquet") == TABLE_ROWS + 1
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == 2


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    nested = StorePath.at(tmp_path / "nested.arrow")
    write_table(nested, pa.table({"x": [[1], [2]]}))
    with pytest.raises(ConfigError, match=r"out\.json"):
        export(nested, tmp_path / "out.json")
    with pytest.raises(DataError, match=r"nested\.arrow"):
        export(nested, tmp_path / "out.csv")
    with pytest.raises(MissingError, match="absent"):
        export(tmp_path / "absent", tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["nested.arrow"]
