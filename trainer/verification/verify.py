"""`remix verify`: prove from a run's artifacts that it trained exactly what its plans contain.

The readers of artifacts check their hashes and content. Each epoch's plan is built again from its
scores and the configuration, and must have the same fingerprint; every plan that Remix builds
trains each row of the split once (`copies: resample` adds its copies). The log of steps must then
match the plan. The best epochs are chosen again from the metrics in epochs.arrow, and the assembled
model and the accuracies must be those of the best epochs and of the test predictions.

The run may be training meanwhile. Files are read in the opposite order of writing, so that whatever
a checkpoint, epochs.arrow or a later plan implies has been written before verify looks for it. The
log of the epoch in progress must match the beginning of its plan.
"""

from collections.abc import Callable
from dataclasses import asdict
from itertools import count
from typing import Any

import pyarrow.compute as pc

from pipeline.config import parse
from pipeline.errors import DataError
from pipeline.extensions import is_import_path
from pipeline.features.feature_set import FeatureSet
from pipeline.features.manifest import check_samples, features_fingerprint
from pipeline.plans.plan import BatchPlan
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.schemas import METRICS, epochs_schema
from pipeline.storage.store_path import MANIFEST, StorePath
from trainer.config import RunConfig
from trainer.models import checkpoint as checkpoints
from trainer.models.checkpoint import Cursor
from trainer.run_directory import Run
from trainer.selection import update_best
from trainer.strategies import strategy_of
from trainer.verification import steps_log
from trainer.verification.epoch_check import EpochCheck
from trainer.verification.problems import Problems
from trainer.verification.result_check import ResultCheck

Progress = Callable[[int, int], None]


