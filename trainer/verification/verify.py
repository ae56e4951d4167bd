"""`remix verify`: proves from a run's artifacts that every planned row was trained exactly once.

Artifacts are read by the product's own readers, which hash them and check their content. Each epoch's plan is made again from
its scores and the configuration; one of equal fingerprint trains each row of the split once, as every plan does that is made.
A run may be in training meanwhile: what it writes last is read first, so that whatever a checkpoint, a table of epochs or a
later plan implies was there before it is looked for; the log of the epoch in progress is the beginning of its plan.
"""

import re
from collections.abc import Callable
from itertools import count
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import parse
from pipeline.errors import DataError
from pipeline.features.feature_set import FeatureSet
from pipeline.features.manifest import check_samples, features_fingerprint
from pipeline.plans.plan import BatchPlan
from pipeline.storage.arrow_files import read_table
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.schemas import check_columns, epochs_schema
from pipeline.storage.store_path import MANIFEST, StorePath
from trainer.config import RunConfig
from trainer.models import checkpoint as checkpoints
from trainer.models.checkpoint import Cursor
from trainer.run_directory import Run
from trainer.strategies import strategy_of
from trainer.verification import steps_log
from trainer.verification.epoch_check import EpochCheck
from trainer.verification.problems import Problems

Progress = Callable[[int, int], None]
PLAN_NAME = re.compile(r"epoch-(\d{4,})\.arrow")
SAMPLE = pa.schema([("row", pa.int64()), ("sample_id", pa.string()), ("label", pa.int32())])
"""The columns of test.arrow that say which samples were tested."""


