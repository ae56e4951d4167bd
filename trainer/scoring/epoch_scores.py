"""Scores of an epoch: the current model on the train split, divided among ranks."""

import numpy as np
import pyarrow as pa

from pipeline.arrays import Int64Array
from pipeline.counter_rng import Purpose, hashes, key_of, uniform
from pipeline.errors import RemixError
from pipeline.features.feature_set import FeatureSet
from pipeline.scores.build import join_scores, score_rows
from pipeline.storage.arrow_files import column
from trainer.config import RunConfig
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

    Each rank scores every `world.size`-th batch. Rows that are not due keep their last scores.

    Args:
        collector: If given, receives the outputs for a sample of the rows, also if the scores
            exist.
    Returns:
        The epoch whose scores the plan is made from.
    Raises:
        RemixError: a prediction is NaN.
    """
    scored = scored_epoch(config, epoch)
    exist = world.broadcast(run.scores(scored).exists())
    if not exist or (collector and scored == epoch):
        due = due_rows(config, run, scored, rows)
        sample = collector.sample(due, predictor.model) if collector else due
        tables: list[pa.Table] = []
        for batch, outputs, present in predictor.outputs_of(due, config.train.score_batch, world):
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
                [(0, _with_kept(joined, run, previous_epoch(config, scored), rows))],
                features,
                scored,
                {"config": run.digest},
                config.seed,
                accuracy=validation_accuracy(run, features.modalities, scored),
            )
            run.write_scores(scored, complete)
    return scored


def scored_epoch(config: RunConfig, epoch: int) -> int:
    """The epoch whose scores the plan of an epoch is made from."""
    return epoch - (epoch - config.joint_epochs) % config.train.rescore_every


def previous_epoch(config: RunConfig, scored: int) -> int:
    """The epoch that was scored before an epoch that is scored."""
    return scored - config.train.rescore_every


def due_rows(config: RunConfig, run: Run, scored: int, rows: Int64Array) -> Int64Array:
    """Those of the rows (n,) that an epoch scores; all rows in the first one.

    With `rescore_share` s, each row is due once in every block of 1/s scored epochs, at a random
    one that differs between blocks.
    """
    share = config.train.rescore_share
    if share == 1 or not run.scores(previous_epoch(config, scored)).exists():
        return rows
    number = (scored - config.joint_epochs) // config.train.rescore_every
    start, end = number * share, (number + 1) * share  # in blocks
    is_due = np.zeros(len(rows), bool)
    for block in (int(start), int(end)):
        key = key_of(config.seed, block, Purpose.RESCORE)
        turns = block + uniform(hashes(key, rows))
        is_due |= (turns >= start) & (turns < end)
    # a table of scores is made from at least one row
    return rows[is_due] if is_due.any() else rows


def _with_kept(joined: pa.Table, run: Run, previous: int, rows: Int64Array) -> pa.Table:
    """Add the last scores of the rows (n,) that were not scored."""
    kept = np.setdiff1d(rows, column(joined, "row"))
    if not len(kept):
        return joined
    last = run.open_scores(previous).take(kept).table
    return pa.concat_tables([joined, last.select(joined.column_names)]).sort_by("row")


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
