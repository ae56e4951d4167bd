"""A run's folder: the paths of its artifacts, its status, and its tables of epochs and steps."""

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import InputError, MissingError
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import read_table, write_table
from pipeline.storage.locks import Owner
from pipeline.storage.schemas import epochs_schema, steps_schema
from pipeline.storage.store_path import StorePath, encode_json, without_secrets
from trainer.config import RunConfig

if TYPE_CHECKING:
    import pandas

PLAN_NAME = re.compile(r"epoch-(\d{4,})\.arrow")


def now() -> str:
    """The time in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Run:
    """<store>/runs/<run>"""

    path: StorePath

    @classmethod
    def create(cls, config: RunConfig, features: FeatureSet) -> "Run":
        """Claim the run's name and write run.json.

        Raises InputError if the name is taken, StoreError.
        """
        run = cls(config.run_path)
        parents = {"name": config.features, "fingerprint": features.fingerprint}
        run_config = {**config.model_dump(mode="json"), "store": without_secrets(config.store)}
        metadata = {
            "kind": "run",
            "name": config.name,
            "config": run_config,
            "digest": config.digest,
            "features": parents,
        }
        if extensions := config.extensions:
            metadata["extensions"] = extensions
        metadata |= {
            "modalities": features.modalities,
            "code_version": version("data-remixing"),
            "status": "created",
            "updated": now(),
        }
        if not (run.path / "run.json").claim(encode_json(metadata)):
            raise InputError(
                f"run {config.name!r} already exists in {without_secrets(config.store)}",
                "continue it with --resume, or choose another name",
            )
        return run

    @classmethod
    def open(cls, path: StorePath) -> "Run":
        """Open an existing run. Raises MissingError."""
        if not (path / "run.json").exists():
            raise MissingError(
                f"run not found: {path}", "check the name, or start it with `remix train`"
            )
        return cls(path)

    def lock(self) -> AbstractContextManager[Owner | None]:
        """Lock the run against other processes of this machine.

        Yields the process that held the lock when it was killed, if any. Raises InputError.
        """
        return (self.path / ".lock").held(f"run {self.path.name!r} is being trained")

    def sweep(self) -> None:
        """Remove partly written files that a killed process left."""
        for folder in ("", "scores", "plans", "steps", "checkpoints"):
            (self.path / folder if folder else self.path).sweep()

    @property
    def metadata(self) -> dict[str, Any]:
        """Content of run.json."""
        return (self.path / "run.json").read_json()

    @property
    def digest(self) -> str:
        """Digest of the configuration, as computed by the version that created the run.

        All artifacts of the run carry it, whichever version continues the run.
        """
        return str(self.metadata["digest"])

    def update(self, **changes: Any) -> None:
        """Rewrite run.json with the time and these entries changed; None removes an entry."""
        changed = {**self.metadata, "updated": now(), **changes}
        (self.path / "run.json").write_json(
            {key: value for key, value in changed.items() if value is not None}
        )

    def plan(self, epoch: int) -> StorePath:
        """Path of an epoch's plan."""
        return self.path / "plans" / f"epoch-{epoch:04d}.arrow"

    def open_plan(self, epoch: int) -> BatchPlan:
        """Open an epoch's plan, without a full check. Raises MissingError, DataError."""
        return BatchPlan.open(self.plan(epoch), trusted=True)

    def plan_stats(self, epoch: int) -> StorePath:
        """Path of the statistics of an epoch's plan."""
        return self.path / "plans" / f"epoch-{epoch:04d}.stats.json"

    def plan_index(self, epoch: int) -> StorePath:
        """Path of the index that maps rows of the features to steps of an epoch's plan."""
        return self.path / "plans" / f"epoch-{epoch:04d}.index.arrow"

    def times(self, epoch: int) -> StorePath:
        """Path of the scoring and planning times of an epoch, in seconds."""
        return self.path / "plans" / f"epoch-{epoch:04d}.times.json"

    def scores(self, epoch: int) -> StorePath:
        """Path of an epoch's scores."""
        return self.path / "scores" / f"epoch-{epoch:04d}.arrow"

    def open_scores(self, epoch: int) -> Scores:
        """Open an epoch's scores and check them in full. Raises MissingError, DataError."""
        return Scores.open(self.scores(epoch))

    def write_scores(self, epoch: int, table: pa.Table) -> None:
        """Write an epoch's scores."""
        write_table(self.scores(epoch), table)

    def parts(self, name: str) -> StorePath:
        """Hidden folder of the ranks' parts of a table, until they are joined."""
        return self.path / "scores" / f".parts-{name}"

    def checkpoint(self, name: str) -> StorePath:
        """Path of the checkpoint `last` or `best`."""
        return self.path / "checkpoints" / f"{name}.pt"

    def write_steps(self, steps: list[dict[str, Any]], modalities: list[str]) -> None:
        """Write the steps since the last checkpoint to a file named after the first of them."""
        if steps:
            name = f"epoch-{steps[0]['epoch']:04d}-step-{steps[0]['step']:08d}.arrow"
            write_table(
                self.path / "steps" / name,
                pa.Table.from_pylist(steps, schema=steps_schema(modalities)),
            )

    def steps(self, epoch: int) -> pa.Table:
        """Steps of an epoch, in order."""
        files = [
            path
            for path in (self.path / "steps").list()
            if path.name.startswith(f"epoch-{epoch:04d}-")
        ]
        return pa.concat_tables([read_table(path) for path in files])

    def write_epoch(self, row: dict[str, Any], modalities: list[str]) -> None:
        """Append an epoch's row to epochs.arrow; drops rows of this and later epochs first."""
        table = pa.Table.from_pylist([row], schema=epochs_schema(modalities))
        if (self.path / "epochs.arrow").exists():
            before = self.epochs()
            table = pa.concat_tables([before.filter(pc.less(before["epoch"], row["epoch"])), table])
        write_table(self.path / "epochs.arrow", table.combine_chunks())

    def epochs(self) -> pa.Table:
        """epochs.arrow, one row per epoch. Raises MissingError before the first epoch ends."""
        return read_table(self.path / "epochs.arrow")

    def to_pandas(self) -> "pandas.DataFrame":
        """The epochs as a data frame. Raises MissingError before the first epoch ends."""
        return self.epochs().to_pandas()

    def planned(self) -> list[int]:
        """The epochs that have a plan."""
        names = [path.name for path in (self.path / "plans").list()]
        return [int(match[1]) for name in names if (match := PLAN_NAME.fullmatch(name))]

    def races(self) -> "list[Run]":
        """The races of method `auto`, each laid out as a run."""
        return [Run(path) for path in (self.path / "races").list()]

    def history(self, epoch: int) -> list[dict[str, Any]]:
        """The rows of epochs.arrow before an epoch."""
        if not epoch:
            return []
        rows: list[dict[str, Any]] = self.epochs().slice(0, epoch).to_pylist()
        return rows

    def write_test(self, table: pa.Table) -> None:
        """Write test.arrow."""
        write_table(self.path / "test.arrow", table)

    def test(self) -> pa.Table:
        """test.arrow: the heads' predictions, one row per test sample. Raises MissingError."""
        return read_table(self.path / "test.arrow")

    def rewind(self, epoch: int, step: int) -> None:
        """Remove step files at or after the cursor, whose steps will be repeated."""
        for path in (self.path / "steps").list():
            match = re.fullmatch(r"epoch-(\d+)-step-(\d+)\.arrow", path.name)
            if match and (int(match[1]), int(match[2])) >= (epoch, step):
                path.delete()
