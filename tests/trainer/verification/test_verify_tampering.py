"""`remix verify`: whatever is tampered with, lost or damaged is named."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.features.part_writer import part_name
from pipeline.plans.plan import BatchPlan
from pipeline.storage.arrow_files import write_table
from pipeline.storage.metadata import encode_metadata
from tests.support.verify_edits import (
    HASHES,
    Tamper,
    edited_plan,
    edited_table,
    features_of,
    found,
    manifest_at,
    samples_at,
    steps_of,
    swap,
    with_value,
)
from tests.support.verify_facts import FACTS
from tests.support.verify_logs import LOGS
from tests.support.verify_plans import PLANS
from trainer.run_directory import Run


@pytest.mark.parametrize(
    ("tamper", "artifact", "what"),
    [pytest.param(*each, id=name) for name, each in {**PLANS, **LOGS, **FACTS}.items()],
)
def test_what_is_tampered_with_is_named(run: Run, tamper: Tamper, artifact: str, what: str) -> None:
    tamper(run)
    problems = found(run)
    assert any(name == artifact and re.search(what, said) for name, said in problems), problems


def test_a_careful_forgery_is_named(run: Run) -> None:
    """Plan, index and log agree with each other, and each row is still trained once; but the scores do not make that plan."""
    edited_plan(3, swap)(run)
    plan = BatchPlan.open(run.plan(3))
    step_of = np.full(200, -1, np.int32)
    for step in plan.steps():
        step_of[step.rows] = step.step
        place = steps_of(step.step // 3 * 3)(run)
        edited_table(
            lambda run, place=place: place,
            with_value(
                "rows_hash", step.step % 3, hashlib.sha256(step.rows.tobytes()).hexdigest()[:16]
            ),
        )(run)
    facts = encode_metadata(
        {"batch_rows": 2**16, "num_rows": 200, "parents": {"plan": plan.fingerprint}}
    )
    write_table(run.plan_index(3), pa.table({"step": step_of}).replace_schema_metadata(facts))
    problems = found(run)
    assert [name for name, _ in problems] == ["plans/epoch-0003.arrow"]
    assert re.search(HASHES, problems[0][1])


GROUPS = [
    "plans/*[0-9].arrow",
    "plans/*.stats.json",
    "plans/*.index.arrow",
    "scores/*",
    "steps/*",
    "checkpoints/*",
    "*.arrow",
]
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "zeros": lambda data: b"\0" * len(data),
}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("damage", [None, *DAMAGES])
def test_each_lost_or_damaged_artifact_is_named(run: Run, group: str, damage: str | None) -> None:
    files = sorted(Path(run.place.path).glob(group))
    assert len(files) > 1
    for path in files:
        data = path.read_bytes()
        path.unlink()
        if damage:
            path.write_bytes(DAMAGES[damage](data))
    named, lost = (
        {name for name, _ in found(run)},
        {str(path.relative_to(run.place.path)) for path in files},
    )
    assert lost <= named if damage or group != "steps/*" else "steps" in named


@pytest.mark.parametrize("name", ["run.json", "manifest.json", "samples.arrow"])
@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_root_is_named(run: Run, name: str, damage: str) -> None:
    place = (run.place if name == "run.json" else features_of(run)) / name
    place.write_bytes(DAMAGES[damage](place.read_bytes()))
    assert [artifact.split("/")[-1] for artifact, _ in found(run)] == [name]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_damage_ends_in_a_traceback(run: Run) -> None:
    rng = np.random.default_rng(0)
    files = [
        path
        for path in Path(run.place.path).rglob("*")
        if path.is_file() and not path.name.startswith(".")
    ]
    files = sorted([*files, Path(manifest_at(run).path), Path(samples_at(run).path)])
    for _ in range(20):
        chosen = [files[i] for i in rng.choice(len(files), 4, replace=False)]
        before = [path.read_bytes() for path in chosen]
        for path, data in zip(chosen, before, strict=True):
            damaged = np.frombuffer(data, np.uint8).copy()
            damaged[rng.integers(0, len(data), 1 + rng.integers(8))] = rng.integers(256)
            path.write_bytes(damaged.tobytes())
        found(run)
        for path, data in zip(chosen, before, strict=True):
            path.write_bytes(data)


def test_damaged_parts_are_named_where_they_are_read(run: Run) -> None:
    part = features_of(run) / "sight" / part_name(1)
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(bytes(data))
    (features_of(run) / "touch" / part_name(2)).delete()
    assert found(run) == []
    assert [name for name, _ in found(run, parts=True)] == [
        "features/made/sight/part-00001.arrow",
        "features/made/touch/part-00002.arrow",
    ]
