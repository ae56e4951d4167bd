"""Assemble a run's model after training: combine checkpoints, fit readouts, and keep the best."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from pipeline.arrays import Float64Array, Int64Array
from pipeline.counter_rng import Purpose, hashes, key_of
from pipeline.features.feature_set import FeatureSet
from trainer.assembly.assembled import AssembledPredictor, combine
from trainer.assembly.readout import (
    NUM_FOLDS,
    Readout,
    candidates,
    choose,
    held_out_losses,
    weighted,
)
from trainer.config import RunConfig
from trainer.data.inputs import Inputs
from trainer.models import checkpoint as checkpoints
from trainer.models.checkpoint import Checkpoint, Cursor
from trainer.process_group import World
from trainer.run_directory import Run
from trainer.scoring.outputs import Collector
from trainer.scoring.predictor import Predictor


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
    collector = Collector(config, run, features, world)
    best = checkpoints.load(run.checkpoint("best"))
    combined = combine(best, parts_of(run, features.modalities))
    assembled = _predictor(combined, features, tested)
    temperatures = _temperatures(cursor)
    train_rows, train = collector.collect("train", assembled, temperatures)
    rows, own = collector.collect("validation", assembled, temperatures)
    _, other = collector.collect("validation", tested)
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
        _save(run, combined if readout.uses_parts else best, readout, cursor)
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
    collector = Collector(config, run, features, world)
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
    inputs = Inputs(checkpoint["architecture"], 0, like.device, features.encoded)
    return replace(like, model=model, inputs=inputs)


def _save(run: Run, checkpoint: Checkpoint, readout: Readout, cursor: Cursor) -> None:
    # the position at the end, wherever the run was resumed
    ended = replace(cursor, step=0, plan_fingerprint="")
    changed = {"cursor": asdict(ended), "readout": readout.state}
    checkpoints.save(run.checkpoint("model"), {**checkpoint, **changed})
