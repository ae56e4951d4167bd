"""From the files of a store to what the service says of them."""

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, TypeAdapter, ValidationError

from pipeline.difficulty import difficulty
from pipeline.errors import DataError, InputError, MissingError, StoreError
from pipeline.histograms import file_histograms
from pipeline.index import IDS, IDS_SCHEMA, STEPS_SCHEMA, find_rows, step_of
from pipeline.schema import PLAN, REJECTED, check_parent, epochs_schema, samples_schema, scores_schema
from pipeline.store import MANIFEST
from service import files
from service import schemas as api
from service.rows import Header, Rows, Steps
from service.shelf import Artifact, Shelf, reading

Model = TypeVar("Model", bound=BaseModel)
EPOCH = r"epoch-(\d{4}|[1-9]\d{4,8})\.arrow"
SECONDS = ("score", "plan", "load", "step", "validate", "epoch")
CURVES = pa.schema([("method", pa.string()), ("seed", pa.int64())])


class Catalog:
    """A store's features, runs, plans and comparisons; names come from URLs and are looked up in listings."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf

    def _has(self, folder: str, name: str, file: str) -> bool:
        """Whether the name is in the listing of the store, with the file that makes it what it claims to be."""
        return name in self.shelf.names(folder) and bool(self.shelf.names(folder, name, pattern=re.escape(file)))

    def _all(self, folder: str, file: str) -> list[str]:
        def has(name: str) -> bool:
            try:
                return bool(self.shelf.names(folder, name, pattern=re.escape(file)))
            except StoreError:
                return True  # one folder that cannot be read: who asks for it is told, and the others are listed

        return [name for name in self.shelf.names(folder) if has(name)]

    # features

    def features(self) -> list[str]:
        """The names of the finished feature sets."""
        return self._all("features", MANIFEST)

    def feature_set(self, name: str) -> api.FeatureDetail:
        """One feature set (raises MissingError, DataError)."""
        manifest = self._manifest(name)
        facts = manifest.model_dump(include={"fingerprint", "num_rows", "num_rejected", "splits", "modalities", "classes", "reasons", "parents"})
        return api.FeatureDetail(name=name, num_classes=len(manifest.classes), num_parts=len(manifest.parts), **facts)

    def rejected(self, name: str) -> Rows:
        """The samples that could not be used."""
        self._manifest(name)
        return Rows(self.shelf, self.shelf.artifact("features", name, "rejected.arrow"), REJECTED)

    def samples(self, name: str) -> tuple[Rows, list[str]]:
        """The samples of a feature set, and its modalities."""
        modalities = list(self._manifest(name).modalities)
        return Rows(self.shelf, self.shelf.artifact("features", name, "samples.arrow"), samples_schema(modalities)), modalities

    def _manifest(self, name: str) -> files.Manifest:
        if not self._has("features", name, MANIFEST):
            raise MissingError(f"there is no finished feature set {name!r}", "GET /v1/features lists them")
        artifact = self.shelf.artifact("features", name, MANIFEST)
        manifest = self.shelf.json(artifact, files.Manifest)
        for what, num in (("parts", sum(part.rows for part in manifest.parts)), ("splits", sum(manifest.splits.values()))):
            if num != manifest.num_rows:
                raise DataError(f"{artifact.place} says num_rows {manifest.num_rows}, but its {what} have {num}", "decode again")
        return manifest

    # runs

    def runs(self) -> list[str]:
        """The names of the runs."""
        return self._all("runs", "run.json")

    def run(self, name: str) -> api.RunDetail:
        """One run (raises MissingError, DataError)."""
        artifact = self._run_artifact(name)
        found = self.shelf.json(artifact, files.Run)
        rows, written = self._epochs(name, found.modalities)
        scored = [row for row in rows if row.validation_accuracy is not None]
        best = max(scored, key=lambda row: (row.validation_accuracy or 0.0, -row.epoch), default=None)
        facts = found.model_dump(include={"status", "features", "modalities", "digest", "code_version"})
        train = _model(files.Config, found.config, f"{artifact.place}: config").train
        return _model(
            api.RunDetail,
            {
                **facts,
                "name": name,
                "error": found.error and self.shelf.public(found.error),
                "config": {key: value for key, value in found.config.items() if key != "store"},  # a path, or a URI with credentials
                "updated": max(artifact.written, *(each.written for each in written)) if written else artifact.written,
                "num_epochs": len(rows),
                "planned_epochs": train.epochs,
                "warmup_epochs": train.warmup_epochs,
                "best": best and {"epoch": best.epoch, "validation_accuracy": best.validation_accuracy},
                "test_accuracy": found.result and found.result.test_accuracy,
                "plans": list(self._numbered(name, "plans")),
                "scores": list(self._numbered(name, "scores")),
            },
            str(artifact.place),
        )

    def epochs(self, name: str) -> list[api.EpochRow]:
        """The epochs of a run that are done."""
        return self._epochs(name, self.shelf.json(self._run_artifact(name), files.Run).modalities)[0]

    def _run_artifact(self, name: str) -> Artifact:
        if not self._has("runs", name, "run.json"):
            raise MissingError(f"there is no run {name!r}", "GET /v1/runs lists them")
        return self.shelf.artifact("runs", name, "run.json")

    def _epochs(self, name: str, modalities: Sequence[str]) -> tuple[list[api.EpochRow], list[Artifact]]:
        tables = self.shelf.artifacts("runs", name, pattern=r"epochs\.arrow")
        return [row for each in tables for row in self._epoch_rows(each, modalities)], tables

    def _epoch_rows(self, artifact: Artifact, modalities: Sequence[str]) -> list[api.EpochRow]:
        def read() -> list[api.EpochRow]:
            table = self.shelf.table(artifact, epochs_schema(modalities))
            return [_model(api.EpochRow, _epoch(row, modalities), str(artifact.place)) for batch in table.batches() for row in batch.to_pylist()]

        return self.shelf.remember(artifact, f"epochs of {modalities}", read, artifact.info.size or 0)

    # plans

    def plans(self, name: str) -> list[int]:
        """The epochs of a run that have a plan."""
        self._run_artifact(name)
        return list(self._numbered(name, "plans"))

    def plan(self, name: str, epoch: int) -> api.PlanDetail:
        """One plan (raises MissingError, DataError)."""
        artifact, stats = self._plan(name, epoch), self.stats(name, epoch)
        metadata = self.header(artifact).metadata
        named = {"asked_shares": metadata.get("shares"), **{key: metadata.get(key) for key in ("locality", "stratify", "min_share", "num_classes", "order")}}
        facts: dict[str, Any] = {key: metadata[key] for key in ("fingerprint", "policy", "modalities", "seed", "batch_size", "parents") if key in metadata}
        counts = {"num_steps": stats.num_steps, "num_rows": stats.num_rows, "churn": stats.churn, "shares": {m: s.share for m, s in stats.modalities.items()}}
        written = {"written": artifact.written, "bytes": artifact.info.size, "has_scores": epoch in self._numbered(name, "scores")}
        return _model(api.PlanDetail, {"epoch": epoch, **facts, **named, **counts, **written}, str(artifact.place))

    def stats(self, name: str, epoch: int) -> api.PlanStats:
        """A plan's statistics as they were stored with it (raises MissingError, DataError)."""
        plan = self._plan(name, epoch)
        artifact = self.shelf.artifact("runs", name, "plans", f"epoch-{epoch:04d}.stats.json")
        stats, num_steps = self.shelf.json(artifact, api.PlanStats), self.header(plan).num_steps
        if stats.num_steps != num_steps:
            raise DataError(f"{artifact.place} says {stats.num_steps} steps, but the plan has {num_steps}", "plan the epoch again")
        return stats

    def steps(self, name: str, epoch: int) -> Steps:
        """The steps of a plan."""
        return self._steps(self._plan(name, epoch))

    def _steps(self, artifact: Artifact) -> Steps:
        return Steps(self.shelf, artifact, self.header(artifact))

    def header(self, artifact: Artifact) -> Header:
        """What a plan file says of itself (raises DataError)."""

        def read() -> Header:
            file = self.shelf.table(artifact, PLAN)
            if "fingerprint" not in file.metadata:
                raise DataError(f"{artifact.place} has no fingerprint", "plan the epoch again")
            return Header(file.metadata, file.schema, file.ends())

        return self.shelf.remember(artifact, "header", read)

    def all_plans(self, runs: Sequence[str]) -> list[tuple[str, int, Artifact]]:
        """The run, epoch and file of every plan; a run whose plans cannot be listed has none (raises StoreError where the store is not there)."""
        found = []
        for name in runs:
            with suppress(InputError):
                found += [(name, epoch, plan) for epoch, plan in self._numbered(name, "plans").items()]
        self.shelf.check()
        return found

    def _plan(self, name: str, epoch: int) -> Artifact:
        self._run_artifact(name)
        return self._epoch_file(name, "plans", epoch, "plan")

    def _epoch_file(self, name: str, kind: str, epoch: int, what: str) -> Artifact:
        file = f"epoch-{epoch:04d}.arrow"
        if not self.shelf.names("runs", name, kind, pattern=re.escape(file)):
            raise MissingError(f"run {name!r} has no {what} of epoch {epoch}", f"GET /v1/runs/{name} lists the epochs that have one")
        return self.shelf.artifact("runs", name, kind, file)

    def _numbered(self, name: str, kind: str) -> dict[int, Artifact]:
        found = {re.fullmatch(EPOCH, artifact.place.name): artifact for artifact in self.shelf.artifacts("runs", name, kind, pattern=EPOCH)}
        return dict(sorted((int(match[1]), artifact) for match, artifact in found.items() if match))

    # scores

    def histograms(self, name: str, epoch: int, num_bins: int) -> api.ScoreHistograms:
        """How hard the samples of an epoch are (raises MissingError, DataError)."""
        run = self.shelf.json(self._run_artifact(name), files.Run)
        artifact = self._epoch_file(name, "scores", epoch, "scores")

        def read() -> api.ScoreHistograms:
            file = self.shelf.table(artifact, scores_schema(run.modalities))
            num_classes = file.metadata.get("num_classes")
            found = file_histograms(file, num_classes, num_bins=num_bins)
            facts = {"epoch": epoch, "num_rows": (file.ends() or [0])[-1], "num_classes": num_classes, "modalities": found}
            return _model(api.ScoreHistograms, facts, str(artifact.place))

        return self.shelf.remember(artifact, f"histogram {num_bins}", read, 64 * num_bins * len(run.modalities))

    # samples

    def sample(self, name: str, sample_id: str) -> api.Sample:
        """A sample's story, by indexes: a few record batches an epoch (raises MissingError, DataError)."""
        run = self.shelf.json(self._run_artifact(name), files.Run)
        manifest = self._manifest(run.features.name)
        if manifest.fingerprint != run.features.fingerprint:
            raise DataError(
                f"run {name!r} was made from features {run.features.fingerprint[:12]}, but {run.features.name!r} is now {manifest.fingerprint[:12]}",
                "decode them again, or delete the run",
            )
        facts = self._find(run.features.name, sample_id, run.modalities)
        plans, scores = self._numbered(name, "plans"), self._numbered(name, "scores")
        epochs = []
        for epoch in sorted({*plans, *scores}):
            found: dict[str, Any] = {"epoch": epoch}
            if epoch in plans:
                found |= self._assigned(name, epoch, plans[epoch], facts["row"])
            if epoch in scores:
                found["modalities"] = self._scored(scores[epoch], facts["row"], run.modalities)
            epochs.append(found)
        if not 0 <= facts["label"] < len(manifest.classes):
            raise DataError(f"sample {sample_id!r} has the label {facts['label']}, but there are {len(manifest.classes)} classes", "decode again")
        has = {modality: facts[f"has_{modality}"] for modality in run.modalities}
        return _model(api.Sample, {**facts, "class_name": manifest.classes[facts["label"]], "has": has, "epochs": epochs}, f"sample {sample_id!r}")

    def _find(self, features: str, sample_id: str, modalities: Sequence[str]) -> dict[str, Any]:
        artifact = self.shelf.artifact("features", features, IDS)
        index = self.shelf.table(artifact, IDS_SCHEMA)
        samples = Rows(self.shelf, self.shelf.artifact("features", features, "samples.arrow"), samples_schema(modalities))
        with reading(artifact):
            rows = find_rows(index, sample_id)
        for row in rows:
            for facts in samples.items(row, 1):
                if facts["sample_id"] == sample_id:
                    return {**facts, "row": row}
        raise MissingError(f"features {features!r} have no sample {sample_id!r}", "give a sample_id as it stands in samples.arrow")

    def _assigned(self, name: str, epoch: int, plan: Artifact, row: int) -> dict[str, Any]:
        artifact = self.shelf.artifact("runs", name, "plans", f"epoch-{epoch:04d}.index.arrow")
        steps, index = self._steps(plan), self.shelf.table(artifact, STEPS_SCHEMA)
        with reading(artifact):
            check_parent(str(artifact.place), index.metadata["parents"]["plan"], "plan", steps.header.metadata["fingerprint"])
            step = step_of(index, row)
        return {} if step is None else {"step": step, "assigned": steps.modality(step)}

    def _scored(self, artifact: Artifact, row: int, modalities: Sequence[str]) -> dict[str, Any] | None:
        file = self.shelf.table(artifact, scores_schema(modalities))
        firsts = self.shelf.remember(artifact, "firsts", lambda: [batch.column(0)[0].as_py() for batch in file.batches(["row"])])
        with reading(artifact):
            number = bisect_right(firsts, row) - 1
            batch = file.batch(max(number, 0))
            position = pc.index(batch.column("row"), row).as_py()
            if position < 0:
                return None
            facts, num_classes = batch.slice(position, 1).to_pylist()[0], file.metadata.get("num_classes")
            return {modality: _scored_modality(facts, modality, num_classes) for modality in modalities}

    # comparisons

    def comparisons(self) -> list[str]:
        """The names of the comparisons."""
        return self._all("comparisons", "table.json")

    def comparison(self, name: str) -> api.ComparisonDetail:
        """One comparison (raises MissingError, DataError)."""
        if not self._has("comparisons", name, "table.json"):
            raise MissingError(f"there is no comparison {name!r}", "GET /v1/comparisons lists them")
        found = self.shelf.json(self.shelf.artifact("comparisons", name, "table.json"), files.Outcome)
        return api.ComparisonDetail(name=name, seeds=found.seeds, methods=found.methods, tests=found.tests)

    def curves(self, name: str) -> list[api.CurvePoint]:
        """The epochs of all runs of a comparison."""
        self.comparison(name)
        artifact = self.shelf.artifact("comparisons", name, "curves.arrow")

        def read() -> list[api.CurvePoint]:
            file = self.shelf.table(artifact, CURVES)
            modalities = [column.removeprefix("share_") for column in file.schema.names if column.startswith("share_")]
            rows = (row for batch in file.batches() for row in batch.to_pylist())
            return [_model(api.CurvePoint, {**_epoch(row, modalities), "method": row["method"], "seed": row["seed"]}, str(artifact.place)) for row in rows]

        return self.shelf.remember(artifact, "curves", read, artifact.info.size or 0)


