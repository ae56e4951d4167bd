"""Views of single samples of a run: points of a scatter, ranked lists, and moves between plans."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.arrays import Array, Float64Array, Int8Array, Int64Array
from pipeline.errors import DataError, MissingError
from pipeline.scores.difficulty import difficulty
from pipeline.storage.arrow_files import TABLE_ROWS
from service import inspection_schemas as api
from service.store.assignments import (
    UNPLANNED,
    assignment_of,
    count_changes,
    count_moves,
    names_of,
)
from service.store.catalog import Catalog
from service.store.file_models import as_model
from service.store.paging import Rows
from service.store.ranking import highest, lottery
from service.store.sample_history import check_features

MAX_RANKED = 1000
"""A ranked list has at most this many samples."""
POINT_BYTES = 2**8
"""Estimated memory of a point of a scatter, and once more of each of its modalities."""
SCORED_SPLIT, TESTED_SPLIT = "train", "test"
FUSED = "fused"
Fields = dict[str, Any]


class Inspection:
    """Samples of one run. Raises MissingError, and DataError if the features changed since."""

    def __init__(self, catalog: Catalog, run: str) -> None:
        self._catalog, self._reader = catalog, catalog.reader
        self.run = catalog.run(run)
        self._modalities = self.run.modalities
        parent = self.run.features
        features = catalog.feature_set(parent.name)
        check_features(run, parent, features.fingerprint)
        self._classes, self._num_rows = features.classes, features.num_rows
        self._samples, _ = catalog.samples(parent.name)
        self._names = names_of(self._modalities)

    def points(self, epoch: int, limit: int) -> api.ScorePoints:
        """Scores of at most `limit` samples, chosen by a hash of their row."""
        scores = self._catalog.score_table(self.run.name, epoch)
        planned = epoch in self.run.plans
        plan = self._catalog.steps(self.run.name, epoch).artifact.version if planned else None
        return self._reader.cached(
            scores.artifact,
            f"{limit} points of {self._modalities} {plan}",
            partial(self._points, scores, epoch, limit),
            lambda points: points.num_points * POINT_BYTES * (1 + len(self._modalities)),
        )

    def _points(self, scores: Rows, epoch: int, limit: int) -> api.ScorePoints:
        assignment = self._assignment(epoch) if epoch in self.run.plans else None

        def assigned(rows: Int64Array) -> list[str | None]:
            self._check_rows(rows, scores)
            codes = [UNPLANNED] * len(rows) if assignment is None else assignment[rows].tolist()
            return [self._names[code] for code in codes]

        counts = Counter[str | None]()

        def hashed() -> Iterator[Float64Array]:
            for batch in scores.columns(["row"]):
                rows = batch.column("row").to_numpy()
                counts.update(assigned(rows))
                yield lottery(rows)

        num_rows, positions = highest(hashed(), limit)
        columns = ["row", "sample_id", "label", *self._score_columns("kl", "predicted")]
        table = scores.take(np.sort(positions), columns)
        rows, labels = table["row"].to_numpy(), table["label"].to_numpy()
        own = assigned(rows)
        drawn = Counter(own)
        known = {name: self._difficulty(table, name) for name in self._modalities}
        fields = {
            "epoch": epoch,
            "num_rows": num_rows,
            "num_points": len(table),
            "counts": [
                {"assigned": name, "num_rows": counts[name], "num_points": drawn[name]}
                for name in self._names
                if counts[name]
            ],
            **{name: table[name].to_pylist() for name in ("row", "sample_id", "label")},
            "assigned": own,
            "difficulty": {name: _nullable(values.round(4)) for name, values in known.items()},
            "correct": {
                name: _nullable(table[f"predicted_{name}"].to_numpy() == labels, np.isnan(values))
                for name, values in known.items()
            },
        }
        return as_model(api.ScorePoints, fields, str(scores.artifact.path))

    def hardest(
        self, epoch: int, modality: str | None, class_name: str | None, start: int, limit: int
    ) -> tuple[int, list[Fields]]:
        """The hardest samples in a modality, or on average over those that the sample has."""
        if modality is not None and modality not in self._modalities:
            raise MissingError(
                f"Modality not in run {self.run.name!r}: {modality!r}",
                f"Choose from {', '.join(self._modalities)}",
            )
        scores = self._catalog.score_table(self.run.name, epoch)
        label, names = self._label(class_name), [modality] if modality else self._modalities

        def values(table: pa.RecordBatch | pa.Table) -> Float64Array:
            each = np.stack([self._difficulty(table, name) for name in names])
            present = ~np.isnan(each)
            sums = np.where(present, each, 0.0).sum(axis=0)
            with np.errstate(invalid="ignore"):
                mean: Float64Array = sums / present.sum(axis=0)  # NaN without any of them
            return mean

        def blocks() -> Iterator[Float64Array]:
            for batch in scores.columns(["label", *(f"kl_{name}" for name in names)]):
                yield _only(values(batch), batch.column("label").to_numpy(), label)

        what = f"hardest of {names} {len(self._classes)} {label}"
        num_rows, positions = self._ranked(scores, what, blocks)
        columns = ["row", "sample_id", "label", *self._score_columns("kl")]
        table = scores.take(positions[start : start + limit], columns)
        each = {name: _nullable(self._difficulty(table, name)) for name in self._modalities}
        items = [
            {**sample, "value": value, "difficulty": {name: each[name][i] for name in each}}
            for i, (sample, value) in enumerate(
                zip(self._described(table, scores), values(table).tolist(), strict=True)
            )
        ]
        return num_rows, items

    def changed(self, class_name: str | None, start: int, limit: int) -> tuple[int, list[Fields]]:
        """The samples that changed modality between plans, those of most changes first."""
        if not self.run.plans:
            return 0, []
        plans = [self._catalog.steps(self.run.name, epoch) for epoch in self.run.plans]
        versions = hash(tuple(steps.artifact.version for steps in plans))
        newest = plans[-1].artifact
        changes, last = self._reader.cached(
            newest,
            f"changes of {self._modalities} {versions}",
            lambda: count_changes(map(self._assignment, self.run.plans), self._num_rows),
            lambda arrays: sum(array.nbytes for array in arrays),
        )
        label = self._label(class_name)

        def blocks() -> Iterator[Float64Array]:
            first = 0
            for batch in self._samples.columns(["label"]):
                own = changes[first : first + batch.num_rows].astype(np.float64)
                own[own == 0] = np.nan
                yield _only(own, batch.column("label").to_numpy(), label)
                first += batch.num_rows

        num_rows, rows = self._ranked(self._samples, f"changed {versions} {label}", blocks)
        rows = rows[start : start + limit]
        counts, names = changes[rows].tolist(), [self._names[code] for code in last[rows].tolist()]
        samples = self._samples_at(rows)
        return num_rows, [
            {**sample, "num_changes": count, "assigned": name}
            for sample, count, name in zip(samples, counts, names, strict=True)
        ]

    def mistakes(self, class_name: str | None, start: int, limit: int) -> tuple[int, list[Fields]]:
        """The test samples that the fused head gets wrong, the most confident predictions first."""
        if not self._reader.has("runs", self.run.name, "test.arrow"):
            raise MissingError(
                f"Run {self.run.name!r} has no test predictions: it is {self.run.status}",
                "Wait until it is finished, or resume it",
            )
        heads = [f"predicted_{head}" for head in (FUSED, *self._modalities)]
        schema = {"row": pa.int64(), "sample_id": pa.string(), "label": pa.int32()}
        p_predicted, p_label = f"p_predicted_{FUSED}", f"p_label_{FUSED}"
        schema |= dict.fromkeys(heads, pa.int32())
        schema |= {p_predicted: pa.float32(), p_label: pa.float32()}
        artifact = self._reader.artifact("runs", self.run.name, "test.arrow")
        tested = Rows(self._reader, artifact, pa.schema(schema))
        label = self._label(class_name)

        def blocks() -> Iterator[Float64Array]:
            for batch in tested.columns(["label", heads[0], p_predicted]):
                labels = batch.column("label").to_numpy()
                p = batch.column(p_predicted).to_numpy(zero_copy_only=False)
                wrong = p.astype(np.float64)
                wrong[batch.column(heads[0]).to_numpy() == labels] = np.nan
                yield _only(wrong, labels, label)

        num_rows, positions = self._ranked(tested, f"mistakes {label}", blocks)
        table = tested.take(positions[start : start + limit], list(schema))
        has = self._samples.take(
            self._check_rows(table["row"].to_numpy(), tested),
            [f"has_{name}" for name in self._modalities],
        )
        items = []
        for sample, fields, present in zip(
            self._described(table, tested), table.to_pylist(), has.to_pylist(), strict=True
        ):
            predicted = fields[f"predicted_{FUSED}"]
            right = [
                name
                for name in self._modalities
                if present[f"has_{name}"] and fields[f"predicted_{name}"] == fields["label"]
            ]
            named = {"predicted_name": self._class(predicted, tested), "right": right}
            named |= {"p_label": fields[p_label], "p_predicted": fields[p_predicted]}
            items.append({**sample, **named, "predicted": predicted})
        return num_rows, items

    def moves(self, epoch: int, to: int, limit: int) -> api.PlanMoves:
        """What moved from one plan to another, with at most `limit` of the moved samples."""
        before, after, num = self._assignment(epoch), self._assignment(to), len(self._names)
        counts = count_moves(before, after, num)

        def blocks() -> Iterator[Float64Array]:
            for start in range(0, self._num_rows, TABLE_ROWS):
                rows = np.arange(start, min(start + TABLE_ROWS, self._num_rows))
                moved = before[rows] != after[rows]
                yield np.where(moved, lottery(rows), np.nan)

        num_moved, rows = highest(blocks(), limit)
        rows = np.sort(rows)
        samples = self._samples_at(rows)
        kinds = zip(before[rows].tolist(), after[rows].tolist(), strict=True)
        absent = counts[UNPLANNED, UNPLANNED]
        return api.PlanMoves(
            epoch=epoch,
            to=to,
            num_rows=self._num_rows - int(absent),
            num_moved=num_moved,
            counts=[
                api.MoveCount(before=first, after=second, num_rows=int(counts[i, j]))
                for i, first in enumerate(self._names)
                for j, second in enumerate(self._names)
                if counts[i, j] and (first, second) != (None, None)
            ],
            items=[
                api.MovedSample(**sample, before=self._names[i], after=self._names[j])
                for sample, (i, j) in zip(samples, kinds, strict=True)
            ],
        )

    def _assignment(self, epoch: int) -> Int8Array:
        steps = self._catalog.steps(self.run.name, epoch)
        return assignment_of(self._reader, steps, self._modalities, self._num_rows)

    def _ranked(self, table: Rows, what: str, blocks: Any) -> tuple[int, Int64Array]:
        """The number of ranked rows of a table and the positions of the first; cached."""
        return self._reader.cached(
            table.artifact,
            what,
            lambda: highest(blocks(), MAX_RANKED),
            lambda ranked: ranked[1].nbytes,
        )

    def _difficulty(self, table: pa.RecordBatch | pa.Table, modality: str) -> Float64Array:
        """(n,): NaN if the sample lacks the modality, or if there is only one class."""
        kl = table.column(f"kl_{modality}").to_numpy(zero_copy_only=False)
        if len(self._classes) < 2:
            return np.full(len(kl), np.nan)
        return difficulty(kl, len(self._classes))

    def _score_columns(self, *kinds: str) -> list[str]:
        return [f"{kind}_{name}" for kind in kinds for name in self._modalities]

    def _samples_at(self, rows: Int64Array) -> list[Fields]:
        table = self._samples.take(rows, ["row", "sample_id", "label"])
        return self._described(table, self._samples)

    def _described(self, table: pa.Table, source: Rows) -> list[Fields]:
        """Fields of RankedSample of each row."""
        samples: list[Fields] = table.select(["row", "sample_id", "label"]).to_pylist()
        return [{**row, "class_name": self._class(row["label"], source)} for row in samples]

    def _class(self, label: int, source: Rows) -> str:
        if not 0 <= label < len(self._classes):
            raise DataError(
                f"Damaged file: {source.artifact.path} has class {label}, but the features have"
                f" {len(self._classes)} classes",
                "Create the artifact again",
            )
        return self._classes[label]

    def _label(self, class_name: str | None) -> int | None:
        if class_name is not None and class_name not in self._classes:
            raise MissingError(
                f"Class not in features {self.run.features.name!r}: {class_name!r}",
                f"GET /v1/features/{self.run.features.name} lists the classes",
            )
        return None if class_name is None else self._classes.index(class_name)

    def _check_rows(self, rows: Int64Array, source: Rows) -> Int64Array:
        if len(rows) and not 0 <= rows.min() <= rows.max() < self._num_rows:
            raise DataError(
                f"Damaged file: {source.artifact.path} has rows from {rows.min()} to"
                f" {rows.max()}, but the features have {self._num_rows}",
                "Create the artifact again",
            )
        return rows


def _only(values: Float64Array, labels: Array, label: int | None) -> Float64Array:
    """The values of the rows with a label, NaN elsewhere."""
    return values if label is None else np.where(labels == label, values, np.nan)


def _nullable(values: Array, missing: Array | None = None) -> Sequence[Any]:
    """A list with None in place of missing values, by default of NaN."""
    missing = np.isnan(values) if missing is None else missing
    return [
        None if gone else value
        for value, gone in zip(values.tolist(), missing.tolist(), strict=True)
    ]
