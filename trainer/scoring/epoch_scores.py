"""Scores of an epoch: the current model on the train split, divided among ranks."""

import numpy as np
import pyarrow as pa

from pipeline.arrays import Int64Array
from pipeline.errors import RemixError
from pipeline.features.feature_set import FeatureSet
from pipeline.scores.build import join_scores, score_rows
from pipeline.storage.arrow_files import column
from trainer.config import RunConfig
from trainer.data.part_prefetcher import prefetched_rows
from trainer.process_group import World
from trainer.run_directory import Run
from trainer.scoring.outputs import Collector
from trainer.scoring.predictor import Predictor
from trainer.scoring.shapley import with_values


def score_epoch(
    config: RunConfig,
    features: FeatureSet,
    run: Run,
    world: World,
    predictor: Predictor,
    epoch: int,
    rows: Int64Array,
    collector: Collector | None = None,
) -> int:
    """Score rows (n,) if the plan of `epoch` needs new scores (`rescore_every`).

    Each rank scores every `world.size`-th batch.

    Args:
        collector: If given, receives the outputs for a sample of the rows, also if the scores
            exist.
    Returns:
        The epoch whose scores the plan is made from.
    Raises:
        RemixError: a prediction is NaN.
    """
    scored = epoch - (epoch - config.joint_epochs) % config.train.rescore_every
    exist = world.broadcast(run.scores(scored).exists())
    if not exist or (collector and scored == epoch):
        sample = collector.sample(rows, predictor.model) if collector else rows
        tables: list[pa.Table] = []
        for _, batch in prefetched_rows(features, rows, config.train.score_batch, world):
            outputs, present = predictor.outputs(batch)
            if collector:
                collector.add(batch, outputs, present, keep=np.isin(batch, sample))
            table = score_rows(features, batch, predictor.probabilities(outputs))
            if config.plan.copies == "resample":
                table = with_values(table, features, batch, predictor)
            tables.append(table)
        joined = world.join_rows(run.parts(f"epoch-{scored:04d}"), tables)
        if joined is not None and not exist:
            _check_finite(joined, features, epoch)
            complete = join_scores(
                [(0, joined)],
                features,
                scored,
                {"config": run.digest},
                config.seed,
                accuracy=validation_accuracy(run, features.modalities, scored),
            )
            run.write_scores(scored, complete)
    return scored


def validation_accuracy(run: Run, modalities: list[str], epoch: int) -> dict[str, float]:
    """Validation accuracy of each unimodal head at the end of the epoch before `epoch`.

    Without modalities that no validation sample has; empty if no epoch has ended.
    """
    if not epoch or not (run.path / "epochs.arrow").exists():
        return {}
    row = run.epochs().slice(epoch - 1, 1).to_pylist()[0]
    return {
        name: row[f"validation_accuracy_{name}"]
        for name in modalities
        if row[f"validation_accuracy_{name}"] is not None
    }


def _check_finite(table: pa.Table, features: FeatureSet, epoch: int) -> None:
    """Raise RemixError if the model predicts NaN, before scores are written."""
    rows = column(table, "row")
    for k, name in enumerate(features.modalities):
        diverged = rows[np.isnan(column(table, f"kl_{name}")) & features.has[rows, k]]
        if len(diverged):
            raise RemixError(
                f"training diverged in epoch {epoch}: the prediction of {name!r} "
                f"for row {diverged[0]} is NaN",
                "lower optimizer.lr or set clip_norm",
            )
