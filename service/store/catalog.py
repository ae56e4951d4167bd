"""Builds the responses of the API from the files of a store."""

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Literal

from pipeline.errors import DataError, InputError, MissingError, StoreError
from pipeline.features.manifest import Manifest
from pipeline.scores.histograms import file_histograms
from pipeline.storage.schemas import PLAN, REJECTED, epochs_schema, samples_schema, scores_schema
from pipeline.storage.store_path import MANIFEST
from service import comparison_schemas as comparison_api
from service import plan_schemas as plan_api
from service import schemas as api
from service.store import file_models as files
from service.store.file_models import CURVES, as_model, epoch_fields, size_of_rows
from service.store.paging import Header, Rows, Steps
from service.store.reader import NAME, Artifact, StoreReader, reading
from service.store.sample_history import check_features, find_sample, history

EPOCH = r"epoch-(\d{4}|[1-9]\d{4,8})\.arrow"


class Catalog:
    """Features, runs, plans and comparisons of a store.

    Names come from URLs; they are looked up in listings and never joined to a path unchecked.
    """

    def __init__(self, reader: StoreReader) -> None:
        self.reader = reader

    def _has(self, folder: str, name: str, file: str) -> bool:
        """Whether the folder lists the name, and the name's own folder lists the file."""
        return (
            bool(re.fullmatch(NAME, name))
            and self.reader.has(folder, name)
            and self.reader.has(folder, name, file)
        )

    def _names_with(self, folder: str, file: str) -> list[str]:
        """Sorted names of the folders that contain the file."""

        def has(name: str) -> bool:
            try:
                return self.reader.has(folder, name, file)
            except StoreError:
                return True  # unreadable: listed, so that a request for it reports the error

        return [name for name in self.reader.names(folder) if has(name)]

    def features(self) -> list[str]:
        """Names of the finished feature sets."""
        return self._names_with("features", MANIFEST)

    def feature_set(self, name: str) -> api.FeatureDetail:
        """One feature set. Raises MissingError, DataError."""
        manifest = self.manifest(name)
        return api.FeatureDetail(
            name=name,
            num_classes=len(manifest.classes),
            num_parts=len(manifest.parts),
            **manifest.model_dump(exclude={"version", "batch_rows", "parts"}),
        )

    def rejected(self, name: str) -> Rows:
        """The rejected samples of a feature set."""
        self.manifest(name)
        return Rows(self.reader, self.reader.artifact("features", name, "rejected.arrow"), REJECTED)

    def samples(self, name: str) -> tuple[Rows, list[str]]:
        """The samples of a feature set, and the names of its modalities."""
        modalities = list(self.manifest(name).modalities)
        artifact = self.reader.artifact("features", name, "samples.arrow")
        return Rows(self.reader, artifact, samples_schema(modalities)), modalities

    def manifest(self, name: str) -> Manifest:
        """The manifest of a feature set. Raises MissingError, DataError."""
        if not self._has("features", name, MANIFEST):
            raise MissingError(
                f"Feature set not found: {name!r}", "GET /v1/features lists finished feature sets"
            )
        artifact = self.reader.artifact("features", name, MANIFEST)
        return self.reader.json(artifact, Manifest, files.MAX_MANIFEST_BYTES)

    def runs(self) -> list[str]:
        """Names of the runs."""
        return self._names_with("runs", "run.json")

    def run(self, name: str) -> api.RunDetail:
        """One run. Raises MissingError, DataError."""
        artifact = self._run_artifact(name)
        run = self.reader.json(artifact, files.RunFile)
        num_epochs, best, tables = 0, None, self._epoch_tables(name)
        for table in tables:
            # cache only this: the rows of all runs of a long list would not fit in memory
            num_epochs, best = self.reader.cached(
                table, f"best of {run.modalities}", partial(self._best, table, run.modalities)
            )
        config = as_model(files.RunConfigPart, run.config, f"{artifact.path}: config")
        train = config.train
        fields = {
            **run.model_dump(),
            "name": name,
            "method": config.method,
            "seed": config.seed,
            "error": run.error and self.reader.public(run.error),
            # the store is a local path or a URI that may have credentials
            "config": {key: value for key, value in run.config.items() if key != "store"},
            "num_epochs": num_epochs,
            "planned_epochs": train.epochs,
            "warmup_epochs": train.warmup_epochs,
            "best": best and files.best_of(best, train),
            **(dict(run.result) if run.result else {}),
            "plans": self._epochs_of(name, "plans"),
            "scores": self._epochs_of(name, "scores"),
        }
        return as_model(api.RunDetail, fields, str(artifact.path))

    def epochs(self, name: str) -> list[api.EpochRow]:
        """The completed epochs of a run."""
        modalities = self.reader.json(self._run_artifact(name), files.RunFile).modalities
        tables = self._epoch_tables(name)
        return [
            row
            for table in tables
            for row in self.reader.cached(
                table,
                f"epochs of {modalities}",
                partial(self._epoch_rows, table, modalities),
                size_of_rows,
            )
        ]

    def epoch_table(self, name: str) -> Rows:
        """The table of the completed epochs. Raises MissingError, DataError."""
        modalities = self.reader.json(self._run_artifact(name), files.RunFile).modalities
        tables = self._epoch_tables(name)
        if not tables:
            raise MissingError(f"No completed epoch in run {name!r}", "Wait for its first epoch")
        return Rows(self.reader, tables[0], epochs_schema(modalities, diagnostics=False))

    def _run_artifact(self, name: str) -> Artifact:
        if not self._has("runs", name, "run.json"):
            raise MissingError(f"Run not found: {name!r}", "GET /v1/runs lists runs")
        return self.reader.artifact("runs", name, "run.json")

    def _epoch_tables(self, name: str) -> list[Artifact]:
        return self.reader.artifacts("runs", name, pattern=r"epochs\.arrow")

    def _best(
        self, artifact: Artifact, modalities: Sequence[str]
    ) -> tuple[int, api.EpochRow | None]:
        """The number of epochs, and the one that would be tested if training ended here."""
        rows = self._epoch_rows(artifact, modalities)
        best = (row for row in rows if row.epoch == rows[-1].best_epoch)
        return len(rows), next(best, None)

    def _epoch_rows(self, artifact: Artifact, modalities: Sequence[str]) -> list[api.EpochRow]:
        table = self.reader.table(artifact, epochs_schema(modalities, diagnostics=False))
        with reading(artifact):
            return [
                as_model(api.EpochRow, epoch_fields(row, modalities), str(artifact.path))
                for batch in table.batches()
                for row in batch.to_pylist()
            ]

    def epoch(self, name: str, epoch: int | Literal["latest"], kind: str = "plans") -> int:
        """The number of an epoch; `latest` is the last with a file of this kind.

        Raises MissingError.
        """
        if epoch != "latest":
            return epoch
        self._run_artifact(name)
        epochs = self._epochs_of(name, kind)
        if not epochs:
            raise MissingError(f"Run {name!r} has no {kind} yet", "Wait for its first ones")
        return epochs[-1]

    def plans(self, name: str) -> list[int]:
        """Epochs of a run that have a plan, ascending."""
        self._run_artifact(name)
        return self._epochs_of(name, "plans")

    def plan(self, name: str, epoch: int) -> plan_api.PlanDetail:
        """One plan. Raises MissingError, DataError."""
        artifact, stats = self._plan(name, epoch), self.stats(name, epoch)
        metadata = self.header(artifact).metadata
        fields = {
            **metadata,
            "epoch": epoch,
            "asked_shares": metadata.get("shares"),
            "shares": {modality: own.share for modality, own in stats.modalities.items()},
            "num_steps": stats.num_steps,
            "num_rows": stats.num_rows,
            "churn": stats.churn,
            "written": artifact.written,
            "bytes": artifact.info.size,
            "has_scores": epoch in self._epochs_of(name, "scores"),
        }
        return as_model(plan_api.PlanDetail, fields, str(artifact.path))

    def stats(self, name: str, epoch: int) -> plan_api.PlanStats:
        """Statistics that were stored with a plan. Raises MissingError, DataError."""
        plan = self._plan(name, epoch)
        artifact = self.reader.artifact("runs", name, "plans", f"epoch-{epoch:04d}.stats.json")
        stats, num_steps = (
            self.reader.json(artifact, plan_api.PlanStats),
            self.header(plan).num_steps,
        )
        if stats.num_steps != num_steps:
            raise DataError(
                f"{artifact.path} has {stats.num_steps} steps, but the plan has {num_steps}",
                "Plan the epoch again",
            )
        return stats

    def steps(self, name: str, epoch: int) -> Steps:
        """The steps of a plan."""
        return self._steps(self._plan(name, epoch))

    def _steps(self, artifact: Artifact) -> Steps:
        return Steps(self.reader, artifact, self.header(artifact))

    def header(self, artifact: Artifact) -> Header:
        """Metadata of a plan file. Raises DataError."""

        def read() -> Header:
            file = self.reader.table(artifact, PLAN)
            if "fingerprint" not in file.metadata:
                raise DataError(f"No fingerprint in {artifact.path}", "Plan the epoch again")
            return Header(file.metadata, file.schema, file.ends())

        return self.reader.cached(artifact, "header", read)

    def plan_of(self, fingerprint: str) -> tuple[str, int]:
        """Run and epoch of the plan with this fingerprint. Raises MissingError.

        Runs and plans that cannot be read are skipped.
        """
        for name in self.runs():
            with suppress(InputError):
                for epoch, artifact in self._files_by_epoch(name, "plans").items():
                    with suppress(InputError):
                        if self._fingerprint(artifact) == fingerprint:
                            return name, epoch
        raise MissingError(
            f"No plan with fingerprint {fingerprint!r}", "GET /v1/runs/RUN/plans lists plans"
        )

    def _fingerprint(self, artifact: Artifact) -> str:
        def read() -> str:
            return str(self.reader.table(artifact, PLAN).metadata.get("fingerprint"))

        return self.reader.cached(artifact, "fingerprint", read)

    def last_plans(self, runs: Sequence[str]) -> tuple[int, list[tuple[str, int, Artifact]]]:
        """Total number of plans, and (run, epoch, file) of the last plan of each run.

        Reads the metadata of these last plans only. Runs whose plans cannot be listed are skipped.
        Raises StoreError if the store cannot be read.
        """
        total, last = 0, []
        for name in runs:
            with suppress(InputError):
                if epochs := self._epochs_of(name, "plans"):
                    total += len(epochs)
                    last.append((name, epochs[-1], self._plan(name, epochs[-1])))
        self.reader.check()
        return total, last

    def _plan(self, name: str, epoch: int) -> Artifact:
        self._run_artifact(name)
        return self._epoch_file(name, "plans", epoch, "plan")

    def _epoch_file(self, name: str, kind: str, epoch: int, what: str) -> Artifact:
        file = f"epoch-{epoch:04d}.arrow"
        if not self.reader.has("runs", name, kind, file):
            raise MissingError(
                f"No {what} of epoch {epoch} in run {name!r}",
                f"GET /v1/runs/{name} lists the epochs with plans and scores",
            )
        return self.reader.artifact("runs", name, kind, file)

    def _epochs_of(self, name: str, kind: str) -> list[int]:
        """Epochs that have a file of this kind, ascending."""
        return sorted(
            int(file.removeprefix("epoch-").removesuffix(".arrow"))
            for file in self.reader.names("runs", name, kind, pattern=EPOCH)
        )

    def _files_by_epoch(self, name: str, kind: str) -> dict[int, Artifact]:
        matches = {
            re.fullmatch(EPOCH, artifact.path.name): artifact
            for artifact in self.reader.artifacts("runs", name, kind, pattern=EPOCH)
        }
        return dict(
            sorted((int(match[1]), artifact) for match, artifact in matches.items() if match)
        )

    def score_table(self, name: str, epoch: int) -> Rows:
        """The scores of an epoch. Raises MissingError, DataError."""
        run = self.reader.json(self._run_artifact(name), files.RunFile)
        artifact = self._epoch_file(name, "scores", epoch, "scores")
        return Rows(self.reader, artifact, scores_schema(run.modalities))

    def histograms(self, name: str, epoch: int, num_bins: int) -> plan_api.ScoreHistograms:
        """Ability and difficulty of the samples in an epoch. Raises MissingError, DataError."""
        run = self.reader.json(self._run_artifact(name), files.RunFile)
        artifact = self._epoch_file(name, "scores", epoch, "scores")

        def read() -> plan_api.ScoreHistograms:
            file = self.reader.table(artifact, scores_schema(run.modalities))
            num_classes = file.metadata.get("num_classes")
            fields = {
                "epoch": epoch,
                "num_rows": (file.ends() or [0])[-1],
                "num_classes": num_classes,
                "modalities": file_histograms(file, num_classes, num_bins=num_bins),
            }
            return as_model(plan_api.ScoreHistograms, fields, str(artifact.path))

        return self.reader.cached(
            artifact, f"histogram {num_bins}", read, lambda _: 256 * num_bins * len(run.modalities)
        )

    def sample(self, name: str, sample_id: str) -> api.SampleHistory:
        """History of a sample, through indexes: reads a few record batches per epoch.

        Raises MissingError, DataError.
        """
        run = self.reader.json(self._run_artifact(name), files.RunFile)
        manifest = self.manifest(run.features.name)
        check_features(name, run.features, manifest.fingerprint)
        sample = find_sample(self.reader, run.features.name, sample_id, run.modalities)
        plans, scores = self._files_by_epoch(name, "plans"), self._files_by_epoch(name, "scores")
        indexes = {
            epoch: self.reader.artifact("runs", name, "plans", f"epoch-{epoch:04d}.index.arrow")
            for epoch in plans
        }
        steps = {epoch: self._steps(artifact) for epoch, artifact in plans.items()}
        epochs = history(self.reader, sample["row"], run.modalities, steps, indexes, scores)
        label, num_classes = sample["label"], len(manifest.classes)
        if not 0 <= label < num_classes:
            raise DataError(
                f"Label of sample {sample_id!r} out of range: {label} of {num_classes} classes",
                "Decode the features again",
            )
        fields = {
            **sample,
            "class_name": manifest.classes[label],
            "has": {modality: sample[f"has_{modality}"] for modality in run.modalities},
            "epochs": epochs,
        }
        return as_model(api.SampleHistory, fields, f"sample {sample_id!r}")

    def comparisons(self) -> list[str]:
        """Names of the comparisons."""
        return self._names_with("comparisons", "table.json")

    def comparison(self, name: str) -> comparison_api.ComparisonDetail:
        """One comparison. Raises MissingError, DataError."""
        if not self._has("comparisons", name, "table.json"):
            raise MissingError(
                f"Comparison not found: {name!r}", "GET /v1/comparisons lists comparisons"
            )
        artifact = self.reader.artifact("comparisons", name, "table.json")
        table = self.reader.json(artifact, comparison_api.ComparisonTable)
        return comparison_api.ComparisonDetail(**dict(table), name=name)

    def curves(self, name: str) -> list[comparison_api.CurvePoint]:
        """The epochs of all runs of a comparison."""
        self.comparison(name)
        artifact = self.reader.artifact("comparisons", name, "curves.arrow")

        def read() -> list[comparison_api.CurvePoint]:
            file, path = self.reader.table(artifact, CURVES), str(artifact.path)
            shares = [name for name in file.schema.names if name.startswith("share_")]
            modalities = [name.removeprefix("share_") for name in shares]
            return [
                as_model(comparison_api.CurvePoint, epoch_fields(row, modalities), path)
                for batch in file.batches()
                for row in batch.to_pylist()
            ]

        return self.reader.cached(artifact, "curves", read, size_of_rows)
