"""From the files of a store to what the service says of them."""

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from pipeline.errors import DataError, InputError, MissingError, StoreError
from pipeline.features.manifest import Manifest
from pipeline.scores.histograms import file_histograms
from pipeline.storage.schemas import PLAN, REJECTED, epochs_schema, samples_schema, scores_schema
from pipeline.storage.store_path import MANIFEST
from service import comparison_schemas as comparison_api
from service import schemas as api
from service.store import file_models as files
from service.store.file_models import CURVES, as_model, epoch_of, weight_of
from service.store.paging import Header, Rows, Steps
from service.store.reader import NAME, Artifact, StoreReader, reading
from service.store.sample_history import assigned, find_sample, scored

EPOCH = r"epoch-(\d{4}|[1-9]\d{4,8})\.arrow"


class Catalog:
    """A store's features, runs, plans and comparisons; names come from URLs and are looked up in listings."""

    def __init__(self, reader: StoreReader) -> None:
        self.reader = reader

    def _has(self, folder: str, name: str, file: str) -> bool:
        """Whether the name is in the listing of the store, with the file that makes it what it claims to be."""
        return (
            bool(re.fullmatch(NAME, name))
            and self.reader.has(folder, name)
            and self.reader.has(folder, name, file)
        )

    def _all(self, folder: str, file: str) -> list[str]:
        def has(name: str) -> bool:
            try:
                return self.reader.has(folder, name, file)
            except StoreError:
                return True  # one folder that cannot be read: who asks for it is told, and the others are listed

        return [name for name in self.reader.names(folder) if has(name)]

    # features

    def features(self) -> list[str]:
        """The names of the finished feature sets."""
        return self._all("features", MANIFEST)

    def feature_set(self, name: str) -> api.FeatureDetail:
        """One feature set (raises MissingError, DataError)."""
        manifest = self._manifest(name)
        facts = manifest.model_dump(exclude={"version", "batch_rows", "parts"})
        return api.FeatureDetail(
            name=name, num_classes=len(manifest.classes), num_parts=len(manifest.parts), **facts
        )

    def rejected(self, name: str) -> Rows:
        """The samples that could not be used."""
        self._manifest(name)
        return Rows(self.reader, self.reader.artifact("features", name, "rejected.arrow"), REJECTED)

    def samples(self, name: str) -> tuple[Rows, list[str]]:
        """The samples of a feature set, and its modalities."""
        modalities = list(self._manifest(name).modalities)
        return Rows(
            self.reader,
            self.reader.artifact("features", name, "samples.arrow"),
            samples_schema(modalities),
        ), modalities

    def _manifest(self, name: str) -> Manifest:
        if not self._has("features", name, MANIFEST):
            raise MissingError(
                f"there is no finished feature set {name!r}", "GET /v1/features lists them"
            )
        artifact = self.reader.artifact("features", name, MANIFEST)
        return self.reader.json(artifact, Manifest, files.MAX_MANIFEST_BYTES)

    # runs

    def runs(self) -> list[str]:
        """The names of the runs."""
        return self._all("runs", "run.json")

    def run(self, name: str) -> api.RunDetail:
        """One run (raises MissingError, DataError)."""
        artifact = self._run_artifact(name)
        found = self.reader.json(artifact, files.RunFile)
        num_epochs, best, written = 0, None, self._epoch_tables(name)
        for each in written:  # of all runs that are listed this alone is remembered, not their rows
            num_epochs, best = self.reader.remember(
                each, f"best of {found.modalities}", partial(self._best, each, found.modalities)
            )
        train = as_model(files.RunConfigPart, found.config, f"{artifact.path}: config").train
        facts = {
            **found.model_dump(),
            "name": name,
            "error": found.error and self.reader.public(found.error),
            # without the store: a path, or a URI with credentials
            "config": {key: value for key, value in found.config.items() if key != "store"},
            "updated": max(each.written for each in (artifact, *written)),
            "num_epochs": num_epochs,
            "planned_epochs": train.epochs,
            "warmup_epochs": train.warmup_epochs,
            "best": best,
            "test_accuracy": found.result and found.result.test_accuracy,
            "plans": self._numbers(name, "plans"),
            "scores": self._numbers(name, "scores"),
        }
        return as_model(api.RunDetail, facts, str(artifact.path))

    def epochs(self, name: str) -> list[api.EpochRow]:
        """The epochs of a run that are done."""
        modalities = self.reader.json(self._run_artifact(name), files.RunFile).modalities
        tables = self._epoch_tables(name)
        return [
            row
            for each in tables
            for row in self.reader.remember(
                each,
                f"epochs of {modalities}",
                partial(self._epoch_rows, each, modalities),
                weight_of,
            )
        ]

    def _run_artifact(self, name: str) -> Artifact:
        if not self._has("runs", name, "run.json"):
            raise MissingError(f"there is no run {name!r}", "GET /v1/runs lists them")
        return self.reader.artifact("runs", name, "run.json")

    def _epoch_tables(self, name: str) -> list[Artifact]:
        return self.reader.artifacts("runs", name, pattern=r"epochs\.arrow")

    def _best(self, artifact: Artifact, modalities: Sequence[str]) -> tuple[int, api.Best | None]:
        """The number of epochs, and the first of the best."""
        rows = self._epoch_rows(artifact, modalities)
        scored = [
            api.Best(epoch=row.epoch, validation_accuracy=row.validation_accuracy)
            for row in rows
            if row.validation_accuracy is not None
        ]
        return len(rows), max(
            scored, key=lambda best: (best.validation_accuracy, -best.epoch), default=None
        )

    def _epoch_rows(self, artifact: Artifact, modalities: Sequence[str]) -> list[api.EpochRow]:
        table = self.reader.table(artifact, epochs_schema(modalities, diagnostics=False))
        with reading(artifact):
            return [
                as_model(api.EpochRow, epoch_of(row, modalities), str(artifact.path))
                for batch in table.batches()
                for row in batch.to_pylist()
            ]

    # plans

    def plans(self, name: str) -> list[int]:
        """The epochs of a run that have a plan."""
        self._run_artifact(name)
        return self._numbers(name, "plans")

    def plan(self, name: str, epoch: int) -> api.PlanDetail:
        """One plan (raises MissingError, DataError)."""
        artifact, stats = self._plan(name, epoch), self.stats(name, epoch)
        metadata = self.header(artifact).metadata
        facts = {
            **metadata,
            "epoch": epoch,
            "asked_shares": metadata.get("shares"),
            "shares": {m: s.share for m, s in stats.modalities.items()},
            "num_steps": stats.num_steps,
            "num_rows": stats.num_rows,
            "churn": stats.churn,
            "written": artifact.written,
            "bytes": artifact.info.size,
            "has_scores": epoch in self._numbers(name, "scores"),
        }
        return as_model(api.PlanDetail, facts, str(artifact.path))

    def stats(self, name: str, epoch: int) -> api.PlanStats:
        """A plan's statistics as they were stored with it (raises MissingError, DataError)."""
        plan = self._plan(name, epoch)
        artifact = self.reader.artifact("runs", name, "plans", f"epoch-{epoch:04d}.stats.json")
        stats, num_steps = self.reader.json(artifact, api.PlanStats), self.header(plan).num_steps
        if stats.num_steps != num_steps:
            raise DataError(
                f"{artifact.path} says {stats.num_steps} steps, but the plan has {num_steps}",
                "plan the epoch again",
            )
        return stats

    def steps(self, name: str, epoch: int) -> Steps:
        """The steps of a plan."""
        return self._steps(self._plan(name, epoch))

    def _steps(self, artifact: Artifact) -> Steps:
        return Steps(self.reader, artifact, self.header(artifact))

    def header(self, artifact: Artifact) -> Header:
        """What a plan file says of itself (raises DataError)."""

        def read() -> Header:
            file = self.reader.table(artifact, PLAN)
            if "fingerprint" not in file.metadata:
                raise DataError(f"{artifact.path} has no fingerprint", "plan the epoch again")
            return Header(file.metadata, file.schema, file.ends())

        return self.reader.remember(artifact, "header", read)

    def plan_of(self, fingerprint: str) -> tuple[str, int]:
        """The run and the epoch of the plan that has a fingerprint (raises MissingError)."""
        # a run or a plan that cannot be read is not the one
        for name in self.runs():
            with suppress(InputError):
                for epoch, artifact in self._numbered(name, "plans").items():
                    with suppress(InputError):
                        if self._fingerprint(artifact) == fingerprint:
                            return name, epoch
        raise MissingError(
            f"no plan has the fingerprint {fingerprint!r}", "GET /v1/runs/RUN/plans lists plans"
        )

    def _fingerprint(self, artifact: Artifact) -> str:
        def read() -> str:
            return str(self.reader.table(artifact, PLAN).metadata.get("fingerprint"))

        return self.reader.remember(artifact, "fingerprint", read)

    def last_plans(self, runs: Sequence[str]) -> tuple[int, list[tuple[str, int, Artifact]]]:
        """How many plans there are, and of each run the last one's run, epoch and file, which alone is looked at.

        A run whose plans cannot be listed has none (raises StoreError where the store is not there).
        """
        total, found = 0, []
        for name in runs:
            with suppress(InputError):
                if epochs := self._numbers(name, "plans"):
                    total += len(epochs)
                    found.append((name, epochs[-1], self._plan(name, epochs[-1])))
        self.reader.check()
        return total, found

    def _plan(self, name: str, epoch: int) -> Artifact:
        self._run_artifact(name)
        return self._epoch_file(name, "plans", epoch, "plan")

    def _epoch_file(self, name: str, kind: str, epoch: int, what: str) -> Artifact:
        file = f"epoch-{epoch:04d}.arrow"
        if not self.reader.has("runs", name, kind, file):
            raise MissingError(
                f"run {name!r} has no {what} of epoch {epoch}",
                f"GET /v1/runs/{name} lists the epochs that have one",
            )
        return self.reader.artifact("runs", name, kind, file)

    def _numbers(self, name: str, kind: str) -> list[int]:
        return sorted(
            int(file.removeprefix("epoch-").removesuffix(".arrow"))
            for file in self.reader.names("runs", name, kind, pattern=EPOCH)
        )

    def _numbered(self, name: str, kind: str) -> dict[int, Artifact]:
        found = {
            re.fullmatch(EPOCH, artifact.path.name): artifact
            for artifact in self.reader.artifacts("runs", name, kind, pattern=EPOCH)
        }
        return dict(sorted((int(match[1]), artifact) for match, artifact in found.items() if match))

    # scores

    def histograms(self, name: str, epoch: int, num_bins: int) -> api.ScoreHistograms:
        """How hard the samples of an epoch are (raises MissingError, DataError)."""
        run = self.reader.json(self._run_artifact(name), files.RunFile)
        artifact = self._epoch_file(name, "scores", epoch, "scores")

        def read() -> api.ScoreHistograms:
            file = self.reader.table(artifact, scores_schema(run.modalities))
            num_classes = file.metadata.get("num_classes")
            facts = {
                "epoch": epoch,
                "num_rows": (file.ends() or [0])[-1],
                "num_classes": num_classes,
                "modalities": file_histograms(file, num_classes, num_bins=num_bins),
            }
            return as_model(api.ScoreHistograms, facts, str(artifact.path))

        return self.reader.remember(
            artifact, f"histogram {num_bins}", read, lambda _: 256 * num_bins * len(run.modalities)
        )

    # samples

    def sample(self, name: str, sample_id: str) -> api.SampleHistory:
        """A sample's story, by indexes: a few record batches an epoch (raises MissingError, DataError)."""
        run = self.reader.json(self._run_artifact(name), files.RunFile)
        manifest = self._manifest(run.features.name)
        if manifest.fingerprint != run.features.fingerprint:
            raise DataError(
                f"run {name!r} was made from features {run.features.fingerprint[:12]}, but {run.features.name!r} is now {manifest.fingerprint[:12]}",
                "decode them again, or delete the run",
            )
        facts = find_sample(self.reader, run.features.name, sample_id, run.modalities)
        plans, scores = self._numbered(name, "plans"), self._numbered(name, "scores")
        epochs = []
        for epoch in sorted({*plans, *scores}):
            found: dict[str, Any] = {"epoch": epoch}
            if epoch in plans:
                index = self.reader.artifact(
                    "runs", name, "plans", f"epoch-{epoch:04d}.index.arrow"
                )
                found |= assigned(self.reader, self._steps(plans[epoch]), index, facts["row"])
            if epoch in scores:
                found["modalities"] = scored(
                    self.reader, scores[epoch], facts["row"], run.modalities
                )
            epochs.append(found)
        if not 0 <= facts["label"] < len(manifest.classes):
            raise DataError(
                f"sample {sample_id!r} has the label {facts['label']}, but there are {len(manifest.classes)} classes",
                "decode again",
            )
        has = {modality: facts[f"has_{modality}"] for modality in run.modalities}
        return as_model(
            api.SampleHistory,
            {**facts, "class_name": manifest.classes[facts["label"]], "has": has, "epochs": epochs},
            f"sample {sample_id!r}",
        )

    # comparisons

    def comparisons(self) -> list[str]:
        """The names of the comparisons."""
        return self._all("comparisons", "table.json")

    def comparison(self, name: str) -> comparison_api.ComparisonDetail:
        """One comparison (raises MissingError, DataError)."""
        if not self._has("comparisons", name, "table.json"):
            raise MissingError(f"there is no comparison {name!r}", "GET /v1/comparisons lists them")
        found = self.reader.json(
            self.reader.artifact("comparisons", name, "table.json"), files.ComparisonFile
        )
        return comparison_api.ComparisonDetail(
            name=name, seeds=found.seeds, methods=found.methods, tests=found.tests
        )

    def curves(self, name: str) -> list[comparison_api.CurvePoint]:
        """The epochs of all runs of a comparison."""
        self.comparison(name)
        artifact = self.reader.artifact("comparisons", name, "curves.arrow")

        def read() -> list[comparison_api.CurvePoint]:
            file, what = self.reader.table(artifact, CURVES), str(artifact.path)
            shares = [name for name in file.schema.names if name.startswith("share_")]
            modalities = [name.removeprefix("share_") for name in shares]
            return [
                as_model(comparison_api.CurvePoint, epoch_of(row, modalities), what)
                for batch in file.batches()
                for row in batch.to_pylist()
            ]

        return self.reader.remember(artifact, "curves", read, weight_of)
