"""`remix verify`: proves from a run's artifacts that every planned row was trained exactly once, and names what does not hold.

Everything is computed anew from content. A run may be in training meanwhile: what it writes last is read first, so that whatever a checkpoint,
a table of epochs or a later plan implies was there before it is looked for; the log of the epoch in progress is the beginning of its plan.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from operator import index
from typing import Any

from pipeline.config import parse
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.metadata import Fingerprinter
from pipeline.storage.schemas import epochs_schema
from pipeline.storage.store_path import Place
from trainer.config import RunConfig
from trainer.models import checkpoint as checkpoints
from trainer.models.checkpoint import Cursor
from trainer.run_directory import Run
from trainer.verification.artifacts import (
    SAMPLE,
    Facts,
    Problems,
    check_parts,
    read_features,
    read_scores,
)
from trainer.verification.plan_coverage import STEPS_NAME, PlanCheck, StepsLog, check_origin

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What a run had written when it was looked at, in the order in which it is read."""

    num_epochs: int
    finished: bool
    cursor: Cursor | None
    best: Cursor | None
    rows: list[dict[str, int]]  # of epochs.arrow
    plans: list[int]
    logs: dict[int, list[Place]]

    @property
    def epochs(self) -> list[int]:
        """All epochs that something tells of, and those before them."""
        known = {*self.plans, *self.logs, *(row["epoch"] for row in self.rows)}
        last = max([*known, self.cursor.epoch - 1 if self.cursor else -1])
        return sorted({*known, *range(min(last + 1, self.num_epochs))})

    def has_ended(self, epoch: int) -> bool:
        """Whether all steps of an epoch were taken; its row in epochs.arrow is no proof, since what follows a checkpoint is taken again."""
        return self.finished or epoch < max([self.cursor.epoch if self.cursor else 0, *self.plans])


