"""Assemble a run's model after training: combine checkpoints, fit readouts, and keep the best."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.arrays import Float64Array, Int64Array
from pipeline.counter_rng import Purpose, hashes, key_of
from pipeline.features.feature_set import FeatureSet
from trainer.assembly.assembled import AssembledPredictor, combine, head_outputs
from trainer.assembly.readout import (
    NUM_FOLDS,
    HeadOutputs,
    Readout,
    candidates,
    choose,
    held_out_losses,
    weighted,
)
from trainer.config import RunConfig
from trainer.data.inputs import Inputs
from trainer.data.part_prefetcher import prefetched_rows
from trainer.models import checkpoint as checkpoints
from trainer.models.checkpoint import Checkpoint, Cursor
from trainer.models.model import FUSED
from trainer.process_group import World
from trainer.run_directory import Run
from trainer.scoring.predictor import Predictor

MAX_BYTES = 2**28
"""Maximum memory of the outputs that readouts are fitted to. Of a larger split, a random sample is
used."""


def assemble(
    config: RunConfig,
    run: Run,
    features: FeatureSet,
    world: World,
    tested: Predictor,
    cursor: Cursor,
) -> tuple[AssembledPredictor, dict[str, Any]]:
    """Fit all readouts and write the best one, with its model, to checkpoints/model.pt.

    Args:
        tested: Predicts with the model of the tested epoch.
        cursor: The run's best epochs.
    Returns:
        A predictor of the assembled model, and its description for run.json.
    """
    collector = _Collector(config, run, features, world)
    best = checkpoints.load(run.checkpoint("best"))
    combined = combine(best, parts_of(run, features.modalities))
    assembled = _predictor(combined, features, tested)
    temperatures = _temperatures(cursor)
    train_rows, train = collector.collect("train", assembled, temperatures)
    rows, own = collector.collect("validation", assembled, temperatures)
    _, other = collector.collect("validation", tested, {})
    fitted = None
    if train and own and other:  # on rank 0
        labels, train_labels = (
            torch.from_numpy(features.labels[x]).long() for x in (rows, train_rows)
        )
        by_kind = candidates(other, own, labels, train, train_labels)
        fitted = choose(by_kind, labels, _folds(config, rows))
    readout, losses = world.broadcast(fitted) or (Readout(kind="fused"), {})
    if readout.uses_parts:
        readout = replace(readout, temperatures=temperatures)
    if world.is_rank_zero:
        _save(config, run, combined if readout.uses_parts else best, readout, cursor)
    description = {
        "readout": readout.kind,
        "epochs": {
            name: part.epoch if readout.uses_parts else cursor.best_epoch
            for name, part in cursor.best_parts.items()
        },
        "weights": readout.weights,
        "validation_loss": losses,
    }
    return AssembledPredictor(assembled if readout.uses_parts else tested, readout), description


def late_losses(
    config: RunConfig,
    run: Run,
    features: FeatureSet,
    world: World,
    like: Predictor,
    checkpoint: Checkpoint,
) -> Float64Array | None:
    """Cross-fitted losses (n,) of validation rows by readout `late` of a run's parts so far.

    Args:
        like: A predictor on the same device.
        checkpoint: The run's last checkpoint.
    Returns:
        The losses, None on other ranks than 0.
    """
    predictor = _predictor(combine(checkpoint, parts_of(run, features.modalities)), features, like)
    collector = _Collector(config, run, features, world)
    temperatures = _temperatures(Cursor.of(checkpoint))
    rows, outputs = collector.collect("validation", predictor, temperatures)
    if outputs is None:
        return None
    labels = torch.from_numpy(features.labels[rows]).long()
    candidate = weighted("late", outputs, labels)
    return held_out_losses(candidate, labels, _folds(config, rows)).numpy()


def parts_of(run: Run, modalities: Sequence[str]) -> dict[str, Checkpoint]:
    """The checkpoints of each modality's best epoch."""
    return {name: checkpoints.load(run.checkpoint(f"best.{name}")) for name in modalities}


def _temperatures(cursor: Cursor) -> dict[str, float]:
    return {name: part.temperature for name, part in cursor.best_parts.items()}


def _folds(config: RunConfig, rows: Int64Array) -> Int64Array:
    hashed = hashes(key_of(config.seed, Purpose.FOLDS), rows)
    return (hashed % np.uint64(NUM_FOLDS)).astype(np.int64)


def _predictor(checkpoint: Checkpoint, features: FeatureSet, like: Predictor) -> Predictor:
    """A predictor of a checkpoint's model, on the device of another one."""
    model = checkpoints.built(checkpoint, features).to(like.device)
    inputs = Inputs(checkpoint["architecture"], 0, like.device)
    return replace(like, model=model, inputs=inputs)


def _save(
    config: RunConfig, run: Run, checkpoint: Checkpoint, readout: Readout, cursor: Cursor
) -> None:
    # the position at the end, wherever the run was resumed
    ended = replace(cursor, step=0, plan_fingerprint="")
    changed = {"cursor": asdict(ended), "readout": readout.state}
    checkpoints.save(run.checkpoint("model"), {**checkpoint, **changed})


@dataclass(frozen=True, slots=True)
class _Collector:
    """Collects a model's outputs for a split, or for a sample of it, on rank 0."""

    config: RunConfig
    run: Run
    features: FeatureSet
    world: World

    def collect(
        self, split: str, predictor: Predictor, temperatures: Mapping[str, float]
    ) -> tuple[Int64Array, HeadOutputs | None]:
        """Rows (n,), ascending, and their outputs, None on other ranks."""
        model, num_classes = predictor.model, len(self.features.classes)
        sizes = [num_classes] * (len(model.modalities) + 1)
        sizes += [model.head(name).in_features for name in model.modalities]
        rows = self._sample(self.features.rows_of(split), sum(sizes))
        tables = [
            _table(predictor, temperatures, batch)
            for _, batch in prefetched_rows(
                self.features, rows, self.config.train.score_batch, self.world
            )
        ]
        joined = self.world.join_rows(self.run.parts("assembly"), tables)
        if joined is None:
            return rows, None
        values = torch.from_numpy(joined["values"].combine_chunks().flatten().to_numpy().copy())
        parts = torch.split(values.view(len(rows), -1).double(), sizes, dim=1)
        names, present = model.modalities, torch.from_numpy(self.features.has[rows])
        return rows, HeadOutputs(
            present={name: present[:, k] for k, name in enumerate(names)},
            log_p=dict(zip([*names, FUSED], parts, strict=False)),
            features=dict(zip(names, parts[len(names) + 1 :], strict=True)),
        )

    def _sample(self, rows: Int64Array, num_values: int) -> Int64Array:
        """At most as many rows as MAX_BYTES allows, the same for each model; ascending."""
        order = np.argsort(hashes(key_of(self.config.seed, Purpose.ASSEMBLY), rows), kind="stable")
        return np.sort(rows[order[: MAX_BYTES // (8 * num_values)]])


def _table(predictor: Predictor, temperatures: Mapping[str, float], rows: Int64Array) -> pa.Table:
    """Table of rows (B,) and their values: log p of all heads, then the features, float32."""
    outputs, present = predictor.evaluate(
        lambda inputs, present: (predictor.model.predict(inputs, present), present), rows
    )
    own = head_outputs(outputs, present, temperatures)
    parts = [own.log_p[name] for name in [*own.features, FUSED]] + [*own.features.values()]
    values = torch.cat(parts, dim=1).float()
    flat = pa.array(values.flatten().numpy())
    lists = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pa.table({"row": rows, "values": lists})
