"""Check the result of a finished run: its test predictions, accuracies and assembled model."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from pipeline.errors import DataError, MissingError
from pipeline.features.feature_set import FeatureSet
from pipeline.storage.arrow_files import read_table
from pipeline.storage.schemas import check_columns
from pipeline.storage.store_path import StorePath
from trainer.assembly.assembled import combine
from trainer.assembly.readout import Readout
from trainer.models import checkpoint as checkpoints
from trainer.models.checkpoint import Checkpoint, Cursor
from trainer.models.model import FUSED
from trainer.run_directory import Run
from trainer.scoring.metrics import MAX_CONFUSION_CLASSES
from trainer.verification.problems import Problems

Weights = Mapping[str, Tensor | None]
SAMPLE = {"row": pa.int64(), "sample_id": pa.string(), "label": pa.int32()}
"""The columns of test.arrow that identify the tested samples."""


@dataclass(frozen=True, slots=True)
class ResultCheck:
    """Compares the result in run.json with what it was made from."""

    run: Run
    features: FeatureSet
    problems: Problems

    def check(self, result: object, last: Cursor | None, *, assembled: bool) -> None:
        """Check everything.

        Args:
            result: As recorded in run.json.
            last: Cursor of the last checkpoint; None if it cannot be read.
            assembled: Whether the run assembles a model.
        """
        expected: dict[str, Any] = {"best_epoch": last.best_epoch} if last else {}
        expected |= self._accuracies(assembled)
        if assembled:
            expected["assembled"] = {**expected.get("assembled", {}), **self._assembled(last)}
        path = self.run.path / "run.json"
        self.problems.expect(path, "run", {"result": result}, {"result": expected})
        with self.problems.reading(path):
            if assembled and isinstance(result, Mapping):
                losses = result["assembled"]["validation_loss"]
                best = {"readout": min(losses, key=losses.__getitem__)}
                self.problems.expect(path, "run.result.assembled", result["assembled"], best)

    def _accuracies(self, assembled: bool) -> dict[str, Any]:
        """Check the rows of test.arrow; return the accuracies of its predictions."""
        names, path = self.features.modalities, self.run.path / "test.arrow"
        own = {head: f"predicted_{head}" for head in (FUSED, *names)}
        others = {name: f"predicted_assembled_{name}" for name in names} if assembled else {}
        others |= {FUSED: "predicted_assembled"} if assembled else {}
        predicted = dict.fromkeys([*own.values(), *others.values()], pa.int32())
        kinds = ("p_label", "p_predicted")
        p = {
            column.replace("predicted", kind, 1): pa.float32()
            for column in predicted
            for kind in kinds
        }
        with self.problems.reading(path):
            table = read_table(path, trusted=False)
            check_columns(table.schema, pa.schema({**SAMPLE, **predicted, **p}), str(path))
            samples = self.features.samples
            tested = samples.select([*SAMPLE]).filter(pc.equal(samples["split"], "test"))
            if not table.select([*SAMPLE]).equals(tested):
                raise DataError(
                    f"{path}: rows, ids or labels differ from those of the split 'test'",
                    "restore the file",
                )
            self._check_confidences(path, table, list(predicted))
            result: dict[str, Any] = self._counts(table, own)
            if assembled:
                result["assembled"] = self._counts(table, others)
            return result
        return {}

    def _check_confidences(self, path: StorePath, table: pa.Table, columns: list[str]) -> None:
        """Report a probability of the predicted class that contradicts that of the label."""
        has, labels = self.features.has[table["row"].to_numpy()], table["label"].to_numpy()
        for column in columns:
            p_predicted, p_label = (
                table[column.replace("predicted", kind, 1)].to_numpy()
                for kind in ("p_predicted", "p_label")
            )
            name = column.removeprefix("predicted_").removeprefix("assembled_")
            names = self.features.modalities
            present = has[:, names.index(name)] if name in names else np.full(len(labels), True)
            right = table[column].to_numpy() == labels
            fits = np.where(right, p_predicted == p_label, p_predicted >= p_label)
            fits = np.where(present, fits & (p_predicted <= 1), np.isnan(p_predicted))
            for row in np.flatnonzero(~fits)[:1]:
                what = column.replace("predicted", "p_predicted", 1)
                self.problems.add(path, f"{what} of row {row} is {p_predicted[row]}", what)

    def _counts(self, table: pa.Table, columns: Mapping[str, str]) -> dict[str, Any]:
        """Accuracy and confusion matrix by head over the rows that have its modality.

        Without rows, the accuracy is None.
        """
        has, num = self.features.has[table["row"].to_numpy()], len(self.features.classes)
        accuracy: dict[str, float | None] = {}
        confusion: dict[str, list[list[int]]] = {}
        for head, column in columns.items():
            predicted, labels = table[column].to_numpy(), table["label"].to_numpy()
            if head != FUSED:
                present = has[:, self.features.modalities.index(head)]
                predicted, labels = predicted[present], labels[present]
            accuracy[head] = float(np.mean(predicted == labels)) if len(labels) else None
            if len(labels) and num <= MAX_CONFUSION_CLASSES:
                # the accuracy reports a prediction that is no class
                within = predicted.clip(0, num - 1)
                counts = np.bincount(labels * num + within, minlength=num * num)
                confusion[head] = counts.reshape(num, num).tolist()
        return {"test_accuracy": accuracy} | ({"confusion": confusion} if confusion else {})

    def _assembled(self, last: Cursor | None) -> dict[str, Any]:
        """Check the assembled model; return its description for run.json."""
        path = self.run.checkpoint("model")
        with self.problems.reading(path):
            model = checkpoints.load(path)
            last = last or Cursor.of(model)
            readout = Readout.of(model["readout"])
            with suppress(DataError, MissingError):  # verify has reported the other checkpoints'
                self._check_model(model, self._complete(last, readout))
            parts = last.best_parts.items()
            known = {name: part.temperature for name, part in parts if readout.uses_parts}
            self.problems.expect(path, "the temperatures", readout.temperatures, known)
            epochs = {
                name: part.epoch if readout.uses_parts else last.best_epoch for name, part in parts
            }
            return {"readout": readout.kind, "weights": readout.weights, "epochs": epochs}
        return {}

    def _complete(self, last: Cursor, readout: Readout) -> Checkpoint:
        """The checkpoint of the model that a readout reads."""
        best, parts = checkpoints.load(self.run.checkpoint("best")), {}
        for name, part in last.best_parts.items():
            path = self.run.checkpoint(f"best.{name}")
            parts[name] = checkpoints.load(path)
            if part.epoch == last.best_epoch:
                own = {key: best["model"].get(key) for key in parts[name]["model"]}
                self._check_weights(path, parts[name]["model"], own)
        complete = combine(best, parts) if readout.uses_parts else best
        return {**complete, "cursor": asdict(last)}

    def _check_model(self, model: Checkpoint, complete: Checkpoint) -> None:
        path = self.run.checkpoint("model")
        known = {key: value for key, value in complete.items() if key != "model"}
        self.problems.expect(path, "checkpoint", model, known)
        self._check_weights(path, model["model"], complete["model"])

    def _check_weights(self, path: StorePath, weights: Weights, expected: Weights) -> None:
        for name in {**expected, **weights}:
            if not _same(weights.get(name), expected.get(name)):
                what = f"weights {name!r} differ from those of the best epochs' checkpoints"
                self.problems.add(path, what, "weights")


def _same(first: Tensor | None, second: Tensor | None) -> bool:
    """Whether two tensors are equal to the bit."""
    if first is None or second is None or first.dtype != second.dtype:
        return False
    equal: bool = np.array_equal(first.numpy(), second.numpy(), equal_nan=True)
    return equal
