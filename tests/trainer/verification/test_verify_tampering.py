"""`remix verify` reports every artifact that was changed, lost or damaged."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.features.part_writer import part_name
from pipeline.plans.plan import BatchPlan
from pipeline.plans.step_index import write_step_index
from tests.support.verify_edits import (
    Steps,
    Tamper,
    at,
    checkpoint,
    copied,
    deleted,
    edited,
    edited_steps,
    problems_of,
    swap,
    weights_from,
    with_json,
    with_value,
    without_row,
)
from trainer.models import checkpoint as checkpoints
from trainer.run_directory import Run

F12, F64 = "f" * 12, "f" * 64
PLAN, SCORES = "plans/epoch-0003.arrow", "scores/epoch-0002.arrow"
STATS, INDEX = "plans/epoch-0003.stats.json", "plans/epoch-0003.index.arrow"
WARM_UP, STEPS_0 = "plans/epoch-0000.arrow", "steps/epoch-0000-step-00000003.arrow"
STEPS_3, STEPS_6 = (f"steps/epoch-0003-step-0000000{step}.arrow" for step in (3, 6))
LAST, BEST, MODEL, SOUND = (
    f"checkpoints/{name}.pt" for name in ("last", "best", "model", "best.sound")
)
MANIFEST, SAMPLES = "features/made/manifest.json", "features/made/samples.arrow"


def copied_to(source: str, to: str, what: str, named: str = "") -> tuple[Tamper, str, str]:
    return copied(source, to), named or to, what


def other_sound(table: pa.Table) -> pa.Table:
    """Change the score of the row of lowest ability in sound."""
    return with_value("kl_sound", int(np.nanargmin(table["kl_sound"].to_numpy())), 1.58)(table)


def other_label(table: pa.Table) -> pa.Table:
    return with_value("label", 0, (table["label"][0].as_py() + 1) % 3)(table)


def row_twice(steps: Steps) -> None:
    steps[1]["rows"].append(steps[0]["rows"][0])


def readout(**changes: object) -> Tamper:
    """Change entries of the readout of checkpoints/model.pt."""

    def tamper(run: Run) -> None:
        before = checkpoints.load(run.checkpoint("model"))["readout"]
        checkpoint("model", readout={**before, **changes})(run)

    return tamper


def assembled(change: Callable[[dict[str, Any]], object]) -> Tamper:
    """Change the description of the assembled model in run.json."""
    return with_json("run.json", lambda run_json: change(run_json["result"]["assembled"]))


TAMPERS: dict[str, tuple[Tamper, str, str]] = {
    "plan: rows swapped in warm-up": (edited_steps(0, swap), WARM_UP, "0"),
    "plan: last step dropped": (edited_steps(3, lambda steps: steps.pop()), PLAN, "8"),
    "plan: row twice": (edited_steps(3, row_twice), PLAN, "1; 0"),
    "plan: old fingerprint": (
        edited(PLAN, with_value("modality", 0, "touch")),
        PLAN,
        "fingerprint",
    ),
    "plan: batch size": (edited_steps(3, len, batch_size=32), PLAN, "batch_size; 32; 16"),
    "plan: an entry too many": (edited_steps(3, len, more=1), PLAN, "more"),
    "plan: parents": (
        edited_steps(0, len, parents={"features": F64}),
        WARM_UP,
        f"parents.features; {F12}",
    ),
    "plan: too many": copied_to(PLAN, "plans/epoch-0007.arrow", "5"),
    "statistics": (
        with_json(STATS, lambda value: value.update(modalities={})),
        STATS,
        "modalities",
    ),
    "statistics in a list": (lambda run: at(STATS)(run).write_bytes(b"[]"), STATS, ""),
    "index: a step": (edited(INDEX, with_value("step", 0, 99)), INDEX, "rows"),
    "index: of another plan": (
        edited(INDEX, pa.Table.combine_chunks, hashed=True, parents={"plan": F64}),
        INDEX,
        f"parents.plan; {F12}",
    ),
    "scores: of another plan": (edited(SCORES, other_sound, hashed=True), PLAN, "parents.scores"),
    "scores: fewer rows": (edited(SCORES, without_row(5), hashed=True), SCORES, "train"),
    "scores: other labels": (edited(SCORES, other_label, hashed=True), SCORES, "label"),
    "scores: another epoch": copied_to(SCORES, "scores/epoch-0004.arrow", "epoch; 2; 4"),
    "steps: last lost": (deleted(STEPS_6), "steps", "6"),
    "steps: out of order": (edited(STEPS_3, lambda table: table.take([0, 2, 1])), STEPS_3, "5; 4"),
    "steps: wrong name": copied_to(STEPS_3, "steps/epoch-0003-step-00000005.arrow", "3; 5"),
    "steps: another epoch": copied_to(
        STEPS_3, "steps/epoch-0004-step-00000003.arrow", "epoch; 3; 4"
    ),
    "steps: no name": copied_to(STEPS_3, "steps/epoch-0003-step-00000003-copy.arrow", ""),
    "steps: no plan": copied_to(
        STEPS_3, "steps/epoch-0009-step-00000003.arrow", "5", "plans/epoch-0009.arrow"
    ),
    "steps: past the plan": (edited(STEPS_6, with_value("step", 0, 99)), STEPS_6, "99"),
    "steps: hash of rows": (
        edited(STEPS_3, with_value("rows_hash", 1, "0" * 16)),
        STEPS_3,
        f"4; rows_hash; {'0' * 16}",
    ),
    "steps: rows of a modality": (
        edited(STEPS_0, with_value("num_rows_touch", 1, 99)),
        STEPS_0,
        "4; num_rows_touch; 99",
    ),
    "epochs: a row lost": (edited("epochs.arrow", without_row(4)), "epochs.arrow", "4"),
    "epochs: number of rows": (
        edited("epochs.arrow", with_value("num_rows", 1, 7)),
        "epochs.arrow",
        "1; num_rows; 7",
    ),
    "last: other features": (checkpoint("last", features=F64), LAST, f"features; {F12}"),
    "last: before the end": (checkpoint("last", {"epoch": 4}), LAST, "(4, 0); (5, 0)"),
    "last: within another plan": (
        checkpoint("last", {"epoch": 3, "step": 3, "plan_fingerprint": F64}),
        LAST,
        f"plan; {F12}",
    ),
    "last: past the plan": (checkpoint("last", {"epoch": 3, "step": 99}), LAST, "99; 9"),
    "last: another best epoch": (checkpoint("last", {"best_epoch": 3}), LAST, "best_epoch; 3; 2"),
    "best: a worse epoch": (checkpoint("best", {"epoch": 0}), BEST, "(0, 0)"),
    "part: a worse epoch": (checkpoint("best.sound", {"epoch": 5}), SOUND, "(5, 0); (1, 0)"),
    "part: weights of another epoch": (weights_from("last", "best.sound", "sound"), MODEL, "sound"),
    "part: of another modality": copied_to("checkpoints/best.sight.pt", SOUND, "(4, 0); (1, 0)"),
    "model: an encoder of another epoch": (weights_from("best", "model", "touch"), MODEL, "touch"),
    "model: not assembled": copied_to(BEST, MODEL, "readout"),
    "model: a temperature": (readout(temperatures={"sound": 9.0}), MODEL, "temperatures; 9.0"),
    "model: another readout": (readout(kind="fused"), "run.json", "readout; refit; fused"),
    "epochs: another best epoch": (
        edited("epochs.arrow", with_value("best_epoch", 3, 3)),
        "epochs.arrow",
        "3; best_epoch; 3.0; 2",
    ),
    "epochs: another best epoch of a modality": (
        edited("epochs.arrow", with_value("best_epoch_sound", 4, 4)),
        "epochs.arrow",
        "4; best_epoch_sound; 4.0; 0",
    ),
    "epochs: a lower loss": (
        edited("epochs.arrow", with_value("calibrated_loss", 3, 0.0)),
        LAST,
        "best_epoch; 2; 3",
    ),
    "run: configuration": (
        with_json("run.json", lambda run_json: run_json["config"].update(seed=1)),
        "run.json",
        "digest",
    ),
    "run: features": (
        with_json("run.json", lambda run_json: run_json["features"].update(fingerprint=F64)),
        "run.json",
        f"fingerprint; {F12}",
    ),
    "run: result": (
        with_json("run.json", lambda run_json: run_json["result"].update(best_epoch=9)),
        "run.json",
        "result.best_epoch; 9",
    ),
    "run: an accuracy": (
        with_json("run.json", lambda run_json: run_json["result"]["test_accuracy"].update(sight=2)),
        "run.json",
        "result.test_accuracy.sight; 2",
    ),
    "run: a confusion matrix": (
        with_json(
            "run.json", lambda run_json: run_json["result"]["confusion"]["sight"][0].reverse()
        ),
        "run.json",
        "result.confusion.sight",
    ),
    "run: an accuracy of the assembled model": (
        assembled(lambda entry: entry["test_accuracy"].update(fused=0.5)),
        "run.json",
        "result.assembled.test_accuracy.fused; 0.5",
    ),
    "run: epoch of an assembled encoder": (
        assembled(lambda entry: entry["epochs"].update(sight=1)),
        "run.json",
        "result.assembled.epochs.sight; 1; 3",
    ),
    "run: a lower loss of another readout": (
        assembled(lambda entry: entry["validation_loss"].update(stack=-1.0)),
        "run.json",
        "assembled.readout; refit; stack",
    ),
    "features: fingerprint": (
        with_json(MANIFEST, lambda manifest: manifest.update(fingerprint=F64)),
        SAMPLES,
        F64,
    ),
    "features: no hash of a part": (
        with_json(MANIFEST, lambda manifest: manifest["parts"][0].pop("files")),
        MANIFEST,
        "files",
    ),
    "test: a row lost": (edited("test.arrow", without_row(0)), "test.arrow", "test"),
    "test: a prediction": (
        edited("test.arrow", with_value("predicted_assembled_touch", 0, 9)),
        "run.json",
        "result.assembled.test_accuracy.touch",
    ),
    "test: a confidence": (
        edited("test.arrow", with_value("p_predicted_assembled_touch", 0, 0.001)),
        "test.arrow",
        "p_predicted_assembled_touch",
    ),
}


@pytest.mark.parametrize(
    ("tamper", "artifact", "what"),
    [pytest.param(*each, id=name) for name, each in TAMPERS.items()],
)
def test_changed_artifact_is_reported(run: Run, tamper: Tamper, artifact: str, what: str) -> None:
    tamper(run)
    problems = problems_of(run)
    words = [rf"(?<!\w){re.escape(word)}(?!\w)" for word in what.split("; ") if word]
    said = [said for name, said in problems if name == artifact]
    assert any(all(re.search(word, each) for word in words) for each in said), problems


def test_features_checked_by_this_process_are_hashed_again(run: Run) -> None:
    assert problems_of(run) == []
    hashes = {"sha256": "f" * 64}
    with_json(MANIFEST, lambda value: value["parts"][0]["files"]["sight"].update(hashes))(run)
    assert [name for name, _ in problems_of(run)] == [SAMPLES]


def test_a_consistent_forgery_is_reported(run: Run) -> None:
    """Plan, index and log agree and train each row once, but the scores give another plan."""
    edited_steps(3, lambda steps: steps[0]["rows"].reverse())(run)
    plan = BatchPlan.open(run.plan(3))
    for step in plan.steps():
        path = f"steps/epoch-0003-step-{step.step // 3 * 3:08d}.arrow"
        edited(path, with_value("rows_hash", step.step % 3, step.rows_hash))(run)
    write_step_index(run.plan_index(3), plan, 200)
    assert [name for name, _ in problems_of(run)] == [PLAN]


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
def test_lost_or_damaged_artifacts_are_reported(run: Run, damage: str | None) -> None:
    for group in GROUPS:
        files = sorted(Path(run.path.path).glob(group))
        assert len(files) > 1
        contents = [path.read_bytes() for path in files]
        for path, data in zip(files, contents, strict=True):
            path.unlink()
            if damage:
                path.write_bytes(DAMAGES[damage](data))
        named = {name for name, _ in problems_of(run)}
        lost = {str(path.relative_to(run.path.path)) for path in files}
        assert lost <= named if damage or group != "steps/*" else "steps" in named
        for path, data in zip(files, contents, strict=True):
            path.write_bytes(data)
    assert problems_of(run) == []


@pytest.mark.parametrize("path", ["run.json", MANIFEST, SAMPLES])
def test_a_damaged_root_is_reported(run: Run, path: str) -> None:
    store_path = at(path)(run)
    contents = store_path.read_bytes()
    for damage in DAMAGES.values():
        store_path.write_bytes(damage(contents))
        assert [artifact for artifact, _ in problems_of(run)] == [path]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_damage_ends_in_a_traceback(run: Run) -> None:
    rng = np.random.default_rng(0)
    files = [path for path in Path(run.path.path).rglob("*") if path.is_file()]
    files = sorted(path for path in files if not path.name.startswith("."))
    files += [Path(at(path)(run).path) for path in (MANIFEST, SAMPLES)]
    for _ in range(20):
        chosen = [files[i] for i in rng.choice(len(files), 4, replace=False)]
        before = [path.read_bytes() for path in chosen]
        for path, data in zip(chosen, before, strict=True):
            damaged = np.frombuffer(data, np.uint8).copy()
            damaged[rng.integers(0, len(data), 1 + rng.integers(8))] = rng.integers(256)
            path.write_bytes(damaged.tobytes())
        problems_of(run)
        for path, data in zip(chosen, before, strict=True):
            path.write_bytes(data)


def test_damaged_parts_are_reported_if_they_are_read(run: Run) -> None:
    paths = [f"features/made/sight/{part_name(1)}", f"features/made/touch/{part_name(2)}"]
    data = bytearray(at(paths[0])(run).read_bytes())
    data[len(data) // 2] ^= 1
    at(paths[0])(run).write_bytes(bytes(data))
    at(paths[1])(run).delete()
    assert problems_of(run) == []
    assert [name for name, _ in problems_of(run, parts=True)] == paths
