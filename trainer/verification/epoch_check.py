"""Check an epoch's plan, its statistics and its index against the scores and configuration."""

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.features.feature_set import FeatureSet
from pipeline.plans.builder import PlanBuilder
from pipeline.plans.plan import BatchPlan, Step
from pipeline.plans.stats import plan_statistics
from pipeline.plans.step_index import STEPS_SCHEMA, UNPLANNED
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import read_table
from pipeline.storage.metadata import fingerprint, fingerprint_of, read_metadata
from pipeline.storage.store_path import StorePath
from trainer.budget import rows_of_epoch
from trainer.config import RunConfig
from trainer.epoch_plan import plan_builder_of
from trainer.run_directory import Run
from trainer.schedule import phase_of, schedule_of
from trainer.scoring.epoch_scores import due_rows, previous_epoch, scored_epoch
from trainer.verification.problems import Problems


class EpochCheck:
    """Builds the plans of a run again, and compares."""

    def __init__(
        self,
        run: Run,
        config: RunConfig,
        features: FeatureSet,
        problems: Problems,
        history: list[dict[str, Any]],
    ) -> None:
        self._run, self._config, self._features, self._problems = run, config, features, problems
        self._history = history  # rows of epochs.arrow
        self._digest = str(run.metadata.get("digest"))

    def plan(self, epoch: int) -> BatchPlan | None:
        """Check the plan of an epoch and return it, None if it cannot be read."""
        path, num_epochs = self._run.plan(epoch), self._config.train.epochs
        if epoch >= num_epochs:
            self._problems.add(
                path, f"unexpected epoch {epoch}: the run has {num_epochs} epochs, from 0 up"
            )
            return None
        with self._problems.reading(path):
            plan = BatchPlan.open(path, num_rows=self._features.num_rows)
            builder = self._builder(epoch, plan.metadata.get("share", 1.0))
            if builder:
                self._check_origin(path, plan, builder)
            self._check_statistics(self._run.plan_stats(epoch), plan)
            self._check_index(self._run.plan_index(epoch), plan)
            return plan
        return None

    def _builder(self, epoch: int, share: float) -> PlanBuilder | None:
        """A builder of the plan from scores and configuration, None if the scores are invalid."""
        config, features = self._config, self._features
        rows = self._history[: epoch + 1]
        schedule = rows[epoch]["schedule"] if epoch < len(rows) else schedule_of(config, rows)
        phase = phase_of(config, features.modalities, rows[:epoch], schedule)
        if phase.kind != "remix":
            return plan_builder_of(config, features, epoch, phase, None, self._digest, share)
        scored = scored_epoch(config, epoch)
        path = self._run.scores(scored)
        with self._problems.reading(path):
            scores = Scores.open(path)
            expected = {
                "epoch": scored,
                "seed": config.seed,
                "modalities": features.modalities,
                "num_classes": len(features.classes),
                "parents": {"features": features.fingerprint, "config": self._digest},
            }
            self._problems.expect(path, "metadata", scores.metadata, expected)
            self._check_kept(path, scores, scored)
            own = rows_of_epoch(config, features, epoch, share)
            scores = scores.take(own) if len(own) < len(scores) else scores
            return plan_builder_of(config, features, epoch, phase, scores, self._digest, share)
        return None

    def _check_kept(self, path: StorePath, scores: Scores, scored: int) -> None:
        """Compare the rows that an epoch did not score with the scores before (rescore_share)."""
        due = due_rows(self._config, self._run, scored, scores.rows)
        kept = np.setdiff1d(scores.rows, due)
        previous = self._run.scores(previous_epoch(self._config, scored))
        if not len(kept):
            return
        with self._problems.reading(previous):
            last = Scores.open(previous).take(kept).table
            if fingerprint(last, {}) != fingerprint(scores.take(kept).table, {}):
                self._problems.add(path, "rows that the epoch did not score have other scores")

    def _check_origin(self, path: StorePath, plan: BatchPlan, builder: PlanBuilder) -> None:
        """Compare metadata and fingerprint; if they differ, report the first step that does."""
        rebuilt = read_metadata(builder.schema())
        if plan.metadata == rebuilt:
            return
        known = {**dict.fromkeys(plan.metadata), **builder.metadata}
        known.pop("fingerprint", None)
        self._problems.expect(path, "metadata", plan.metadata, known)
        for number, steps in enumerate(zip_longest(plan.steps(), _steps(builder))):
            stored, expected = map(_describe, steps)
            if stored != expected:
                self._problems.add(
                    path,
                    f"step {number} is {stored}; "
                    f"expected from scores, configuration and seed: {expected}",
                )
                return

    def _check_statistics(self, path: StorePath, plan: BatchPlan) -> None:
        """Compare all statistics that can be computed from the plan and its features."""
        labels, batch_rows = self._features.labels, self._features.manifest["batch_rows"]
        expected = plan_statistics(plan, labels=labels, batch_rows=batch_rows)
        with self._problems.reading(path):
            stored = path.read_json()
            wrong = [name for name, value in expected.items() if stored.get(name) != value]
            # these two also depend on other epochs' files
            if wrong := [name for name in wrong if name not in ("churn", "histograms")]:
                self._problems.add(path, f"{', '.join(wrong)} differ from the plan's")

    def _check_index(self, path: StorePath, plan: BatchPlan) -> None:
        """Compare the index with the first step of each row."""
        steps = np.full(self._features.num_rows, UNPLANNED, np.int32)
        # reversed, so that of a repeated row the first step is written last and remains
        for batch in reversed(plan.table.to_batches()):
            rows, numbers = batch.column("rows"), batch.column("step").to_numpy()
            step_of_row = np.repeat(numbers, np.diff(rows.offsets.to_numpy()))
            steps[rows.flatten().to_numpy()[::-1]] = step_of_row[::-1]
        with self._problems.reading(path):
            table = read_table(path, trusted=False)
            expected = {"num_rows": len(steps), "parents": {"plan": plan.fingerprint}}
            self._problems.expect(path, "metadata", read_metadata(table.schema), expected)
            if not table.equals(pa.table([steps], STEPS_SCHEMA)):
                self._problems.add(path, "the steps of its rows differ from the plan's")


def _steps(builder: PlanBuilder) -> Iterator[Step]:
    for batch in builder.batches():
        yield from BatchPlan(pa.Table.from_batches([batch])).steps()


def _describe(step: Step | None) -> str:
    """Describe a step, so that different steps have different descriptions."""
    if step is None:
        return "missing"
    assignment = step.assigned
    assigned = (
        "" if assignment is None else f", assignment {fingerprint_of(assignment.tolist())[:12]}"
    )
    return f"{len(step.rows)} rows of {step.modality!r}, hash {step.rows_hash}{assigned}"
