"""A run's folder: where its artifacts lie, its status, and its tables of epochs and steps."""

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Run:
    """<store>/runs/<run>"""

    path: StorePath

    @classmethod
    def create(cls, config: RunConfig, features: FeatureSet) -> "Run":
        """Claims the run's name and writes run.json (raises InputError where the name is taken, StoreError)."""
        run = cls(config.run_path)
        parents = {"name": config.features, "fingerprint": features.fingerprint}
        asked = {**config.model_dump(mode="json"), "store": without_secrets(config.store)}
        facts = {
            "kind": "run",
            "name": config.name,
            "config": asked,
            "digest": config.digest,
            "features": parents,
        }
        facts |= {
            "modalities": features.modalities,
            "code_version": version("data-remixing"),
            "status": "created",
        }
        if not (run.path / "run.json").claim(encode_json(facts)):
            raise InputError(
                f"run {config.name!r} exists in {without_secrets(config.store)}",
                "continue it with --resume or choose another name",
            )
        return run

    @classmethod
    def open(cls, path: StorePath) -> "Run":
        """Opens a run that exists (raises MissingError)."""
        if not (path / "run.json").exists():
            raise MissingError(
                f"{path} holds no run", "check the name, or start it with `remix train`"
            )
        return cls(path)

    def held(self) -> AbstractContextManager[Owner | None]:
        """Keeps other processes of this machine from training the run, and tells which of them died at it (raises InputError)."""
        return (self.path / ".lock").held(f"run {self.path.name!r} is being trained")

    def sweep(self) -> None:
        """Removes what a process that died left of files that it was writing."""
        for folder in ("", "scores", "plans", "steps", "checkpoints"):
            (self.path / folder if folder else self.path).sweep()

    @property
    def facts(self) -> dict[str, Any]:
        """run.json"""
        return (self.path / "run.json").read_json()

    @property
    def digest(self) -> str:
        """The digest of the configuration under the version that began the run: its artifacts have this one, whichever continues it."""
        return str(self.facts["digest"])

    def update(self, **changes: Any) -> None:
        """Rewrites run.json with these entries changed; None removes one."""
        (self.path / "run.json").write_json(
            {key: value for key, value in {**self.facts, **changes}.items() if value is not None}
        )

    def plan(self, epoch: int) -> StorePath:
        """The plan of an epoch."""
        return self.path / "plans" / f"epoch-{epoch:04d}.arrow"

    def open_plan(self, epoch: int) -> BatchPlan:
        """The plan of an epoch, as this run wrote it (raises MissingError, DataError)."""
        return BatchPlan.open(self.plan(epoch), trusted=True)

    def plan_stats(self, epoch: int) -> StorePath:
        """The statistics of an epoch's plan."""
        return self.path / "plans" / f"epoch-{epoch:04d}.stats.json"

    def plan_index(self, epoch: int) -> StorePath:
        """The step of each row of the features in an epoch's plan."""
        return self.path / "plans" / f"epoch-{epoch:04d}.index.arrow"

    def times(self, epoch: int) -> StorePath:
        """The seconds that the epoch's scores and plan took."""
        return self.path / "plans" / f"epoch-{epoch:04d}.times.json"

    def scores(self, epoch: int) -> StorePath:
        """The scores of an epoch."""
        return self.path / "scores" / f"epoch-{epoch:04d}.arrow"

    def open_scores(self, epoch: int) -> Scores:
        """The scores of an epoch, checked in full (raises MissingError, DataError)."""
        return Scores.open(self.scores(epoch))

    def write_scores(self, epoch: int, table: pa.Table) -> None:
        """Writes the scores of an epoch."""
        write_table(self.scores(epoch), table)

    def parts(self, name: str) -> StorePath:
        """Where ranks leave their parts of a table until they are joined; hidden from listings."""
        return self.path / "scores" / f".parts-{name}"

    def checkpoint(self, name: str) -> StorePath:
        """The checkpoint called `last` or `best`."""
        return self.path / "checkpoints" / f"{name}.pt"

    def write_steps(self, steps: list[dict[str, Any]], modalities: list[str]) -> None:
        """Writes the steps taken since the last checkpoint as one file, named after the first of them."""
        if steps:
            name = f"epoch-{steps[0]['epoch']:04d}-step-{steps[0]['step']:08d}.arrow"
            write_table(
                self.path / "steps" / name,
                pa.Table.from_pylist(steps, schema=steps_schema(modalities)),
            )

    def steps(self, epoch: int) -> pa.Table:
        """The steps that were taken in an epoch, in order."""
        files = [
            path
            for path in (self.path / "steps").list()
            if path.name.startswith(f"epoch-{epoch:04d}-")
        ]
        return pa.concat_tables([read_table(path) for path in files])

    def write_epoch(self, row: dict[str, Any], modalities: list[str]) -> None:
        """Adds an epoch's row to epochs.arrow; an older row of that epoch, and any of a later one, goes."""
        table = pa.Table.from_pylist([row], schema=epochs_schema(modalities))
        if (self.path / "epochs.arrow").exists():
            before = self.epochs()
            table = pa.concat_tables([before.filter(pc.less(before["epoch"], row["epoch"])), table])
        write_table(self.path / "epochs.arrow", table.combine_chunks())

    def epochs(self) -> pa.Table:
        """epochs.arrow, one row an epoch (raises MissingError before the first has ended)."""
        return read_table(self.path / "epochs.arrow")

    def write_test(self, table: pa.Table) -> None:
        """Writes test.arrow."""
        write_table(self.path / "test.arrow", table)

    def test(self) -> pa.Table:
        """test.arrow: one row a test sample, what each head predicted (raises MissingError)."""
        return read_table(self.path / "test.arrow")

    def rewind(self, epoch: int, step: int) -> None:
        """Removes the step files at or after the cursor: the steps that a dead process took and that will be taken again."""
        for path in (self.path / "steps").list():
            found = re.fullmatch(r"epoch-(\d+)-step-(\d+)\.arrow", path.name)
            if found and (int(found[1]), int(found[2])) >= (epoch, step):
                path.delete()