def verify(
    run: Run, *, parts: bool = False, progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Verifies a run, with `parts` every byte of its features too: {"run", "status", "ok", "num_epochs", "epochs", "problems"} (raises StoreError)."""
    store = run.place.parent.parent
    problems, epochs = Problems(store, run.place), []
    told = _read_facts(run, problems)
    if told:
        facts, config = told
        features = read_features(store / "features" / config.features, problems)
        if features:
            with problems.reading(run.place / "run.json"):
                problems.expect(
                    run.place / "run.json",
                    "the features' fingerprint",
                    facts["features"]["fingerprint"],
                    features.fingerprint,
                )
                problems.expect(
                    run.place / "run.json", "modalities", facts["modalities"], features.modalities
                )
            epochs = _verify(run, facts, config, features, problems, parts=parts, progress=progress)
    status, num_epochs = (told[0].get("status"), told[1].train.epochs) if told else (None, None)
    found = problems.told()
    return {
        "run": run.place.name,
        "status": status,
        "ok": not found,
        "num_epochs": num_epochs,
        "epochs": epochs,
        "problems": found,
    }


def _read_facts(run: Run, problems: Problems) -> tuple[dict[str, Any], RunConfig] | None:
    place = run.place / "run.json"
    with problems.reading(place):
        facts = run.facts
        config = parse(RunConfig, facts["config"], str(place))
        problems.expect(place, "digest", facts["digest"], config.digest)
        problems.expect(place, "name", facts["name"], run.place.name)
        problems.expect(place, "features.name", facts["features"]["name"], config.features)
        return facts, config
    return None


def _verify(
    run: Run,
    facts: dict[str, Any],
    config: RunConfig,
    features: Facts,
    problems: Problems,
    *,
    parts: bool,
    progress: Progress,
) -> list[dict[str, Any]]:
    written = _look(run, facts, config, features, problems)
    num_parts = len(features.manifest["parts"]) * len(features.modalities) if parts else 0
    total, done = len(written.epochs) + num_parts, count(1)

    def tick() -> None:
        progress(next(done), total)

    progress(0, total)
    if parts:
        check_parts(
            run.place.parent.parent / "features" / config.features, features, problems, tick
        )
    check, epochs, plans = _Epochs(run, config, features, problems, written), [], {}
    for epoch in written.epochs:
        problems.epoch = epoch
        plan, row = check.epoch(epoch)
        problems.epoch = None
        epochs.append({**row, "ok": not problems.of(epoch)})
        plans[epoch] = (plan.fingerprint, plan.num_steps)
        tick()
    _check_cursors(run, written, config, plans, problems)
    if written.finished:
        _check_end(run, facts, config, written, features, problems)
    return epochs


def _look(
    run: Run, facts: dict[str, Any], config: RunConfig, features: Facts, problems: Problems
) -> Written:
    finished = facts.get("status") == "finished"
    cursor, best = (
        _read_checkpoint(run.checkpoint(name), features, config, problems)
        for name in ("last", "best")
    )
    rows = _read_epochs(run, features, problems)
    plans = [
        int(found[1])
        for place in (run.place / "plans").list()
        if (found := re.fullmatch(r"epoch-(\d{4,})\.arrow", place.name))
    ]
    logs: dict[int, list[Place]] = {}
    for place in (run.place / "steps").list():
        found = STEPS_NAME.fullmatch(place.name)
        if found:
            logs.setdefault(int(found[1]), []).append(place)
        else:
            problems.add(place, "is not the name of a steps file: epoch-EEEE-step-SSSSSSSS.arrow")
    # looked for once more: by now it is there if anything above was written after it
    behind = (
        finished
        or any(row["epoch"] for row in rows)
        or any(plans)
        or sum(map(len, logs.values())) > 1
    )
    if behind and not run.checkpoint("last").exists():
        problems.add(run.checkpoint("last"), "does not exist, though the run went on from it")
    return Written(
        num_epochs=config.train.epochs,
        finished=finished,
        cursor=cursor,
        best=best,
        rows=rows,
        plans=plans,
        logs=logs,
    )


def _read_checkpoint(
    place: Place, features: Facts, config: RunConfig, problems: Problems
) -> Cursor | None:
    with problems.reading(place):
        if not place.exists():
            return None
        found = checkpoints.load(place)
        problems.expect(place, "its features", found["features"], features.fingerprint)
        problems.expect(place, "its configuration's digest", found["digest"], config.digest)
        problems.expect(place, "its seed", found["seed"], config.seed)
        cursor = Cursor(**found["cursor"])
        return replace(
            cursor,
            epoch=index(cursor.epoch),
            step=index(cursor.step),
            best_epoch=index(cursor.best_epoch),
        )
    return None


def _read_epochs(run: Run, features: Facts, problems: Problems) -> list[dict[str, int]]:
    place, rows = run.place / "epochs.arrow", []
    with problems.reading(place):
        if place.exists():
            for batch in BatchFile(
                place, epochs_schema(features.modalities, diagnostics=False)
            ).batches(["epoch", "num_steps", "num_rows", "policy"]):
                rows += batch.to_pylist()
        found = [row["epoch"] for row in rows]
        if found != list(range(len(found))):
            problems.add(
                place,
                f"its rows are of the epochs {', '.join(map(str, found))}, not one of each from 0 up",
            )
    return [row for row in rows if row["epoch"] >= 0]


class _Epochs:
    """Verifies epoch by epoch; scores that serve several epochs are read once."""

    def __init__(
        self, run: Run, config: RunConfig, features: Facts, problems: Problems, written: Written
    ) -> None:
        self._run, self._config, self._features, self._problems, self._written = (
            run,
            config,
            features,
            problems,
            written,
        )
        self._scores: tuple[int, Any] = (-1, None)

    def epoch(self, epoch: int) -> tuple[PlanCheck, dict[str, int]]:
        """Verifies the plan of an epoch, what it was made from, what lies beside it and the steps that were taken."""
        run, config, features, problems = self._run, self._config, self._features, self._problems
        warm = epoch < config.train.warmup_epochs
        log = StepsLog(run, self._written.logs.get(epoch, []), epoch, features.modalities, problems)
        plan = PlanCheck(run.plan(epoch), features, problems, config, epoch, log)
        if epoch >= config.train.epochs:
            problems.add(plan.place, f"the run has {config.train.epochs} epochs, from 0 up")
        scores = None if warm else self._scores_of(epoch)
        if plan.read():
            plan.whole(config.train.batch_size)
            check_origin(plan, epoch, features, config, scores, problems)
            plan.beside(run.plan_stats(epoch), run.plan_index(epoch))
            log.end(plan.num_steps, self._required(epoch, plan.num_steps))
            self._check_row(epoch, plan)
        return plan, {
            "epoch": epoch,
            "steps": plan.num_steps,
            "rows": plan.num_rows,
            "taken": log.num_taken,
        }

    def _scores_of(self, epoch: int) -> Any:
        scored = (
            epoch - (epoch - self._config.train.warmup_epochs) % self._config.train.rescore_every
        )
        if self._scores[0] != scored:
            self._scores = (
                scored,
                read_scores(
                    self._run.scores(scored), scored, self._features, self._config, self._problems
                ),
            )
        return self._scores[1]

    def _required(self, epoch: int, num_steps: int) -> int:
        """How many steps must have been taken."""
        cursor = self._written.cursor
        if self._written.has_ended(epoch):
            return num_steps
        return cursor.step if cursor and cursor.epoch == epoch else 0

    def _check_row(self, epoch: int, plan: PlanCheck) -> None:
        place, rows = (
            self._run.place / "epochs.arrow",
            [row for row in self._written.rows if row["epoch"] == epoch],
        )
        cursor = self._written.cursor
        if not rows and (self._written.finished or (cursor and epoch < cursor.epoch)):
            self._problems.add(place, f"has no row of epoch {epoch}, which has ended")
        for row in rows:
            told = {
                "num_steps": row["num_steps"],
                "num_rows": row["num_rows"],
                "policy": row["policy"],
            }
            planned = {
                "num_steps": plan.num_steps,
                "num_rows": plan.num_rows,
                "policy": plan.metadata.get("policy"),
            }
            self._problems.expect(place, f"what it says of epoch {epoch}", told, planned)


def _check_cursors(
    run: Run,
    written: Written,
    config: RunConfig,
    plans: dict[int, tuple[str, int]],
    problems: Problems,
) -> None:
    cursor, best, place = written.cursor, written.best, run.checkpoint("last")
    if cursor is None:
        return
    if not 0 <= cursor.epoch <= config.train.epochs:
        problems.add(
            place,
            f"its cursor stands at epoch {cursor.epoch}, but the run has {config.train.epochs}",
        )
    if cursor.step:
        fingerprint, num_steps = plans.get(cursor.epoch, ("", 0))
        problems.expect(
            place,
            f"the plan of epoch {cursor.epoch} in its cursor",
            cursor.plan_fingerprint,
            fingerprint,
        )
        if not 0 < cursor.step < num_steps:
            problems.add(
                place,
                f"its cursor stands at step {cursor.step}, but epoch {cursor.epoch} has {num_steps}",
            )
    # `best` is written after `last`, which stands for it until then
    awaited = not cursor.step and cursor.best_epoch + 1 == cursor.epoch and not written.finished
    if cursor.best_epoch >= 0 and not awaited and (best is None or best.epoch <= cursor.best_epoch):
        at = (
            f"stands at the end of epoch {best.epoch - 1}"
            if best
            else "does not exist or cannot be read"
        )
        problems.add(run.checkpoint("best"), f"{at}, but the best epoch is {cursor.best_epoch}")


def _check_end(
    run: Run,
    facts: dict[str, Any],
    config: RunConfig,
    written: Written,
    features: Facts,
    problems: Problems,
) -> None:
    """What a finished run must have: all epochs, a result, and every row of the test split once."""
    place = run.place / "run.json"
    missing = [epoch for epoch in range(config.train.epochs) if epoch not in written.plans]
    if missing:
        problems.add(
            place,
            f"the run is finished, but epoch {missing[0]} of {config.train.epochs} has no plan ({len(missing)} such)",
        )
    if written.cursor:
        for name, cursor, epoch in (
            ("last", written.cursor, config.train.epochs - 1),
            ("best", written.best, written.cursor.best_epoch),
        ):
            if cursor:
                problems.expect(
                    run.checkpoint(name),
                    "its cursor, (epoch, step),",
                    (cursor.epoch, cursor.step),
                    (epoch + 1, 0),
                )
        with problems.reading(place):
            problems.expect(
                place, "result.best_epoch", facts["result"]["best_epoch"], written.cursor.best_epoch
            )
    elif not run.checkpoint("best").exists():
        problems.add(run.checkpoint("best"), "does not exist, though the run is finished")
    test = run.place / "test.arrow"
    with problems.reading(test):
        content = Fingerprinter(SAMPLE)
        for batch in BatchFile(test, SAMPLE).batches(SAMPLE.names):
            content.update(batch.select(SAMPLE.names))
        if content.hexdigest({}) != features.digests["test"]:
            problems.add(
                test,
                "its rows, with their ids and labels, are not those of the split 'test', each once",
            )
