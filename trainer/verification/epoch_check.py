"""An epoch's scores, plan, and what lies beside the plan, held against what the plan is made from."""

from collections.abc import Iterator
from itertools import zip_longest

import numpy as np
import pyarrow as pa

from pipeline.features.feature_set import FeatureSet
from pipeline.plans.builder import PlanBuilder
from pipeline.plans.plan import BatchPlan, Step
from pipeline.plans.stats import plan_statistics
from pipeline.plans.step_index import STEPS_SCHEMA, UNPLANNED
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import read_table
from pipeline.storage.metadata import fingerprint_of, read_metadata
from pipeline.storage.store_path import StorePath
from trainer.config import RunConfig
from trainer.epoch_plan import plan_builder_of
from trainer.run_directory import Run
from trainer.verification.problems import Problems


class EpochCheck:
    """Makes the plans of a run again, and compares."""

    def __init__(
        self, run: Run, config: RunConfig, features: FeatureSet, problems: Problems
    ) -> None:
        self._run, self._config, self._features, self._problems = run, config, features, problems
        self._digest = str(run.facts.get("digest"))

    def plan(self, epoch: int) -> BatchPlan | None:
        """The plan of an epoch, compared with the one that is made again; None where it cannot be read."""
        path, num_epochs = self._run.plan(epoch), self._config.train.epochs
        if epoch >= num_epochs:
            self._problems.add(path, f"the run has {num_epochs} epochs, from 0 up")
            return None
        draft = self._draft(epoch)
        with self._problems.reading(path):
            plan = BatchPlan.open(path, num_rows=self._features.num_rows)
            if draft:
                self._check_origin(path, plan, draft)
            self._check_statistics(self._run.plan_stats(epoch), plan)
            self._check_index(self._run.plan_index(epoch), plan)
            return plan
        return None

    def _draft(self, epoch: int) -> PlanBuilder | None:
        """The plan as scores and configuration make it, None where the scores do not hold."""
        config, features = self._config, self._features
        since = epoch - config.train.warmup_epochs
        if since < 0:
            return plan_builder_of(config, features, epoch, None, self._digest)
        scored = epoch - since % config.train.rescore_every
        path = self._run.scores(scored)
        with self._problems.reading(path):
            scores = Scores.open(path)
            made_for = {
                "epoch": scored,
                "seed": config.seed,
                "modalities": features.modalities,
                "num_classes": len(features.classes),
                "parents": {"features": features.fingerprint, "config": self._digest},
            }
            self._problems.expect(path, "metadata", scores.metadata, made_for)
            return plan_builder_of(config, features, epoch, scores, self._digest)
        return None

    def _check_origin(self, path: StorePath, plan: BatchPlan, draft: PlanBuilder) -> None:
        """Compares metadata and fingerprint, and where those differ names the first step that does."""
        made = read_metadata(draft.schema())
        if plan.metadata == made:
            return
        known = {**dict.fromkeys(plan.metadata), **draft.metadata}
        known.pop("fingerprint", None)
        self._problems.expect(path, "metadata", plan.metadata, known)
        for number, steps in enumerate(zip_longest(plan.steps(), _steps(draft))):
            stored, again = map(_described, steps)
            if stored != again:
                said = f"step {number} is {stored}, but scores, configuration and seed make {again}"
                self._problems.add(path, said)
                return

    def _check_statistics(self, path: StorePath, plan: BatchPlan) -> None:
        """Compares all statistics that follow from the plan and its features."""
        labels, batch_rows = self._features.labels, self._features.manifest["batch_rows"]
        expected = plan_statistics(plan, labels=labels, batch_rows=batch_rows)
        with self._problems.reading(path):
            found = path.read_json()
            wrong = [name for name, value in expected.items() if found.get(name) != value]
            if wrong := [name for name in wrong if name not in ("churn", "histograms")]:
                self._problems.add(path, f"its {', '.join(wrong)} are not those of the plan")

    def _check_index(self, path: StorePath, plan: BatchPlan) -> None:
        """Compares the index with the first step of each row."""
        steps = np.full(self._features.num_rows, UNPLANNED, np.int32)
        for batch in reversed(plan.table.to_batches()):
            rows, numbers = batch.column("rows"), batch.column("step").to_numpy()
            each = np.repeat(numbers, np.diff(rows.offsets.to_numpy()))
            steps[rows.flatten().to_numpy()[::-1]] = each[::-1]
        with self._problems.reading(path):
            found = read_table(path, trusted=False)
            made_for = {"num_rows": len(steps), "parents": {"plan": plan.fingerprint}}
            self._problems.expect(path, "metadata", read_metadata(found.schema), made_for)
            if not found.equals(pa.table([steps], STEPS_SCHEMA)):
                self._problems.add(path, "its steps of rows are not those of the plan")


def _steps(draft: PlanBuilder) -> Iterator[Step]:
    for batch in draft.batches():
        yield from BatchPlan(pa.Table.from_batches([batch])).steps()


def _described(step: Step | None) -> str:
    """A step in words that differ where the steps do."""
    if step is None:
        return "missing"
    owners = step.assigned
    assigned = "" if owners is None else f", assigned {fingerprint_of(owners.tolist())[:12]}"
    return f"{len(step.rows)} rows of {step.modality!r}, {step.rows_hash}{assigned}"
