"""Scores by heads that are fitted anew to what the encoders say now, each row by one that has not seen it (`train.scores: cross_fitted`)."""

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import RemixError
from pipeline.features.feature_set import FeatureSet
from pipeline.scores.build import Predict
from trainer.config import RunConfig
from trainer.data.part_prefetcher import fetching
from trainer.process_group import World
from trainer.scoring.lda import Grid, Heads, Statistics, fit, folds_of
from trainer.scoring.predictor import Predictor

Rows = npt.NDArray[np.int64]


def fit_heads(
    config: RunConfig, features: FeatureSet, world: World, predictor: Predictor
) -> Predict:
    """Reads the train split once, each rank its stripe, and returns what predicts its rows, out of fold (raises RemixError where a feature is not finite)."""
    grids = world.broadcast(_grids(config, features, predictor) if world.is_rank_zero else {})
    heads: dict[str, Heads] = {}
    for name, mine in _statistics(config, features, world, predictor, grids).items():
        total = world.sum(torch.from_numpy(mine.values).to(world.device)).cpu().numpy()
        summed = Statistics(len(features.classes), len(grids[name].exponents), total)
        heads[name] = world.broadcast(
            fit(summed) if world.is_rank_zero else Heads(np.empty(0), np.empty(0), np.empty(0))
        )

    def predict(rows: Rows) -> dict[str, npt.NDArray[np.float32]]:
        folds = folds_of(rows, config.seed)
        return {
            name: heads[name](grids[name](x), folds)
            for name, x in _finite(predictor, features, rows).items()
        }

    return predict


def _grids(config: RunConfig, features: FeatureSet, predictor: Predictor) -> dict[str, Grid]:
    """Of each modality, from the first rows that have it."""
    rows, found = features.rows_of("train"), {}
    for k, name in enumerate(features.modalities):
        some = rows[features.has[rows, k]][: config.train.score_batch]
        found[name] = Grid.of(_finite(predictor, features, some if len(some) else rows[:1])[name])
    return found


def _statistics(
    config: RunConfig,
    features: FeatureSet,
    world: World,
    predictor: Predictor,
    grids: dict[str, Grid],
) -> dict[str, Statistics]:
    """Of this rank's batches."""
    found = {
        name: Statistics(len(features.classes), len(grid.exponents)) for name, grid in grids.items()
    }
    for _, batch in fetching(features, features.rows_of("train"), config.train.score_batch, world):
        labels, folds = features.labels[batch], folds_of(batch, config.seed)
        for k, (name, x) in enumerate(_finite(predictor, features, batch).items()):
            has = features.has[batch, k]
            found[name].add(grids[name](x[has]), labels[has], folds[has])
    return found


def _finite(
    predictor: Predictor, features: FeatureSet, rows: Rows
) -> dict[str, npt.NDArray[np.float32]]:
    """(B, D_k) features of each modality, those of the rows that lack it zeros."""
    found = predictor.features(rows)
    for k, (name, x) in enumerate(found.items()):
        has = features.has[rows, k]
        lost = np.flatnonzero(has & ~np.isfinite(x).all(axis=1))
        if len(lost):
            raise RemixError(
                f"the features of {name!r} of row {rows[lost[0]]} are not finite",
                "train has diverged: lower optimizer.lr or set clip_norm",
            )
        found[name] = np.where(has[:, None], x, np.float32(0))
    return found