def verify(
    run: Run, *, parts: bool = False, progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Verifies a run, with `parts` every byte of its features too.

    Returns {"run", "status", "ok", "num_epochs", "epochs", "problems"} (raises StoreError).
    """
    store = run.path.parent.parent
    problems, epochs = Problems(store, run.path), []
    opened = _read_run(run, problems)
    if opened:
        features = _read_features(store / "features" / opened[1].features, problems)
        if features:
            epochs = _Check(run, *opened, features, problems).run_all(parts, progress)
    found = problems.listed()
    return {
        "run": run.path.name,
        "status": opened[0].get("status") if opened else None,
        "ok": not found,
        "num_epochs": opened[1].train.epochs if opened else None,
        "epochs": epochs,
        "problems": found,
    }


def _read_run(run: Run, problems: Problems) -> tuple[dict[str, Any], RunConfig] | None:
    path = run.path / "run.json"
    with problems.reading(path):
        facts = run.facts
        config = parse(RunConfig, facts["config"], str(path))
        named = {"name": run.path.name, "digest": config.digest}
        problems.expect(path, "run", facts, {**named, "features": {"name": config.features}})
        return facts, config
    return None


def _read_features(path: StorePath, problems: Problems) -> FeatureSet | None:
    """The features with their samples checked, None where they are damaged."""
    with problems.reading(path / MANIFEST):
        features = FeatureSet.open(path)
        if features_fingerprint(features.manifest, "") is None:
            raise DataError(f"{path / MANIFEST} names no shards or files", "decode again")
        samples = path / "samples.arrow"
        with problems.reading(samples):
            # again, since this process may have checked them under another manifest
            check_samples(features.samples, features.manifest, str(samples))
            return features
    return None


class _Check:
    """Checks a run whose features are whole."""

    def __init__(
        self,
        run: Run,
        facts: dict[str, Any],
        config: RunConfig,
        features: FeatureSet,
        problems: Problems,
    ) -> None:
        self._run, self._facts, self._config = run, facts, config
        self._features, self._problems = features, problems
        # in this order: what a run writes last comes first
        self._finished = facts.get("status") == "finished"
        self._last, self._best = (self._read_cursor(name) for name in ("last", "best"))
        self._rows = self._read_epochs()
        named = [PLAN_NAME.fullmatch(path.name) for path in (run.path / "plans").list()]
        self._planned = [int(name[1]) for name in named if name]
        self._logs = self._list_logs()
        self._known = {*self._planned, *self._logs, *(row["epoch"] for row in self._rows)}

    def _read_cursor(self, name: str) -> Cursor | None:
        path = self._run.checkpoint(name)
        with self._problems.reading(path):
            if not path.exists():
                return None
            found = checkpoints.load(path)
            parents = {"features": self._features.fingerprint, "digest": self._facts.get("digest")}
            made_for = {**parents, "seed": self._config.seed}
            self._problems.expect(path, "checkpoint", found, made_for)
            return Cursor(**found["cursor"])
        return None

    def _read_epochs(self) -> list[dict[str, Any]]:
        path, rows = self._run.path / "epochs.arrow", []
        ended, num_epochs = self._last.epoch if self._last else 0, self._config.train.epochs
        ended = num_epochs if self._finished else min(ended, num_epochs)
        with self._problems.reading(path):
            if path.exists():
                schema = epochs_schema(self._features.modalities, diagnostics=False)
                columns = ["epoch", "num_steps", "num_rows", "policy"]
                for batch in BatchFile(path, schema).batches(columns):
                    rows += batch.to_pylist()
            numbers, expected = [row["epoch"] for row in rows], range(max(len(rows), ended))
            self._problems.expect(path, "the order of its epochs", numbers, [*expected])
        return [row for row in rows if row["epoch"] >= 0]

    def _list_logs(self) -> dict[int, list[tuple[int, StorePath]]]:
        logs: dict[int, list[tuple[int, StorePath]]] = {}
        for path in (self._run.path / "steps").list():
            if found := steps_log.NAME.fullmatch(path.name):
                logs.setdefault(int(found[1]), []).append((int(found[2]), path))
            else:
                self._problems.add(path, "is not named epoch-EEEE-step-SSSSSSSS.arrow")
        return logs

    def run_all(self, parts: bool, progress: Progress) -> list[dict[str, Any]]:
        """Checks everything, and returns what was seen of each epoch."""
        last, features, num_epochs = self._last, self._features, self._config.train.epochs
        if not self._finished:
            begun = max([*self._known, last.epoch - (not last.step) if last else -1]) + 1
            num_epochs = min(begun, num_epochs)
        epochs = sorted({*self._known, *range(num_epochs)})
        numbers = range(len(features.manifest["parts"])) if parts else ()
        files = [features.file_of(name, part) for part in numbers for name in features.modalities]
        total, done, seen = len(epochs) + len(files), count(1), []
        progress(0, total)
        for file in files:
            with self._problems.reading(file.path):
                self._problems.expect(file.path, "its SHA-256", file.path.sha256(), file.sha256)
            progress(next(done), total)
        check = EpochCheck(self._run, self._config, self._features, self._problems)
        for epoch in epochs:
            self._problems.epoch = epoch
            counts = self._check_epoch(epoch, check.plan(epoch))
            self._problems.epoch = None
            seen.append({"epoch": epoch, **counts, "ok": epoch not in self._problems})
            progress(next(done), total)
        self._check_checkpoints()
        self._check_facts()
        if self._finished:
            self._check_test()
        return seen

    def _check_epoch(self, epoch: int, plan: BatchPlan | None) -> dict[str, int]:
        """Holds the steps that were taken, the row in epochs.arrow and the cursor against the plan of an epoch."""
        if plan is None:
            return {"steps": 0, "rows": 0, "taken": 0}
        taken, due = steps_log.check_steps(
            self._logs.get(epoch, []),
            epoch,
            plan,
            self._features,
            self._problems,
            masks=strategy_of(self._config).masks,
        )
        cursor = self._last or Cursor()
        # a row in epochs.arrow is no proof of an end: what follows a checkpoint is taken again
        ended = self._finished or epoch < max([cursor.epoch, *self._planned])
        required = len(plan) if ended else cursor.step if epoch == cursor.epoch else 0
        if due < required:
            said = f"steps {due} to {required - 1} are in no file, though the run went on"
            self._problems.add(self._run.path / "steps", said)
        if cursor.step and epoch == cursor.epoch:
            path = self._run.checkpoint("last")
            known = plan.metadata.get("fingerprint")
            self._problems.expect(path, "the plan in its cursor", cursor.plan_fingerprint, known)
            if not 0 < cursor.step < len(plan):
                said = f"its cursor stands at step {cursor.step} of {len(plan)} of epoch {epoch}"
                self._problems.add(path, said)
        num_rows = pc.sum(pc.list_value_length(plan.table["rows"])).as_py() or 0
        counts = {"num_steps": len(plan), "num_rows": num_rows}
        planned = {**counts, "policy": plan.metadata.get("policy")}
        for row in self._rows:
            if row["epoch"] == epoch:
                path = self._run.path / "epochs.arrow"
                self._problems.expect(path, f"epoch {epoch}", row, planned)
        return {"steps": len(plan), "rows": num_rows, "taken": taken}

    def _check_checkpoints(self) -> None:
        """Where both checkpoints stand."""
        last, best, end = self._last, self._best, (self._config.train.epochs, 0)
        path, best_place = (self._run.checkpoint(name) for name in ("last", "best"))
        went_on = self._finished or any(self._known) or sum(map(len, self._logs.values())) > 1
        if went_on and not path.exists():
            self._problems.add(path, "does not exist, though the run went on from it")
        # `best` is written after `last`, which stands for it until then
        written = last and last.best_epoch >= 0 and (last.step or last.best_epoch + 1 < last.epoch)
        if (written or self._finished) and not best_place.exists():
            self._problems.add(best_place, "does not exist, though an epoch was the best")
        if last and (self._finished or not 0 <= last.epoch <= end[0]):
            self._problems.expect(path, "its cursor", (last.epoch, last.step), end)
        if last and best and (self._finished or (written and best.epoch <= last.best_epoch)):
            due = (last.best_epoch + 1, 0)
            self._problems.expect(best_place, "its cursor", (best.epoch, best.step), due)

    def _check_facts(self) -> None:
        """What run.json says of the features and of the result."""
        expected: dict[str, Any] = {
            "features": {"fingerprint": self._features.fingerprint},
            "modalities": self._features.modalities,
        }
        if self._finished and self._last:
            expected["result"] = {"best_epoch": self._last.best_epoch}
        self._problems.expect(self._run.path / "run.json", "run", self._facts, expected)

    def _check_test(self) -> None:
        """A finished run has tested each row of the split 'test' once."""
        path = self._run.path / "test.arrow"
        with self._problems.reading(path):
            table = read_table(path, trusted=False)
            check_columns(table.schema, SAMPLE, str(path))
            samples = self._features.samples
            tested = samples.select(SAMPLE.names).filter(pc.equal(samples["split"], "test"))
            if not table.select(SAMPLE.names).equals(tested):
                said = "its rows, with their ids and labels, are not those of the split 'test'"
                self._problems.add(path, said)
