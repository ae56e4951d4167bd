"""`remix verify`: whatever is tampered with, lost or damaged is named."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.features.part_writer import part_name
from pipeline.plans.plan import BatchPlan
from pipeline.plans.step_index import write_step_index
from tests.support.verify_edits import (
    Tamper,
    at,
    checkpoint,
    copied,
    deleted,
    edited,
    edited_steps,
    found,
    swap,
    with_json,
    with_value,
    without_row,
)
from trainer.run_directory import Run

F12 = r"\bf{12}\b"
PLAN, SCORES = "plans/epoch-0003.arrow", "scores/epoch-0002.arrow"
STATS, INDEX = "plans/epoch-0003.stats.json", "plans/epoch-0003.index.arrow"
STEPS_0, STEPS_3, STEPS_6 = (f"steps/epoch-0003-step-0000000{step}.arrow" for step in (0, 3, 6))
LAST, BEST = "checkpoints/last.pt", "checkpoints/best.pt"
MANIFEST, SAMPLES = "features/made/manifest.json", "features/made/samples.arrow"

PLANS: dict[str, tuple[Tamper, str, str]] = {
    "rows swapped": (edited_steps(3, swap), PLAN, r"\b0\b"),
    "rows swapped in warm-up": (edited_steps(1, swap), "plans/epoch-0001.arrow", r"\b0\b"),
    "row dropped": (edited_steps(3, lambda steps: steps[2]["rows"].pop()), PLAN, r"\b2\b"),
    "last step dropped": (edited_steps(3, lambda steps: steps.pop()), PLAN, r"\b8\b"),
    "row twice": (
        edited_steps(3, lambda steps: steps[1]["rows"].append(steps[0]["rows"][0])),
        PLAN,
        r"(?=.*\b1\b)(?=.*\b0\b)",
    ),
    "no new fingerprint": (
        edited(PLAN, with_value("modality", 0, "touch")),
        PLAN,
        r"\bfingerprint\b",
    ),
    "batch size": (
        edited_steps(3, lambda steps: None, batch_size=32),
        PLAN,
        r"(?=.*\bbatch_size\b)(?=.*\b32\b)(?=.*\b16\b)",
    ),
    "an entry too many": (edited_steps(3, lambda steps: None, more=1), PLAN, r"\bmore\b"),
    "parents": (
        edited_steps(0, lambda steps: None, parents={"features": "f" * 64}),
        "plans/epoch-0000.arrow",
        rf"(?=.*\bparents\.features\b)(?=.*{F12})",
    ),
    "plan too many": (copied(PLAN, "plans/epoch-0007.arrow"), "plans/epoch-0007.arrow", r"\b5\b"),
    "last plan lost": (deleted("plans/epoch-0004.arrow"), "plans/epoch-0004.arrow", ""),
    "statistics": (
        with_json(STATS, lambda told: told["modalities"]["sight"].update(share=0.1)),
        STATS,
        r"\bmodalities\b",
    ),
    "statistics in a list": (lambda run: at(STATS)(run).write_bytes(b"[]"), STATS, ""),
    "a step of the index": (edited(INDEX, with_value("step", 0, 99)), INDEX, r"\brows\b"),
    "an index too short": (edited(INDEX, without_row(7)), INDEX, r"\brows\b"),
    "an index of another plan": (
        edited(INDEX, lambda table: table, hashed=True, parents={"plan": "f" * 64}),
        INDEX,
        rf"(?=.*\bparents\.plan\b)(?=.*{F12})",
    ),
}


def other_sound(table: pa.Table) -> pa.Table:
    """The row that is most able in sound is not any more."""
    return with_value("kl_sound", int(np.nanargmin(table["kl_sound"].to_numpy())), 1.58)(table)


def other_label(table: pa.Table) -> pa.Table:
    return with_value("label", 0, (table["label"][0].as_py() + 1) % 3)(table)


SCORED: dict[str, tuple[Tamper, str, str]] = {
    "scores edited": (
        edited(SCORES, with_value("p_label_sound", 0, 0.5)),
        SCORES,
        r"\bfingerprint\b",
    ),
    "a plan of other scores": (
        edited(SCORES, other_sound, hashed=True),
        PLAN,
        r"\bparents\.scores\b",
    ),
    "scores of fewer rows": (
        edited(SCORES, without_row(5), hashed=True),
        SCORES,
        r"\btrain\b",
    ),
    "scores of other labels": (edited(SCORES, other_label, hashed=True), SCORES, r"\blabel\b"),
    "scores of another epoch": (
        copied(SCORES, "scores/epoch-0004.arrow"),
        "scores/epoch-0004.arrow",
        r"(?=.*\bepoch\b)(?=.*\b2\b)(?=.*\b4\b)",
    ),
}


LOGS: dict[str, tuple[Tamper, str, str]] = {
    "first steps lost": (deleted(STEPS_0), STEPS_3, r"(?=.*\b3\b)(?=.*\b0\b)"),
    "last steps lost": (deleted(STEPS_6), "steps", r"\b6\b"),
    "a step lost": (edited(STEPS_3, without_row(1)), STEPS_3, r"(?=.*\b5\b)(?=.*\b4\b)"),
    "all steps lost": (deleted("steps"), "steps", r"(?=.*\b0\b)(?=.*\b8\b)"),
    "steps out of order": (
        edited(STEPS_3, lambda table: table.take([0, 2, 1])),
        STEPS_3,
        r"(?=.*\b5\b)(?=.*\b4\b)",
    ),
    "steps twice": (
        copied(STEPS_3, "steps/epoch-0003-step-00000005.arrow"),
        "steps/epoch-0003-step-00000005.arrow",
        r"(?=.*\b3\b)(?=.*\b6\b)",
    ),
    "steps under a wrong name": (
        copied(STEPS_3, "steps/epoch-0003-step-00000005.arrow"),
        "steps/epoch-0003-step-00000005.arrow",
        r"(?=.*\b3\b)(?=.*\b5\b)",
    ),
    "steps of another epoch": (
        copied(STEPS_3, "steps/epoch-0004-step-00000003.arrow"),
        "steps/epoch-0004-step-00000003.arrow",
        r"(?=.*\bepoch\b)(?=.*\b3\b)(?=.*\b4\b)",
    ),
    "no name of steps": (
        copied(STEPS_3, "steps/epoch-0003-step-00000003-copy.arrow"),
        "steps/epoch-0003-step-00000003-copy.arrow",
        "",
    ),
    "steps without a plan": (
        copied(STEPS_3, "steps/epoch-0009-step-00000003.arrow"),
        "plans/epoch-0009.arrow",
        r"\b5\b",
    ),
    "a step past the plan": (edited(STEPS_6, with_value("step", 0, 99)), STEPS_6, r"\b99\b"),
    "hash of rows": (
        edited(STEPS_3, with_value("rows_hash", 1, "0" * 16)),
        STEPS_3,
        r"(?=.*\b4\b)(?=.*\brows_hash\b)(?=.*\b0{16}\b)",
    ),
    "rows of a modality": (
        edited("steps/epoch-0000-step-00000003.arrow", with_value("num_rows_touch", 1, 99)),
        "steps/epoch-0000-step-00000003.arrow",
        r"(?=.*\b4\b)(?=.*\bnum_rows_touch\b)(?=.*\b99\b)",
    ),
}

FACTS: dict[str, tuple[Tamper, str, str]] = {
    "epoch's row lost": (edited("epochs.arrow", without_row(4)), "epochs.arrow", r"\b4\b"),
    "epoch's row twice": (
        edited("epochs.arrow", lambda table: pa.concat_tables([table, table.slice(4)])),
        "epochs.arrow",
        r"\b0\W+1\W+2\W+3\W+4\W+4\b",
    ),
    "epoch's rows": (
        edited("epochs.arrow", with_value("num_rows", 1, 7)),
        "epochs.arrow",
        r"(?=.*\b1\b)(?=.*\bnum_rows\b)(?=.*\b7\b)",
    ),
    "last of other features": (
        checkpoint("last", features="f" * 64),
        LAST,
        rf"(?=.*\bfeatures\b)(?=.*{F12})",
    ),
    "best of other configuration": (
        checkpoint("best", digest="f" * 64),
        BEST,
        rf"(?=.*\bdigest\b)(?=.*{F12})",
    ),
    "last before the end": (
        checkpoint("last", {"epoch": 4}),
        LAST,
        r"(?=.*\(4, 0\))(?=.*\(5, 0\))",
    ),
    "last within another plan": (
        checkpoint("last", {"epoch": 3, "step": 3, "plan_fingerprint": "f" * 64}),
        LAST,
        rf"(?=.*\bplan\b)(?=.*{F12})",
    ),
    "last past the plan": (
        checkpoint("last", {"epoch": 3, "step": 99}),
        LAST,
        r"(?=.*\b99\b)(?=.*\b9\b)",
    ),
    "best of a worse epoch": (checkpoint("best", {"epoch": 0}), BEST, r"\(0, 0\)"),
    "configuration": (
        with_json("run.json", lambda facts: facts["config"].update(seed=1)),
        "run.json",
        r"\bdigest\b",
    ),
    "features of the run": (
        with_json("run.json", lambda facts: facts["features"].update(fingerprint="f" * 64)),
        "run.json",
        rf"(?=.*\bfingerprint\b)(?=.*{F12})",
    ),
    "modalities of the run": (
        with_json("run.json", lambda facts: facts["modalities"].pop()),
        "run.json",
        r"(?=.*\bmodalities\b)(?=.*\['sound', 'sight'\])",
    ),
    "result": (
        with_json("run.json", lambda facts: facts["result"].update(best_epoch=9)),
        "run.json",
        r"(?=.*\bresult\.best_epoch\b)(?=.*\b9\b)",
    ),
    "features' fingerprint": (
        with_json(MANIFEST, lambda manifest: manifest.update(fingerprint="f" * 64)),
        SAMPLES,
        r"\bf{64}\b",
    ),
    "no hash of a part": (
        with_json(MANIFEST, lambda manifest: manifest["parts"][0].pop("files")),
        MANIFEST,
        r"\bfiles\b",
    ),
    "features lost": (deleted("features/made"), MANIFEST, ""),
    "a row of the test lost": (edited("test.arrow", without_row(0)), "test.arrow", r"\btest\b"),
}


@pytest.mark.parametrize(
    ("tamper", "artifact", "what"),
    [pytest.param(*each, id=name) for name, each in {**PLANS, **SCORED, **LOGS, **FACTS}.items()],
)
def test_what_is_tampered_with_is_named(run: Run, tamper: Tamper, artifact: str, what: str) -> None:
    tamper(run)
    problems = found(run)
    assert any(name == artifact and re.search(what, said) for name, said in problems), problems


def test_features_that_this_process_has_checked_are_hashed_again(run: Run) -> None:
    assert found(run) == []
    hashes = {"sha256": "f" * 64}
    with_json(MANIFEST, lambda told: told["parts"][0]["files"]["sight"].update(hashes))(run)
    assert [name for name, _ in found(run)] == [SAMPLES]


def test_a_careful_forgery_is_named(run: Run) -> None:
    """Plan, index and log agree, and each row is trained once; but the scores do not make that plan."""
    edited_steps(3, swap)(run)
    plan = BatchPlan.open(run.plan(3))
    for step in plan.steps():
        path = f"steps/epoch-0003-step-{step.step // 3 * 3:08d}.arrow"
        edited(path, with_value("rows_hash", step.step % 3, step.rows_hash))(run)
    write_step_index(run.plan_index(3), plan, 200)
    assert [name for name, _ in found(run)] == [PLAN]


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


@pytest.mark.parametrize("damage", [None, *DAMAGES])
def test_each_lost_or_damaged_artifact_is_named(run: Run, damage: str | None) -> None:
    for group in GROUPS:
        files = sorted(Path(run.place.path).glob(group))
        assert len(files) > 1
        whole = [path.read_bytes() for path in files]
        for path, data in zip(files, whole, strict=True):
            path.unlink()
            if damage:
                path.write_bytes(DAMAGES[damage](data))
        named = {name for name, _ in found(run)}
        lost = {str(path.relative_to(run.place.path)) for path in files}
        assert lost <= named if damage or group != "steps/*" else "steps" in named
        for path, data in zip(files, whole, strict=True):
            path.write_bytes(data)
    assert found(run) == []


@pytest.mark.parametrize("path", ["run.json", MANIFEST, SAMPLES])
def test_a_damaged_root_is_named(run: Run, path: str) -> None:
    place = at(path)(run)
    whole = place.read_bytes()
    for damage in DAMAGES.values():
        place.write_bytes(damage(whole))
        assert [artifact for artifact, _ in found(run)] == [path]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_damage_ends_in_a_traceback(run: Run) -> None:
    rng = np.random.default_rng(0)
    files = [path for path in Path(run.place.path).rglob("*") if path.is_file()]
    files = sorted(path for path in files if not path.name.startswith("."))
    files += [Path(at(path)(run).path) for path in (MANIFEST, SAMPLES)]
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
    paths = [f"features/made/sight/{part_name(1)}", f"features/made/touch/{part_name(2)}"]
    data = bytearray(at(paths[0])(run).read_bytes())
    data[len(data) // 2] ^= 1
    at(paths[0])(run).write_bytes(bytes(data))
    at(paths[1])(run).delete()
    assert found(run) == []
    assert [name for name, _ in found(run, parts=True)] == paths
