"""The scores of an epoch: the live model on the training split, each rank its stripe."""

import numpy as np
import pyarrow as pa

from pipeline.errors import RemixError
from pipeline.features.feature_set import FeatureSet
from pipeline.scores.build import join_scores, score_rows
from pipeline.storage.arrow_files import column
from trainer.config import RunConfig
from trainer.data.part_prefetcher import fetching
from trainer.process_group import World
from trainer.run_directory import Run
from trainer.scoring.cross_fitting import fit_heads
from trainer.scoring.predictor import Predictor
from trainer.scoring.shapley import with_values


def score_epoch(
    config: RunConfig,
    features: FeatureSet,
    run: Run,
    world: World,
    predictor: Predictor,
    epoch: int,
) -> int:
    """The epoch whose scores the plan of `epoch` is made from, and which are written now if need be.

    It is the last one that was to be scored (`rescore_every`); each rank scores its stripe.
    """
    scored = epoch - (epoch - config.train.warmup_epochs) % config.train.rescore_every
    if not world.broadcast(run.scores(scored).exists()):
        rows = features.rows_of("train")
        predict = (
            fit_heads(config, features, world, predictor)
            if config.train.scores == "cross_fitted"
            else predictor
        )
        mine: list[pa.Table] = []
        for _, batch in fetching(features, rows, config.train.score_batch, world):
            table = score_rows(features, batch, predict(batch))
            if config.plan.copies == "resample":
                table = with_values(table, features, batch, predictor)
            mine.append(table)
        joined = world.join_rows(run.parts(f"epoch-{scored:04d}"), mine)
        if joined is not None:
            _check_finite(joined, features, epoch)
            run.write_scores(scored, _complete(joined, config, features, run, scored))
    return scored


def _complete(
    table: pa.Table, config: RunConfig, features: FeatureSet, run: Run, epoch: int
) -> pa.Table:
    """The scores of an epoch, with what the epochs before it add to them: validation accuracies, and smoothed scores."""
    last, smoothing = epoch - config.train.rescore_every, config.plan.smoothing
    smoothed = smoothing and last >= config.train.warmup_epochs
    previous = run.open_scores(last) if smoothed else None
    return join_scores(
        [(0, table)],
        features,
        epoch,
        {"config": run.digest},
        config.seed,
        accuracy=validation_accuracy(run, features.modalities, epoch),
        smoothing=smoothing,
        previous=previous,
    )


def validation_accuracy(run: Run, modalities: list[str], epoch: int) -> dict[str, float]:
    """The unimodal heads' at the end of the epoch before, of the modalities that validation samples have; none where no epoch has ended."""
    if not epoch or not (run.path / "epochs.arrow").exists():
        return {}
    row = run.epochs().slice(epoch - 1, 1).to_pylist()[0]
    return {
        name: row[f"validation_accuracy_{name}"]
        for name in modalities
        if row[f"validation_accuracy_{name}"] is not None
    }


def _check_finite(table: pa.Table, features: FeatureSet, epoch: int) -> None:
    """Raises RemixError where the model predicts NaN: nothing can be planned from that, and nothing is written."""
    rows = column(table, "row")
    for k, name in enumerate(features.modalities):
        lost = rows[np.isnan(column(table, f"kl_{name}")) & features.has[rows, k]]
        if len(lost):
            raise RemixError(
                f"epoch {epoch}: the model's prediction of {name!r} for row {lost[0]} is NaN",
                "train has diverged: lower optimizer.lr or set clip_norm",
            )