def verify(
    run: Run, *, parts: bool = False, progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Verify a run.

    Args:
        parts: Also hash every file of its features.
        progress: Called with the number of checks done and their total.
    Returns:
        {"run", "status", "ok", "num_epochs", "epochs", "problems"}
    Raises:
        StoreError: the store cannot be reached.
    """
    store = run.path.parent.parent
    problems, epochs = Problems(store, run.path), []
    opened = _read_run(run, problems)
    if opened:
        features = _read_features(store / "features" / opened[1].features, problems)
        if features:
            epochs = _Check(run, *opened, features, problems).run_all(parts, progress)
    listed = problems.listed()
    return {
        "run": run.path.name,
        "status": opened[0].get("status") if opened else None,
        "ok": not listed,
        "num_epochs": opened[1].train.epochs if opened else None,
        "epochs": epochs,
        "problems": listed,
    }


def _read_run(run: Run, problems: Problems) -> tuple[dict[str, Any], RunConfig] | None:
    path = run.path / "run.json"
    with problems.reading(path):
        run_json = run.metadata
        config = parse(RunConfig, run_json["config"], str(path))
        recorded = run_json.get("extensions", {})
        weights = {key: value for key, value in recorded.items() if not is_import_path(key)}
        expected = {
            "name": run.path.name,
            # the weights may be elsewhere by now: all of them are in the checkpoints
            "digest": config.digest_with(weights),
            "features": {"name": config.features},
        }
        problems.expect(path, "run", run_json, expected)
        return run_json, config
    return None


def _read_features(path: StorePath, problems: Problems) -> FeatureSet | None:
    """Open the features and check their samples; None if they are damaged."""
    with problems.reading(path / MANIFEST):
        features = FeatureSet.open(path)
        if features_fingerprint(features.manifest, "") is None:
            raise DataError(f"{path / MANIFEST} lists no shards or files", "decode again")
        samples = path / "samples.arrow"
        with problems.reading(samples):
            # not cached: this process may have checked them against an earlier manifest
            check_samples(features.samples, features.manifest, str(samples))
            return features
    return None


class _Check:
    """Checks a run whose features are intact."""

    def __init__(
        self,
        run: Run,
        run_json: dict[str, Any],
        config: RunConfig,
        features: FeatureSet,
        problems: Problems,
    ) -> None:
        self._run, self._run_json, self._config = run, run_json, config
        self._features, self._problems = features, problems
        # the opposite order of writing, see above
        self._finished = run_json.get("status") == "finished"
        self._last, self._best = (self._read_cursor(name) for name in ("last", "best"))
        self._parts = {
            name: self._read_cursor(f"best.{name}") for name in self._features.modalities
        }
        self._num_epochs = config.train.epochs
        may_end = config.train.budget.is_set or config.train.patience is not None
        if may_end and self._finished and self._last:
            self._num_epochs = self._last.epoch  # it may have ended before
        self._rows = self._read_epochs()
        self._planned = run.planned()
        self._logs = self._list_logs()
        self._known = {*self._planned, *self._logs, *(row["epoch"] for row in self._rows)}

    def _read_cursor(self, name: str) -> Cursor | None:
        path = self._run.checkpoint(name)
        with self._problems.reading(path):
            if not path.exists():
                return None
            state = checkpoints.load(path)
            expected = {
                "features": self._features.fingerprint,
                "digest": self._run_json.get("digest"),
                "seed": self._config.seed,
            }
            self._problems.expect(path, "checkpoint", state, expected)
            return Cursor.of(state)
        return None

    def _read_epochs(self) -> list[dict[str, Any]]:
        path, rows = self._run.path / "epochs.arrow", []
        ended, num_epochs = self._last.epoch if self._last else 0, self._num_epochs
        ended = num_epochs if self._finished else min(ended, num_epochs)
        with self._problems.reading(path):
            if path.exists():
                names = self._features.modalities
                schema = epochs_schema(names, diagnostics=False)
                columns = ["epoch", "schedule", "progress", "num_steps", "num_rows", "policy"]
                columns += ["best_epoch", METRICS[self._config.train.select.metric]]
                columns += [
                    f"{kind}_{name}"
                    for kind in ("calibrated_loss", "temperature", "best_epoch")
                    for name in names
                ]
                for batch in BatchFile(path, schema).batches([*dict.fromkeys(columns)]):
                    rows += batch.to_pylist()
            numbers, expected = [row["epoch"] for row in rows], range(max(len(rows), ended))
            self._problems.expect(path, "the list of epochs", numbers, [*expected])
        return [row for row in rows if row["epoch"] >= 0]

    def _list_logs(self) -> dict[int, list[tuple[int, StorePath]]]:
        logs: dict[int, list[tuple[int, StorePath]]] = {}
        for path in (self._run.path / "steps").list():
            if match := steps_log.NAME.fullmatch(path.name):
                logs.setdefault(int(match[1]), []).append((int(match[2]), path))
            else:
                self._problems.add(path, "the name is not epoch-EEEE-step-SSSSSSSS.arrow")
        return logs

    def run_all(self, parts: bool, progress: Progress) -> list[dict[str, Any]]:
        """Check everything, and return the counts of each epoch."""
        last, features, num_epochs = self._last, self._features, self._num_epochs
        if not self._finished:
            # begun: epochs with a file, those before the cursor, and its own if it has steps
            begun = max([*self._known, last.epoch - (not last.step) if last else -1]) + 1
            num_epochs = min(begun, num_epochs)
        epochs = sorted({*self._known, *range(num_epochs)})
        numbers = range(len(features.manifest["parts"])) if parts else ()
        files = [features.file_of(name, part) for part in numbers for name in features.modalities]
        total, done, checked = len(epochs) + len(files), count(1), []
        progress(0, total)
        for file in files:
            with self._problems.reading(file.path):
                self._problems.expect(file.path, "SHA-256", file.path.sha256(), file.sha256)
            progress(next(done), total)
        check = EpochCheck(self._run, self._config, self._features, self._problems, self._rows)
        for epoch in epochs:
            self._problems.epoch = epoch
            counts = self._check_epoch(epoch, check.plan(epoch))
            self._problems.epoch = None
            checked.append({"epoch": epoch, **counts, "ok": epoch not in self._problems})
            progress(next(done), total)
        self._check_selection()
        self._check_checkpoints()
        self._check_run_json()
        if self._finished:
            check_result = ResultCheck(self._run, features, self._problems).check
            check_result(self._run_json.get("result"), last, assembled=self._config.train.assemble)
        return checked

    def _check_epoch(self, epoch: int, plan: BatchPlan | None) -> dict[str, int]:
        """Check the steps taken, the row of epochs.arrow and the cursor against an epoch's plan."""
        if plan is None:
            return {"steps": 0, "rows": 0, "taken": 0}
        num_taken, next_step = steps_log.check_steps(
            self._logs.get(epoch, []),
            epoch,
            plan,
            self._features,
            self._problems,
            masks=strategy_of(self._config).masks,
        )
        cursor = self._last or Cursor()
        # A row in epochs.arrow does not prove that the epoch ended: a run that was resumed from an
        # older checkpoint repeats what follows it.
        ended = self._finished or epoch < max([cursor.epoch, *self._planned])
        required = len(plan) if ended else cursor.step if epoch == cursor.epoch else 0
        if next_step < required:
            self._problems.add(
                self._run.path / "steps",
                f"steps {next_step} to {required - 1} are missing, but the run continued",
            )
        if cursor.step and epoch == cursor.epoch:
            path = self._run.checkpoint("last")
            known = plan.metadata.get("fingerprint")
            self._problems.expect(path, "the plan of the cursor", cursor.plan_fingerprint, known)
            if not 0 < cursor.step < len(plan):
                self._problems.add(
                    path,
                    f"the cursor is at step {cursor.step} of epoch {epoch}, "
                    f"which has {len(plan)} steps",
                )
        num_rows = pc.sum(pc.list_value_length(plan.table["rows"])).as_py() or 0
        counts = {"num_steps": len(plan), "num_rows": num_rows}
        planned = {**counts, "policy": plan.metadata.get("policy")}
        for row in self._rows:
            if row["epoch"] == epoch:
                path = self._run.path / "epochs.arrow"
                self._problems.expect(path, f"epoch {epoch}", row, planned)
        return {"steps": len(plan), "rows": num_rows, "taken": num_taken}

    def _check_selection(self) -> None:
        """Choose the best epochs again, and compare them with epochs.arrow and the checkpoint."""
        path, cursor = self._run.path / "epochs.arrow", Cursor()
        with self._problems.reading(path):
            for row in self._rows:
                update_best(cursor, row, self._config, self._features.modalities)
                best = {"": cursor.best_epoch if cursor.best_epoch >= 0 else None}
                best |= {f"_{name}": part.epoch for name, part in cursor.best_parts.items()}
                chosen = {f"best_epoch{name}": epoch for name, epoch in best.items()}
                self._problems.expect(path, f"epoch {row['epoch']}", row, chosen)
                if self._last and self._last.epoch == row["epoch"] + 1:
                    self._expect_best(asdict(self._last), asdict(cursor))

    def _expect_best(self, last: dict[str, Any], cursor: dict[str, Any]) -> None:
        known = {name: cursor[name] for name in ("best_epoch", "best_value", "best_parts")}
        self._problems.expect(self._run.checkpoint("last"), "the cursor", last, known)

    def _check_checkpoints(self) -> None:
        """Check that the checkpoints exist if they should, and their cursors."""
        last, end = self._last, (self._num_epochs, 0)
        path = self._run.checkpoint("last")
        continued = self._finished or any(self._known) or sum(map(len, self._logs.values())) > 1
        if continued and not path.exists():
            self._problems.add(path, "the file is missing, but the run continued from it")
        if last and (self._finished or not 0 <= last.epoch <= end[0]):
            self._problems.expect(path, "the cursor", (last.epoch, last.step), end)
        self._check_best("best", self._best, last.best_epoch if last else -1)
        for name, cursor in self._parts.items():
            part = last and last.best_parts.get(name)
            self._check_best(f"best.{name}", cursor, part.epoch if part else -1)

    def _check_best(self, name: str, cursor: Cursor | None, epoch: int) -> None:
        """Check that the checkpoint of a best epoch exists if it should, and its cursor."""
        last, path = self._last, self._run.checkpoint(name)
        # it is written after `last`, so it may not exist yet directly after the best epoch
        written = last and epoch >= 0 and (last.step or epoch + 1 < last.epoch)
        if (written or self._finished) and not path.exists():
            self._problems.add(path, "the file is missing, but the run has a best epoch")
        if last and cursor and (self._finished or (written and cursor.epoch <= epoch)):
            self._problems.expect(path, "the cursor", (cursor.epoch, cursor.step), (epoch + 1, 0))

    def _check_run_json(self) -> None:
        """Check the features recorded in run.json."""
        expected = {
            "features": {"fingerprint": self._features.fingerprint},
            "modalities": self._features.modalities,
        }
        self._problems.expect(self._run.path / "run.json", "run", self._run_json, expected)