def damage(name: str, error: InputError, shelf: Shelf) -> api.Damage:
    """What stands in a list for an artifact that cannot be read."""
    return api.Damage(name=name, error=shelf.public(str(error)))


def _model(model: type[Model], facts: dict[str, Any], what: str) -> Model:
    try:
        return TypeAdapter(model).validate_python(facts)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{what} is not what it should be: {where}: {first['msg']} ({error.error_count()} errors)", "write it again") from error


def _epoch(row: dict[str, Any], modalities: Sequence[str]) -> dict[str, Any]:
    finite = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
    facts = {name: {key: finite.get(f"{key}_{name}") for key in ("share", "train_accuracy", "validation_accuracy")} for name in modalities}
    return {**finite, "modalities": facts, "seconds": {name: finite.get(f"{name}_seconds") for name in SECONDS}}


def _scored_modality(facts: dict[str, Any], modality: str, num_classes: Any) -> dict[str, Any]:
    kl = facts[f"kl_{modality}"]
    if kl is None or math.isnan(kl):
        return {"kl": None, "difficulty": None, "p_label": None, "predicted": None}
    hard = float(difficulty(np.array([kl]), num_classes)[0]) if isinstance(num_classes, int) and num_classes > 1 else None
    return {"kl": kl, "difficulty": hard, "p_label": facts[f"p_label_{modality}"], "predicted": facts[f"predicted_{modality}"]}
